"""`meshca audit`: the issuance record."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer
from rich.table import Table

from meshca.cli.entry_file import timestamp
from meshca.cli.exits import Exit, Failure
from meshca.cli.options import AdminSocket, Format, Output
from meshca.cli.output import document, emit, emit_event, facts, remark, rows
from meshca.cli.session import ask
from meshca.cli.values import past
from meshca.client import AdminClient
from meshca.clock import SystemClock
from meshca.model import AuditKind
from meshca.proto import admin_pb2 as pb

app = typer.Typer(no_args_is_help=True, add_completion=False)

_SHOWN = 16
_ID = re.compile(r"\b([0-9a-f]{8})(?:[0-9a-f]{8}|[0-9a-f]{32}|[0-9a-f]{56}|-[0-9a-f-]{27})\b")


@app.command()
def find(
    *,
    serial: Annotated[str | None, typer.Option(help="Serial number in hex; colons are allowed.")] = None,
    spiffe_id: Annotated[str | None, typer.Option("--spiffe-id", help="Only records of this SPIFFE ID.")] = None,
    since: Annotated[str | None, typer.Option(help="A time, or a duration back from now, such as 2h.")] = None,
    kind: Annotated[AuditKind | None, typer.Option(help="Only records of this kind.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many, newest first.")] = 100,
    socket: AdminSocket = "",
    output: Output = Format.TABLE,
) -> None:
    """Find records, newest first. The table shortens ids; --output json has all of each.

    That there are none is an answer, and exit 0; with --serial, which asks for certain ones, it is exit 3.
    """
    request = pb.FindRequest(
        serial=serial or "",
        spiffe_id=spiffe_id or "",
        since=timestamp(past(since, SystemClock().now())) if since else None,
        kind=kind or "",
        limit=limit,
    )
    found: pb.AuditRecordList = ask(socket, lambda server: server.audit.Find(request))
    if found.records or output is not Format.TABLE:
        emit(document(found), output, lambda: _table(found))
    if found.records:
        return
    if serial:
        raise Failure(Exit.NOT_FOUND, f"no record of serial number {serial} matches")
    remark("no record matches")


@app.command()
def verify(
    *,
    head: Annotated[str, typer.Option(help="A head that you kept (writer:sequence:hash): finds truncation, too.")] = "",
    socket: AdminSocket = "",
    output: Output = Format.TABLE,
) -> None:
    """Check the hash chain of the whole record; exit 1 if a record was changed or is missing."""
    request = pb.VerifyAuditRequest(head=head)
    verdict: pb.VerifyAuditResponse = ask(socket, lambda server: server.audit.Verify(request), within=None)
    emit(document(verdict), output, lambda: facts([("intact records", verdict.records), ("head", verdict.head)]))


@app.command()
def export(*, socket: AdminSocket = "") -> None:
    """Print all records, oldest first, one JSON object a line."""

    async def work(server: AdminClient) -> None:
        async for each in server.audit.Export(pb.Empty()):
            emit_event(document(each), Format.JSON, "")

    ask(socket, work, within=None)


@app.command()
def prune(
    *,
    before: Annotated[str, typer.Option(help="A time, or a duration back from now, such as 90d.")],
    socket: AdminSocket = "",
    output: Output = Format.TABLE,
) -> None:
    """Remove old records, and leave a signed anchor in their place."""
    request = pb.PruneRequest(before=timestamp(past(before, SystemClock().now())))
    outcome: pb.PruneResponse = ask(socket, lambda server: server.audit.Prune(request), within=None)
    emit(document(outcome), output, lambda: facts([("removed", outcome.removed), ("anchor", outcome.anchor)]))


def _table(found: pb.AuditRecordList) -> Table:
    return rows(
        ["AT", "RECORD", "KIND", "WHAT"],
        ((each.at, f"{each.writer}:{each.sequence}", each.kind, _gist(each)) for each in found.records),
    )


def _gist(record: pb.AuditRecord) -> str:
    """What the record says in one line: ids shortened, and without what is empty or false."""
    serial = f"serial={record.serial[:_SHOWN]}" if record.serial else ""
    return " ".join(filter(None, [record.spiffe_id, serial, *_members(record)]))


def _members(record: pb.AuditRecord) -> Iterator[str]:
    """What the record's body says beyond its fields."""
    try:
        members = json.loads(record.body)
    except (ValueError, RecursionError):
        members = None
    if not isinstance(members, dict):
        yield record.body
        return
    for name, value in _flat(members):
        if _is_shown(value) and value not in (record.serial, record.spiffe_id):
            yield f"{name}={_brief(value)}"


def _is_shown(value: object) -> bool:
    return value is not False and value not in ("", []) and isinstance(value, str | int | list)


def _flat(members: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """The members, and by their path those in which an entry's `old` and `new` differ."""
    old, new = (found if isinstance(found := members.get(each), dict) else {} for each in ("old", "new"))
    yield from ((name, value) for name, value in members.items() if name not in {"old", "new"})
    yield from ((f"old.{name}", value) for name, value in old.items() if new.get(name) != value)
    yield from ((f"new.{name}", value) for name, value in new.items() if old.get(name) != value)


def _brief(value: object) -> str:
    """A value without what a table has no room for: ids by their first digits, issuers without the trust domain."""
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return _ID.sub(r"\1", text).partition(",O=")[0].removeprefix("CN=")
