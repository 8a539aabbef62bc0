"""Registration entries over the admin API. Thin: messages in, registry, messages out."""

import uuid
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from typing import Any

from meshca.authority.holders import Ledger
from meshca.authority.record import Facts
from meshca.errors import InvalidInput
from meshca.model import Entry, Selector
from meshca.ports import Clock
from meshca.proto import admin_pb2 as pb
from meshca.proto import admin_pb2_grpc as rpc
from meshca.server.applying import Applied, each_of
from meshca.server.convert import change_facts, entry_changed, entry_message, entry_of, parsed
from meshca.server.registry import Registry
from meshca.server.wish import Asked
from spiffe.id import SpiffeID


class EntryAPI(rpc.EntriesServicer):
    """The Entries service."""

    def __init__(self, *, registry: Registry, ledger: Ledger, asked: Asked, clock: Clock) -> None:
        self._registry = registry
        self._ledger = ledger
        self._asked = asked
        self._clock = clock

    async def Create(self, request: pb.CreateEntryRequest, context: Any) -> pb.Entry:  # noqa: N802 - the proto names it
        """Add an entry."""
        async with self._asked("entry.create", context) as wish:
            entry = self._new(request.entry)
            self._registry.check(entry)
            await wish.record(change_facts(None, entry), entry=entry.id, spiffe_id=str(entry.spiffe_id))
            return entry_message(await self._registry.create(entry))

    async def Update(self, request: pb.UpdateEntryRequest, context: Any) -> pb.Entry:  # noqa: N802 - same
        """Change the named fields of an entry."""
        async with self._asked("entry.update", context) as wish:
            old = self._registry.get(request.entry.id)
            entry = entry_changed(old, request.entry, frozenset(request.fields))
            self._check_ahead(entry)
            self._registry.check(entry)
            await wish.record(change_facts(old, entry), entry=entry.id, fields=sorted(set(request.fields)))
            return entry_message(await self._registry.update(entry))

    async def Get(self, request: pb.EntryID, context: Any) -> pb.Entry:  # noqa: N802, ARG002 - same
        """One entry."""
        return entry_message(self._registry.get(request.id))

    async def List(self, request: pb.ListEntriesRequest, context: Any) -> pb.EntryList:  # noqa: N802, ARG002 - same
        """The entries that fit, oldest first."""
        selector = Selector.parse(request.selector) if request.selector else None
        wanted = parsed(SpiffeID.parse, request.spiffe_id, "spiffe_id") if request.spiffe_id else None
        return pb.EntryList(
            entries=[
                entry_message(entry)
                for entry in self._registry.entries
                if (wanted is None or entry.spiffe_id == wanted)
                and (selector is None or selector in entry.selectors)
                and (not request.source or entry.source == request.source)
            ]
        )

    async def Delete(self, request: pb.DeleteEntryRequest, context: Any) -> pb.DeleteEntryResponse:  # noqa: N802 - same
        """Remove an entry, and say whom that leaves with what."""
        async with self._asked("entry.delete", context) as wish:
            change = change_facts(self._registry.get(request.id), None)
            await wish.record(change, entry=request.id, now=request.now)
            await self._registry.delete(request.id, now=request.now)
            return self._left_behind(request.id)

    async def Apply(self, request: pb.ApplyEntriesRequest, context: Any) -> pb.ApplyEntriesResponse:  # noqa: N802 - same
        """Make the entries those given, each within its source."""
        if request.dry_run:
            return _answer(await self._apply(request, self._wanted(request), dry_run=True))
        async with self._asked("entry.apply", context) as wish:
            wanted = self._wanted(request)
            plan = await self._apply(request, wanted, dry_run=True)  # raises what there is to refuse
            facts = {"source": request.source, "entries": len(wanted), "prune": request.prune, "adopt": request.adopt}
            await wish.record(*self._changes(plan), **facts)
            return _answer(await self._apply(request, wanted, dry_run=False))

    async def _apply(self, request: pb.ApplyEntriesRequest, wanted: list[Entry], *, dry_run: bool) -> Applied:
        return await self._registry.apply(
            wanted, request.source, prune=request.prune, dry_run=dry_run, adopt=request.adopt
        )

    def _changes(self, plan: Applied) -> Iterator[Facts]:
        for entry in (*plan.created, *plan.updated):
            yield {"entry": entry.id, **change_facts(self._registry.find(entry.id), entry)}
        for entry in plan.deleted:
            yield {"entry": entry.id, **change_facts(entry, None)}

    def _wanted(self, request: pb.ApplyEntriesRequest) -> list[Entry]:
        if not request.source:
            raise InvalidInput("apply needs a source: it says which entries are yours to change and to prune")
        return each_of(request.entries, self._new)

    def _left_behind(self, entry_id: str) -> pb.DeleteEntryResponse:
        callers = self._ledger.callers(entry_id)
        others = [{each for each in entry_ids if self._registry.find(each)} for entry_ids in callers]
        return pb.DeleteEntryResponse(
            callers=len(callers), denied=others.count(set()), still_entitled=Counter(chain.from_iterable(others))
        )

    def _new(self, message: pb.Entry) -> Entry:
        entry = entry_of(message, entry_id=message.id or str(uuid.uuid4()), created_at=self._clock.now())
        self._check_ahead(entry)
        return entry

    def _check_ahead(self, entry: Entry) -> None:
        """Raise InvalidInput for an entry that is over before it begins."""
        if not entry.is_live(self._clock.now()):
            raise InvalidInput(f"expires_at {entry.expires_at:%Y-%m-%dT%H:%M:%SZ} is past")


def _answer(applied: Applied) -> pb.ApplyEntriesResponse:
    return pb.ApplyEntriesResponse(
        created=map(entry_message, applied.created),
        updated=map(entry_message, applied.updated),
        deleted=map(entry_message, applied.deleted),
        unchanged=map(entry_message, applied.unchanged),
    )
