"""A workload that keeps its stream open, and notes whatever would betray a step that the CA took too early."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from meshca.clock import SystemClock
from sds.endpoint import Endpoint
from sds.workload_client import WorkloadClient, X509Context
from spiffe.x509svid import X509SVID
from spiffe.x509verify import verify
from tests.support.wait import until


@dataclass
class Witness:
    """What it was given, in order. It comes back after each restart of the server."""

    contexts: list[X509Context] = field(default_factory=list)
    denials: list[str] = field(default_factory=list)

    @property
    def svid(self) -> X509SVID:
        """What it uses now."""
        return self.contexts[-1].identities[0].svid

    async def watch(self, socket: Path) -> None:
        """Take each message. Whatever is new must hold by the bundle that we had before. Raises VerificationFailed."""
        async for context in WorkloadClient(Endpoint.at(socket)).x509_contexts():
            if context.denied:
                self.denials.append(context.denied)
                continue
            known = self.contexts[-1] if self.contexts else context
            if context.identities[0].svid.chain != known.identities[0].svid.chain:
                verify(context.identities[0].svid.chain, known.bundles, SystemClock().now())
            self.contexts.append(context)


@asynccontextmanager
async def witness(socket: Path) -> AsyncIterator[Witness]:
    """A witness at a workload socket; it has its first SVID. Raises what it could not accept when the context ends."""
    seen = Witness()
    task = asyncio.create_task(seen.watch(socket))
    try:
        await until(lambda: seen.contexts or task.done())
        yield seen
    finally:
        task.cancel()
        (error,) = await asyncio.gather(task, return_exceptions=True)
        assert isinstance(error, asyncio.CancelledError), error
