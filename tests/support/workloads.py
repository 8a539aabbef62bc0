"""Workload sockets served for a test, in front of a scripted Provider, and raw gRPC channels to them."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from sds.gate import Gate
from sds.listen import serve_workloads
from sds.observe import Service
from sds.unix_socket import SocketSpec
from tests.support.clock import FakeClock
from tests.support.grants import ScriptedProvider
from tests.support.pki import NOW

HEADER = (("workload.spiffe.io", "true"),)


@dataclass(slots=True)
class Counts:
    """An Observer that counts by event."""

    counts: dict[str, int] = field(default_factory=dict)
    latencies: list[float] = field(default_factory=list)

    def __getitem__(self, event: str) -> int:
        return self.counts.get(event, 0)

    def _count(self, event: str, service: str) -> None:
        self.counts[f"{service} {event}"] = self[f"{service} {event}"] + 1

    def stream_opened(self, service: Service) -> None:
        self._count("opened", service)

    def stream_closed(self, service: Service) -> None:
        self._count("closed", service)

    def pushed(self, service: Service) -> None:
        self._count("pushed", service)

    def acked(self, service: Service, seconds: float) -> None:
        self._count("acked", service)
        self.latencies.append(seconds)

    def nacked(self, service: Service) -> None:
        self._count("nacked", service)

    def denied(self, service: Service) -> None:
        self._count("denied", service)

    def connection_shed(self) -> None:
        self._count("shed", "gate")


@dataclass(slots=True, kw_only=True)
class Workloads:
    """What is served, and the levers behind it."""

    path: Path
    provider: ScriptedProvider
    gate: Gate
    clock: FakeClock
    counts: Counts

    @asynccontextmanager
    async def channel(self, **options: int) -> AsyncIterator[grpc.aio.Channel]:
        """A connection of its own."""
        arguments = [("grpc.use_local_subchannel_pool", 1), *options.items()]
        async with grpc.aio.insecure_channel(f"unix:{self.path}", options=arguments) as channel:
            yield channel


@asynccontextmanager
async def serving(
    directory: Path, provider: ScriptedProvider | None = None, names: Sequence[str] = ("workload",), **settings: Any
) -> AsyncIterator[Workloads]:
    """Serve `directory`/NAME for each name. `settings`: see serve_workloads()."""
    provider, clock, counts = provider or ScriptedProvider(), FakeClock(NOW), Counts()
    sockets = [SocketSpec(name=name, path=directory / name) for name in names]
    async with serve_workloads(sockets=sockets, provider=provider, now=clock.now, observer=counts, **settings) as gate:
        yield Workloads(path=sockets[0].path, provider=provider, gate=gate, clock=clock, counts=counts)
