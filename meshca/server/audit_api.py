"""The issuance record over the admin API."""

from collections.abc import AsyncIterator
from typing import Any

from meshca.authority.recorder import Recorder
from meshca.authority.rotation import Rotation
from meshca.errors import InvalidInput
from meshca.model import AuditKind, AuditQuery
from meshca.ports import AuditLog
from meshca.proto import admin_pb2 as pb
from meshca.proto import admin_pb2_grpc as rpc
from meshca.server.convert import parsed, record_message, when
from meshca.server.wish import Asked
from spiffe.id import SpiffeID

DEFAULT_LIMIT = 100
MOST_FOUND = 10_000
"""Of one question: an answer is one message."""
PAGE = 1000


class AuditAPI(rpc.AuditServicer):
    """The Audit service."""

    def __init__(self, *, log: AuditLog, record: Recorder, rotation: Rotation, asked: Asked) -> None:
        self._log = log
        self._record = record
        self._rotation = rotation
        self._asked = asked

    async def Find(self, request: pb.FindRequest, context: Any) -> pb.AuditRecordList:  # noqa: N802, ARG002 - the proto names it
        """The records that fit, newest first."""
        found = await self._log.find(_query(request))
        return pb.AuditRecordList(records=map(record_message, found))

    async def Verify(self, request: pb.VerifyAuditRequest, context: Any) -> pb.VerifyAuditResponse:  # noqa: N802, ARG002 - same
        """Read the whole chain; what does not fit is a refusal that names the record."""
        count = await self._record.verify_all(request.head)
        return pb.VerifyAuditResponse(records=count, head=self._record.head)

    async def Export(self, request: pb.Empty, context: Any) -> AsyncIterator[pb.AuditRecord]:  # noqa: N802, ARG002 - same
        """All records of this writer, in order."""
        after = 0
        while page := await self._log.read(self._record.writer, after, PAGE):
            for record in page:
                yield record_message(record)
            after = page[-1].sequence

    async def Prune(self, request: pb.PruneRequest, context: Any) -> pb.PruneResponse:  # noqa: N802 - same
        """Remove records from before a time; a signed anchor stays."""
        async with self._asked("audit.prune", context) as wish:
            before = when(request, "before")
            if before is None:
                raise InvalidInput("prune needs a time: records from before it are removed")
            await wish.record(before=before.isoformat())
            removed, anchor = await self._rotation.prune_record(before)
        return pb.PruneResponse(removed=removed, anchor=anchor)


def _query(request: pb.FindRequest) -> AuditQuery:
    if request.limit > MOST_FOUND:
        raise InvalidInput(
            f"limit {request.limit} is above {MOST_FOUND}: narrow the question, or export the whole record"
        )
    return AuditQuery(
        serial=_serial(request.serial) if request.serial else None,
        spiffe_id=parsed(SpiffeID.parse, request.spiffe_id, "spiffe_id") if request.spiffe_id else None,
        since=when(request, "since"),
        kind=parsed(AuditKind, request.kind, "kind") if request.kind else None,
        limit=request.limit or DEFAULT_LIMIT,
    )


def _serial(text: str) -> int:
    try:
        return int(text.replace(":", ""), 16)
    except ValueError as error:
        raise InvalidInput(f"{text[:80]!r} is not a serial number in hex, such as 5ac140fc369c242c") from error
