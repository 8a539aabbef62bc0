"""How the server is, why a process gets what it gets, and a copy of the store, over the admin API."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, BinaryIO

from meshca.authority.holders import Ledger
from meshca.authority.recorder import Recorder
from meshca.authority.rotation import Rotation
from meshca.ports import Clock
from meshca.proto import admin_pb2 as pb
from meshca.proto import admin_pb2_grpc as rpc
from meshca.server.authority_api import AuthorityAPI
from meshca.server.convert import bundle_message, holder_message, timestamp
from meshca.server.readiness import Readiness
from meshca.server.registry import Registry
from meshca.server.wish import Asked

# Why a process gets what it gets; the agent knows. Raises NotFound when there is no such process.
Explain = Callable[[int], Awaitable[pb.WhyResponse]]
# Makes a copy of the store, to be read and closed.
Backup = Callable[[], Awaitable[BinaryIO]]

PART_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Whatever the status is composed of."""

    version: str
    started_at: datetime
    sockets: Mapping[str, str]
    streams: Callable[[], int]
    registry: Registry
    rotation: Rotation
    alarms: Callable[[datetime], Sequence[str]]
    ledger: Ledger
    record: Recorder
    readiness: Readiness
    authorities: AuthorityAPI


class StatusAPI(rpc.StatusServicer):
    """The Status service."""

    def __init__(self, *, sources: Sources, explain: Explain, backup: Backup, asked: Asked, clock: Clock) -> None:
        self._of = sources
        self._explain = explain
        self._backup = backup
        self._asked = asked
        self._clock = clock

    async def Status(self, request: pb.Empty, context: Any) -> pb.StatusResponse:  # noqa: N802, ARG002 - the proto names it
        """Everything that a person at 3 a.m. asks first."""
        of, now = self._of, self._clock.now()
        ready, text = of.readiness.check()
        bundle = of.rotation.slots.bundle
        return pb.StatusResponse(
            trust_domain=str(of.registry.trust_domain),
            version=of.version,
            started_at=timestamp(of.started_at),
            ready=ready,
            alarms=of.alarms(now),
            authorities=of.authorities.messages(),
            bundle=bundle_message(bundle),
            behind=map(holder_message, of.ledger.behind(bundle.digest, now)),
            holders=len(of.ledger.names()),
            entries=len(of.registry.entries),
            streams=of.streams(),
            audit_head=of.record.head,
            sockets=of.sockets,
            checks=[pb.HealthCheck(name="signing", healthy=ready, text=text)],
        )

    async def Why(self, request: pb.WhyRequest, context: Any) -> pb.WhyResponse:  # noqa: N802, ARG002 - same
        """What the gate saw of a process, which entries match, and what the nearest ones lack."""
        return await self._explain(request.pid)

    async def Backup(self, request: pb.Empty, context: Any) -> AsyncIterator[pb.BackupPart]:  # noqa: N802, ARG002 - same
        """A consistent copy of the store, in parts."""
        async with self._asked("store.backup", context) as wish:
            await wish.record()
            with await self._backup() as copy:
                while content := copy.read(PART_BYTES):
                    yield pb.BackupPart(content=content)
