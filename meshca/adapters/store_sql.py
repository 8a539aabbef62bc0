"""All four store ports over one SQL database: SQLite or PostgreSQL, by the same statements.

Rules: SQLAlchemy Core, no ORM; each change is one transaction. What the tables mean stands in `store_schema`, how values
become rows in `store_rows`, how transactions run in `store_database`.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import BinaryIO, Self

from sqlalchemy import ColumnElement, Connection, Executable, bindparam, delete, insert, literal, select, true

from meshca.adapters.store_backup import open_copy
from meshca.adapters.store_database import Database
from meshca.adapters.store_entries import refuse_taken
from meshca.adapters.store_migrate import migrate
from meshca.adapters.store_rows import (
    Row,
    audit_of,
    audit_row,
    bundle_of,
    bundle_row,
    entry_of,
    entry_row,
    instant_row,
    journal_row,
    serial_row,
    slot_row,
    slots_of,
)
from meshca.adapters.store_schema import AUDIT, BUNDLES, ENTRIES, JOURNAL, SLOTS
from meshca.errors import NotFound, Refused, StoreConflict
from meshca.model import AuditKind, AuditQuery, AuditRecord, Entry, Slots
from spiffe.bundle import Bundle
from spiffe.id import TrustDomain

_BUSY_TIMEOUT = timedelta(seconds=5)

_APPEND = insert(AUDIT)  # made once: to make it costs more than to insert a row
_REMOVE_ENTRY = delete(ENTRIES).where(ENTRIES.c.id == bindparam("gone"))

# One statement, so that a save in between can not tear it. A journal without slots gives one row of NULLs beside it.
_JOURNAL = (
    select(JOURNAL.c.trust_domain, JOURNAL.c.sequence, JOURNAL.c.revision, SLOTS)
    .select_from(JOURNAL.outerjoin(SLOTS, true()))
    .order_by(SLOTS.c.position)
)

# Written out, not bound: only then do databases see that the partial index holds these rows.
_ISSUED = AUDIT.c.kind == literal(AuditKind.ISSUED.value, literal_execute=True)


class SqlStore:
    """One store: `entries`, `bundles`, `journal` and `audit`, each of them one port over the same database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.entries = SqlEntryStore(database)
        self.bundles = SqlBundleStore(database)
        self.journal = SqlJournal(database)
        self.audit = SqlAuditLog(database)

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, *, busy_timeout: timedelta = _BUSY_TIMEOUT) -> AsyncIterator[Self]:
        """A store at `sqlite:///PATH` or `postgresql+psycopg://HOST/NAME`, made or migrated first if need be.

        `busy_timeout` is how long to wait for another process that has SQLite's lock. Raises StoreUnavailable, and CannotStart
        for a malformed URL, a file that is not ours alone or a newer revision.
        """
        database = Database.connect(url, busy_timeout)
        try:
            await database.write(lambda connection: migrate(connection, database.name))
            yield cls(database)
        finally:
            await database.close()

    async def backup(self, directory: Path) -> BinaryIO:
        """Return a copy of the store as it is now, in a file in `directory` that has no name. Readers and writers go on meanwhile.

        The directory must be ours alone. Raises StoreUnavailable, and Refused for PostgreSQL, which has its own tools.
        """
        if self._database.file is None:
            raise Refused(f"{self._database.name} is not ours to copy: use pg_dump")
        return await asyncio.to_thread(open_copy, self._database.file, directory)


class SqlEntryStore:
    """The EntryStore port over the table `entries`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def entries(self) -> tuple[Entry, ...]:
        """See the port."""
        found = map(entry_of, await self._database.read(select(ENTRIES)))
        return tuple(sorted(found, key=lambda entry: (entry.created_at, entry.id)))

    async def create(self, entry: Entry) -> None:
        """See the port."""
        await self._change([entry])

    async def update(self, entry: Entry) -> None:
        """See the port."""
        await self._change([entry], gone=[entry.id])

    async def delete(self, entry_id: str) -> None:
        """See the port."""
        await self._change([], gone=[entry_id])

    async def apply(self, put: Sequence[Entry], delete: Sequence[str]) -> None:
        """See the port."""
        last = {entry.id: entry for entry in put}
        await self._change(list(last.values()), gone=delete, replaced=last)

    async def _change(
        self, put: Sequence[Entry], *, gone: Collection[str] = (), replaced: Collection[str] = ()
    ) -> None:
        """Remove those `gone`, which must be there, and those `replaced`, which may be; then insert. The database finds conflicts."""

        def work(connection: Connection) -> None:
            for entry_id in dict.fromkeys(gone):
                removed = connection.execute(delete(ENTRIES).where(ENTRIES.c.id == entry_id))
                if not removed.rowcount:
                    raise NotFound(f"there is no entry {entry_id}")
            _all(connection, _REMOVE_ENTRY, [{"gone": entry_id} for entry_id in replaced])
            _all(connection, insert(ENTRIES), [entry_row(entry) for entry in put])

        try:
            await self._database.write(work)
        except StoreConflict:
            refuse_taken([entry for entry in await self.entries() if entry.id not in {*gone, *replaced}], put)
            raise


class SqlBundleStore:
    """The BundleStore port over the table `bundles`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def bundles(self) -> tuple[Bundle, ...]:
        """See the port."""
        found = map(bundle_of, await self._database.read(select(BUNDLES)))
        return tuple(sorted(found, key=lambda bundle: bundle.trust_domain))

    async def set(self, bundle: Bundle) -> None:
        """See the port."""

        def work(connection: Connection) -> None:
            _remove_bundle(connection, bundle.trust_domain)
            connection.execute(insert(BUNDLES), bundle_row(bundle))

        await self._database.write(work)

    async def delete(self, trust_domain: TrustDomain) -> None:
        """See the port."""
        if not await self._database.write(lambda connection: _remove_bundle(connection, trust_domain)):
            raise NotFound(f"there is no bundle of {trust_domain}")


class SqlJournal:
    """The Journal port over the one row of `journal` and the rows of `slots`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self) -> Slots | None:
        """See the port."""
        rows = await self._database.read(_JOURNAL)
        return slots_of(rows[0], (row for row in rows if row["id"] is not None)) if rows else None

    async def save(self, slots: Slots) -> Slots:
        """See the port."""

        def work(connection: Connection) -> None:
            removed = connection.execute(delete(JOURNAL).where(JOURNAL.c.revision == slots.revision))
            if slots.revision and not removed.rowcount:
                raise StoreConflict(f"the slots were saved by somebody else after revision {slots.revision}")
            connection.execute(insert(JOURNAL), journal_row(slots))
            connection.execute(delete(SLOTS))
            _all(connection, insert(SLOTS), [slot_row(*numbered) for numbered in enumerate(slots.slots)])

        await self._database.write(work)
        return replace(slots, revision=slots.revision + 1)


class SqlAuditLog:
    """The AuditLog port over the table `audit`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def append(self, records: Sequence[AuditRecord]) -> None:
        """See the port."""
        rows = [audit_row(record) for record in records]
        await self._database.write(lambda connection: _all(connection, _APPEND, rows))

    async def read(self, writer: str, after: int, limit: int) -> tuple[AuditRecord, ...]:
        """See the port."""
        links = select(AUDIT).where(AUDIT.c.writer == writer, AUDIT.c.sequence > after)
        return await self._links(links.order_by(AUDIT.c.sequence).limit(limit))

    async def find(self, query: AuditQuery) -> tuple[AuditRecord, ...]:
        """See the port."""
        links = select(AUDIT).where(*_conditions(query))
        return await self._links(links.order_by(AUDIT.c.at.desc(), AUDIT.c.position.desc()).limit(query.limit))

    async def live(self, now: datetime) -> tuple[AuditRecord, ...]:
        """See the port."""
        links = select(AUDIT).where(_ISSUED, AUDIT.c.not_after > instant_row(now))
        return await self._links(links.order_by(AUDIT.c.position))

    async def head(self, writer: str) -> AuditRecord | None:
        """See the port."""
        links = select(AUDIT).where(AUDIT.c.writer == writer)
        return next(iter(await self._links(links.order_by(AUDIT.c.sequence.desc()).limit(1))), None)

    async def prune(self, writer: str, up_to: int) -> int:
        """See the port."""

        def work(connection: Connection) -> int:
            old = delete(AUDIT).where(AUDIT.c.writer == writer, AUDIT.c.sequence <= up_to)
            return connection.execute(old).rowcount

        return await self._database.write(work)

    async def _links(self, statement: Executable) -> tuple[AuditRecord, ...]:
        return tuple(map(audit_of, await self._database.read(statement)))


def _all(connection: Connection, statement: Executable, rows: Sequence[Row]) -> None:
    """Execute the statement for each row, at once. No rows, no statement."""
    if rows:
        connection.execute(statement, rows)


def _remove_bundle(connection: Connection, trust_domain: TrustDomain) -> bool:
    """Whether there was one."""
    removed = connection.execute(delete(BUNDLES).where(BUNDLES.c.trust_domain == trust_domain.name))
    return bool(removed.rowcount)


def _conditions(query: AuditQuery) -> list[ColumnElement[bool]]:
    """What a query asks for, as SQL."""
    conditions = []
    if query.serial is not None:
        conditions.append(AUDIT.c.serial == serial_row(query.serial))
    if query.spiffe_id is not None:
        conditions.append(AUDIT.c.spiffe_id == str(query.spiffe_id))
    if query.since is not None:
        conditions.append(AUDIT.c.at >= instant_row(query.since))
    if query.kind is not None:
        conditions.append(AUDIT.c.kind == query.kind.value)
    return conditions or [true()]
