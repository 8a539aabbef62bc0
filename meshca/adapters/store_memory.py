"""All four store ports in memory: for tests, and as the model that the SQL store is compared with.

Rules: no method awaits anything, so a cancelled call has done all or nothing, and calls never interleave. One event loop only.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from datetime import datetime

from meshca.adapters.store_entries import refuse_taken
from meshca.adapters.store_rows import serial_row
from meshca.errors import NotFound, StoreConflict
from meshca.model import AuditKind, AuditQuery, AuditRecord, Entry, Slots
from spiffe.bundle import Bundle
from spiffe.id import TrustDomain


class MemoryStore:
    """One store: `entries`, `bundles`, `journal` and `audit`, each of them one port. Nothing outlives the process."""

    def __init__(self) -> None:
        self.entries = MemoryEntryStore()
        self.bundles = MemoryBundleStore()
        self.journal = MemoryJournal()
        self.audit = MemoryAuditLog()


class MemoryEntryStore:
    """The EntryStore port over a dict."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}

    async def entries(self) -> tuple[Entry, ...]:
        """See the port."""
        return tuple(sorted(self._entries.values(), key=lambda entry: (entry.created_at, entry.id)))

    async def create(self, entry: Entry) -> None:
        """See the port."""
        self._put(dict(self._entries), [entry])

    async def update(self, entry: Entry) -> None:
        """See the port."""
        self._put(self._without([entry.id]), [entry])

    async def delete(self, entry_id: str) -> None:
        """See the port."""
        self._entries = self._without([entry_id])

    async def apply(self, put: Sequence[Entry], delete: Sequence[str]) -> None:
        """See the port."""
        kept, last = self._without(delete), {entry.id: entry for entry in put}
        self._put({name: kept[name] for name in kept if name not in last}, last.values())

    def _without(self, gone: Iterable[str]) -> dict[str, Entry]:
        kept = dict(self._entries)
        for entry_id in dict.fromkeys(gone):
            if kept.pop(entry_id, None) is None:
                raise NotFound(f"there is no entry {entry_id}")
        return kept

    def _put(self, kept: dict[str, Entry], put: Collection[Entry]) -> None:
        refuse_taken(kept.values(), put)
        self._entries = kept | {entry.id: entry for entry in put}


class MemoryBundleStore:
    """The BundleStore port over a dict."""

    def __init__(self) -> None:
        self._bundles: dict[TrustDomain, Bundle] = {}

    async def bundles(self) -> tuple[Bundle, ...]:
        """See the port."""
        return tuple(self._bundles[trust_domain] for trust_domain in sorted(self._bundles))

    async def set(self, bundle: Bundle) -> None:
        """See the port."""
        self._bundles[bundle.trust_domain] = bundle

    async def delete(self, trust_domain: TrustDomain) -> None:
        """See the port."""
        if self._bundles.pop(trust_domain, None) is None:
            raise NotFound(f"there is no bundle of {trust_domain}")


class MemoryJournal:
    """The Journal port over one attribute."""

    def __init__(self) -> None:
        self._slots: Slots | None = None

    async def load(self) -> Slots | None:
        """See the port."""
        return self._slots

    async def save(self, slots: Slots) -> Slots:
        """See the port."""
        stored = self._slots.revision if self._slots else 0
        if slots.revision != stored:
            raise StoreConflict(f"the slots have revision {stored} by now, not {slots.revision}")
        self._slots = replace(slots, revision=stored + 1)
        return self._slots


class MemoryAuditLog:
    """The AuditLog port over a dict that keeps the order of appending."""

    def __init__(self) -> None:
        self._links: dict[tuple[str, int], AuditRecord] = {}

    async def append(self, records: Sequence[AuditRecord]) -> None:
        """See the port."""
        added: dict[tuple[str, int], AuditRecord] = {}
        for record in records:
            name = (record.writer, record.sequence)
            if name in self._links or name in added:
                raise StoreConflict(f"writer {record.writer} has a link {record.sequence} already")
            added[name] = record
        self._links |= added

    async def read(self, writer: str, after: int, limit: int) -> tuple[AuditRecord, ...]:
        """See the port."""
        return tuple(link for link in self._chain(writer) if link.sequence > after)[:limit]

    async def find(self, query: AuditQuery) -> tuple[AuditRecord, ...]:
        """See the port."""
        found = (link for link in reversed(self._links.values()) if _answers(link, query))
        return tuple(sorted(found, key=lambda link: link.at, reverse=True))[: query.limit]

    async def live(self, now: datetime) -> tuple[AuditRecord, ...]:
        """See the port."""
        issued = (link for link in self._links.values() if link.kind is AuditKind.ISSUED)
        return tuple(link for link in issued if link.not_after is not None and link.not_after > now)

    async def head(self, writer: str) -> AuditRecord | None:
        """See the port."""
        return next(reversed(self._chain(writer)), None)

    async def prune(self, writer: str, up_to: int) -> int:
        """See the port."""
        pruned = [(writer, link.sequence) for link in self._chain(writer) if link.sequence <= up_to]
        for name in pruned:
            del self._links[name]
        return len(pruned)

    def _chain(self, writer: str) -> list[AuditRecord]:
        links = (link for link in self._links.values() if link.writer == writer)
        return sorted(links, key=lambda link: link.sequence)


def _answers(link: AuditRecord, query: AuditQuery) -> bool:
    """Whether a link is among those asked for."""
    return (
        (query.serial is None or link.serial == serial_row(query.serial))
        and (query.spiffe_id is None or link.spiffe_id == str(query.spiffe_id))
        and (query.since is None or link.at >= query.since)
        and (query.kind is None or link.kind is query.kind)
    )
