"""Who gets a stream, and for how long: for as long as what it showed leads to an authority that we trust.

Rules:
- A stream is judged when it opens, and again at each new bundle: who stole the key of an authority that was revoked is out at once. A
  stream whose chain still leads to an authority of the bundle goes on, so the steps of a rotation end none before the old root goes.
- A certificate is good for so many streams: what one key can occupy is bounded, and processes that share it fit.
- One is judged after the other, and others have their turn between: a fleet takes its time, but not all of the time.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import datetime
from typing import Any, Literal
from urllib.parse import unquote

from grpc.aio import ServicerContext

from meshca.router.identity import Credentials, Evidence, Peer, identify, judge
from sds.errors import Unauthenticated
from sds.watch import Latest
from sds.xds.server import Unavailable

MOST_STREAMS = 64
"""Of one kind with one certificate. A proxy has a certificate of its own, and one stream."""

Reason = Literal["unauthenticated", "distrusted", "too_many"]
"""Why a stream was refused: its certificate proves nothing; it does no longer, so the stream was ended; it has streams enough."""

logger = logging.getLogger(__name__)


def evidence(context: ServicerContext[Any, Any]) -> Evidence:
    """What a client showed in TLS."""
    return {key: list(values) for key, values in context.auth_context().items()}


class Admission:
    """Of streams of one kind. `refused` counts those that it refused, by reason."""

    def __init__(
        self,
        *,
        credentials: Latest[Credentials | None],
        now: Callable[[], datetime],
        evidence: Callable[[ServicerContext[Any, Any]], Evidence] = evidence,
    ) -> None:
        self._credentials = credentials
        self._now = now
        self._evidence = evidence
        self._open: Counter[int] = Counter()
        self._turn = asyncio.Lock()
        self.refused: Counter[Reason] = Counter()

    @asynccontextmanager
    async def admitted(self, context: ServicerContext[Any, Any]) -> AsyncIterator[Peer]:
        """Who is at the other end, while the context is open.

        Raises Unavailable, and Unauthenticated: at the start, or later, in a group of exceptions, when the body is cancelled for it.
        """
        peer = self._identified(context)
        with self._one_more(peer):
            async with asyncio.TaskGroup() as tasks:
                watching = tasks.create_task(self._watch(peer), name="trust in a peer")
                yield peer
                watching.cancel()

    def _identified(self, context: ServicerContext[Any, Any]) -> Peer:
        try:
            peer = identify(self._evidence(context), self._credentials.value, self._now())
        except Unauthenticated:
            self.refused["unauthenticated"] += 1
            raise
        return replace(peer, dials_from=_far_end(context.peer()))

    @contextmanager
    def _one_more(self, peer: Peer) -> Iterator[None]:
        if self._open[peer.serial] >= MOST_STREAMS:
            self.refused["too_many"] += 1
            raise Unavailable(f"{MOST_STREAMS} streams are open with this certificate")
        self._open[peer.serial] += 1
        try:
            yield
        finally:
            self._open[peer.serial] -= 1
            self._open += Counter()  # keeps what is more than nothing

    async def _watch(self, peer: Peer) -> None:
        """Judge the peer by each new bundle. Raises Unauthenticated."""
        judged_by = peer.bundles
        async for credentials in self._credentials.watch():
            if credentials is not None and credentials.bundles != judged_by:
                async with self._turn:
                    await asyncio.sleep(0)
                    self._judge(peer, credentials)
                judged_by = credentials.bundles

    def _judge(self, peer: Peer, credentials: Credentials) -> None:
        try:
            judge(peer, credentials, self._now())
        except Unauthenticated as error:
            self.refused["distrusted"] += 1
            extra = {"spiffe_id": str(peer.spiffe_id), "serial": f"{peer.serial:x}", "reason": str(error)}
            logger.warning("stream ended, its authority is not trusted any more", extra=extra)
            raise


def _far_end(peer: str) -> str:
    """IP:PORT of what gRPC writes as a URI: `ipv4:127.0.0.1:40000`, `ipv6:%5B::1%5D:40000`."""
    return unquote(peer.partition(":")[2])
