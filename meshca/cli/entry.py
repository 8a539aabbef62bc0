"""`meshca entry`: registration entries, one by one or as a file."""

import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from meshca.cli.entry_file import duration, read_entries, timestamp
from meshca.cli.options import AdminSocket, Format, Output
from meshca.cli.output import document, emit, facts, remark, rows
from meshca.cli.session import ask
from meshca.cli.values import future
from meshca.client import AdminClient
from meshca.clock import SystemClock
from meshca.errors import InvalidInput, NotFound
from meshca.matching import OF_THE_PROGRAM, kind
from meshca.model import Selector
from meshca.proto import admin_pb2 as pb

app = typer.Typer(no_args_is_help=True, add_completion=False)

DEFAULT_SOURCE = "apply"
_SOCKET = "socket:"

EntryID = Annotated[str, typer.Argument(metavar="ID", help="The entry's id.")]
SpiffeID = Annotated[
    str | None, typer.Option("--spiffe-id", help="The SPIFFE ID, in full: spiffe://trust-domain/path.")
]
Selectors = Annotated[
    list[str] | None, typer.Option("--selector", help="type:value, such as unix:uid:1000 (repeatable).")
]
TTL = Annotated[str | None, typer.Option("--ttl", help="Lifetime of its SVIDs, such as 1h; else the server's default.")]
DNS = Annotated[
    list[str] | None,
    typer.Option(
        "--dns",
        help="DNS name in its SVIDs (repeatable). What ends in meshca.internal or meshca.localhost is reserved.",
    ),
]
Hint = Annotated[str | None, typer.Option("--hint", help="What the workload is told this SVID is for.")]
Default = Annotated[bool | None, typer.Option("--default/--no-default", help="Comes first where a caller has several.")]
FederatesWith = Annotated[
    list[str] | None, typer.Option("--federates-with", help="Trust domain whose bundle it gets, too.")
]
Expires = Annotated[str | None, typer.Option("--expires", help="When it ends: a time, or a duration from now.")]
Source = Annotated[str | None, typer.Option("--source", help="Who keeps this entry, for `entry apply --prune`.")]


@app.command()
def create(
    *,
    spiffe_id: Annotated[
        str,
        typer.Option(
            "--spiffe-id",
            help="The SPIFFE ID, in full: spiffe://trust-domain/path. Paths below /meshca are reserved, but for /meshca/router.",
        ),
    ],
    selector: Annotated[list[str], typer.Option(help="type:value, such as unix:uid:1000 (repeatable; all must fit).")],
    ttl: TTL = None,
    dns: DNS = None,
    hint: Hint = None,
    default: Default = None,
    federates_with: FederatesWith = None,
    expires: Expires = None,
    entry_id: Annotated[str | None, typer.Option("--id", help="Its id; else the server makes one.")] = None,
    source: Source = None,
    socket: AdminSocket = "",
    output: Output = Format.TABLE,
) -> None:
    """Make an entry: callers with all these selectors get this SPIFFE ID."""
    entry, _ = _entry(
        spiffe_id=spiffe_id,
        selectors=selector,
        ttl=ttl,
        dns_names=dns,
        hint=hint,
        default=default,
        federates_with=federates_with,
        expires_at=expires,
        source=source,
    )
    entry.id = entry_id or ""
    _show(_told(socket, lambda server: server.entries.Create(pb.CreateEntryRequest(entry=entry))), output)


@app.command()
def update(
    entry_id: EntryID,
    *,
    spiffe_id: SpiffeID = None,
    selector: Selectors = None,
    ttl: TTL = None,
    dns: DNS = None,
    hint: Hint = None,
    default: Default = None,
    federates_with: FederatesWith = None,
    expires: Expires = None,
    source: Source = None,
    socket: AdminSocket = "",
    output: Output = Format.TABLE,
) -> None:
    """Change the named fields of an entry. An empty value takes a field away (`--ttl ''`); lists are replaced whole."""
    entry, fields = _entry(
        spiffe_id=spiffe_id,
        selectors=selector,
        ttl=ttl,
        dns_names=dns,
        hint=hint,
        default=default,
        federates_with=federates_with,
        expires_at=expires,
        source=source,
    )
    if not fields:
        raise InvalidInput("nothing to change: name at least one field, such as --ttl 30m")
    entry.id = entry_id
    request = pb.UpdateEntryRequest(entry=entry, fields=fields)
    _show(_told(socket, lambda server: server.entries.Update(request)), output)


@app.command()
def show(entry_id: EntryID, *, socket: AdminSocket = "", output: Output = Format.TABLE) -> None:
    """Show one entry."""
    _show(ask(socket, lambda server: server.entries.Get(pb.EntryID(id=entry_id))), output)


@app.command("list")
def list_(
    *,
    spiffe_id: SpiffeID = None,
    selector: Annotated[str | None, typer.Option(help="Only entries with this selector.")] = None,
    source: Source = None,
    socket: AdminSocket = "",
    output: Output = Format.TABLE,
) -> None:
    """List entries, all or some."""
    request = pb.ListEntriesRequest(spiffe_id=spiffe_id or "", selector=selector or "", source=source or "")
    found: pb.EntryList = ask(socket, lambda server: server.entries.List(request))
    emit(document(found), output, lambda: entry_rows(found.entries))


@app.command()
def delete(
    entry_ids: Annotated[list[str], typer.Argument(metavar="ID...", help="The ids of the entries.")],
    *,
    now: Annotated[
        bool, typer.Option("--now", help="Also make callers whom no other entry entitles trust nobody, at once.")
    ] = False,
    socket: AdminSocket = "",
) -> None:
    """Remove entries: their SVIDs are served and renewed no more; what callers hold lives out its time. All of them must be there.

    A caller whom another entry entitles goes on with that one's SVID, as its default too, and with --now as well; each is counted.
    """
    wanted = list(dict.fromkeys(entry_ids))

    async def work(server: AdminClient) -> None:
        there = {entry.id for entry in (await server.entries.List(pb.ListEntriesRequest())).entries}
        if missing := [entry_id for entry_id in wanted if entry_id not in there]:
            raise NotFound(f"there is no entry {', '.join(missing)}; nothing was deleted")
        await _delete(server, wanted, now=now)

    ask(socket, work)


@app.command()
def apply(
    *,
    file: Annotated[str, typer.Option("--file", "-f", metavar="FILE", help="YAML or JSON; - reads standard input.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would change.")] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Delete entries of this source that are not in the file.")
    ] = False,
    adopt: Annotated[
        bool, typer.Option("--adopt", help="Take entries that were made by hand, of no source, under the source.")
    ] = False,
    source: Annotated[
        str | None, typer.Option("--source", help=f"Whose entries these are; else what each says, or {DEFAULT_SOURCE}.")
    ] = None,
    socket: AdminSocket = "",
    output: Output = Format.TABLE,
) -> None:
    """Make entries equal to a file, all or nothing, each only by its own source.

    Takes what `entry list -o yaml` prints, and then changes nothing. Entries that were made by hand stay so without --adopt.
    """
    if prune and not source:
        raise InvalidInput("--prune needs --source: it deletes only what the same source applied")
    text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    entries = read_entries(text, SystemClock().now(), may_be_none=prune)
    foreign = sorted({entry.source for entry in entries if source and entry.source not in ("", source)})
    if foreign:
        raise InvalidInput(f"the file has entries of source {', '.join(foreign)}, not of {source}")
    request = pb.ApplyEntriesRequest(
        source=source or DEFAULT_SOURCE, entries=entries, dry_run=dry_run, prune=prune, adopt=adopt
    )
    changes: pb.ApplyEntriesResponse = _told(socket, lambda server: server.entries.Apply(request))
    _warn_of_programs(changes.unchanged)
    emit({"dry_run": dry_run, **document(changes)}, output, lambda: _change_rows(changes))
    if by_hand := sum(not entry.source for entry in changes.unchanged):
        remark(f"made by hand, and left so: {by_hand}; --adopt takes them under source {request.source}")
    if dry_run:
        remark("dry run: nothing was changed")


async def _delete(server: AdminClient, entry_ids: Sequence[str], *, now: bool) -> None:
    """Delete one after the other, and tell of each what became of it."""
    for index, entry_id in enumerate(entry_ids):
        try:
            outcome = await server.entries.Delete(pb.DeleteEntryRequest(id=entry_id, now=now))
        except BaseException:
            remark(f"not deleted: {', '.join(entry_ids[index:])}")
            raise
        remark(f"deleted {entry_id}")
        for line in _left_behind(outcome, now=now):
            remark(f"  {line}")


def _left_behind(outcome: pb.DeleteEntryResponse, *, now: bool) -> Iterator[str]:
    """What becomes of the callers."""
    if outcome.callers:
        yield f"processes with an SVID of it: {outcome.callers}; it is not renewed, and lives out its time"
    if outcome.denied:
        yield f"get nothing any more{', and are told to trust nobody' if now else ''}: {outcome.denied}"
    for entry_id, count in sorted(outcome.still_entitled.items()):
        yield f"still entitled by entry {entry_id}{', and so trust whom they trusted' if now else ''}: {count}"


def _told(path: str, change: Callable[[AdminClient], Awaitable[Any]]) -> Any:
    """Make the change, and say which of its entries anybody can use, and which name a socket that the server does not have."""

    async def work(server: AdminClient) -> Any:
        changed = await change(server)
        entries = [changed] if isinstance(changed, pb.Entry) else [*changed.created, *changed.updated]
        _warn_of_programs(entries)
        if wanted := _sockets_of(entries):
            sockets = (await server.status.Status(pb.Empty())).sockets
            for name in sorted(wanted - set(sockets)):
                there = ", ".join(sorted(sockets))
                remark(f"the server has no socket {name!r} (it has {there}): nobody gets what asks for socket:{name}")
        return changed

    return ask(path, work)


def _warn_of_programs(entries: Iterable[pb.Entry]) -> None:
    for entry in entries:
        if OF_THE_PROGRAM.issuperset(kind(Selector.parse(text)) for text in entry.selectors):
            remark(
                f"WARNING: any user can become {entry.spiffe_id}: the entry says which program runs, not who runs it, and whoever runs "
                "a program can load code of their own into it. Add a unix:uid, unix:user, unix:gid, unix:group or socket selector."
            )


def _sockets_of(entries: Iterable[pb.Entry]) -> set[str]:
    """The names of all sockets that they ask for."""
    selectors = (selector for entry in entries for selector in entry.selectors)
    return {selector.removeprefix(_SOCKET) for selector in selectors if selector.startswith(_SOCKET)}


def entry_rows(entries: Any) -> Table:
    """Entries as a table."""
    return rows(
        ["ID", "SPIFFE ID", "SELECTORS", "TTL", "HINT", "FEDERATES WITH", "SOURCE"],
        (
            (e.id, e.spiffe_id + " (default)" * e.default, e.selectors, e.ttl, e.hint, e.federates_with, e.source)
            for e in entries
        ),
    )


def _change_rows(changes: pb.ApplyEntriesResponse) -> Table:
    kinds = ("created", "updated", "deleted", "unchanged")
    return rows(
        ["CHANGE", "ID", "SPIFFE ID", "SELECTORS"],
        ((kind, e.id, e.spiffe_id, e.selectors) for kind in kinds for e in getattr(changes, kind)),
    )


def _show(entry: pb.Entry, output: Format) -> None:
    emit(document(entry), output, lambda: facts((name.replace("_", " "), value) for name, value in _fields(entry)))


def _fields(entry: pb.Entry) -> list[tuple[str, object]]:
    return [(field.name, getattr(entry, field.name)) for field in entry.DESCRIPTOR.fields]


def _entry(**given: Any) -> tuple[pb.Entry, list[str]]:
    """The entry that the options make, and the names of the fields that were given. Empty values stand for absent ones."""
    values = {name: value for name, value in given.items() if value is not None}
    entry = pb.Entry(default=values.get("default", False))
    for name in ("spiffe_id", "hint", "source"):
        setattr(entry, name, values.get(name, ""))
    for name in ("selectors", "dns_names", "federates_with"):
        getattr(entry, name).extend(item for item in values.get(name, []) if item)
    if values.get("ttl"):
        entry.ttl.CopyFrom(duration(values["ttl"]))
    if values.get("expires_at"):
        entry.expires_at.CopyFrom(timestamp(future(values["expires_at"], SystemClock().now())))
    return entry, list(values)
