"""One SQL database: how it is opened, how transactions run, how it is closed. Knows no table.

Rules:
- One write transaction at a time; each read is one statement, so that it sees one state and needs no transaction.
- A transaction runs from begin to commit in one thread, in one go: to hop at each step took more CPU time than SQLite itself.
- A call that is cancelled ends its transaction first: all or nothing, never later, and no connection is left in the middle.
- The password of a URL appears in no text.
"""

import asyncio
import os
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Self, TypeVar, cast

from sqlalchemy import URL, Connection, Engine, Executable, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError

from meshca.adapters.private_files import check_private_file, create_private
from meshca.adapters.store_errors import translated
from meshca.adapters.store_rows import ReadRow
from meshca.errors import CannotStart, MeshcaError

T = TypeVar("T")
Work = Callable[[Connection], T]

SQLITE, POSTGRESQL = "sqlite", "postgresql+psycopg"
_CONNECTIONS = 4  # one writes while three read
_PRAGMAS = ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON")


class Database:
    """An open database. Its methods raise StoreUnavailable, StoreConflict for a row that stands there already, and InvalidInput."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._threads = ThreadPoolExecutor(_CONNECTIONS, thread_name_prefix="store")
        self.name = f"store {self.file or engine.url.render_as_string()}"
        self._writing = asyncio.Lock()
        self._running: set[asyncio.Task[Any]] = set()

    @classmethod
    def connect(cls, url: str, busy_timeout: timedelta) -> Self:
        """A database that connects when it is first used. A SQLite file is made if need be. Raises CannotStart, StoreUnavailable."""
        parsed = _parsed(url)
        if parsed.drivername == POSTGRESQL:
            return cls(create_engine(parsed, pool_size=_CONNECTIONS))
        _check_file(Path(parsed.database or ""))
        return cls(_sqlite_engine(parsed, busy_timeout))

    @property
    def file(self) -> Path | None:
        """The file of a SQLite database."""
        url = self._engine.url
        return Path(url.database or "") if url.drivername == SQLITE else None

    async def close(self) -> None:
        """End what runs, then disconnect."""
        if self._running:
            await asyncio.wait(self._running)
        self._threads.shutdown()
        self._engine.dispose()

    async def read(self, statement: Executable) -> Sequence[ReadRow]:
        """The rows of one SELECT."""

        def work() -> Sequence[ReadRow]:
            with self._engine.connect() as connection:
                rows = connection.execute(statement).mappings().all()
                return cast("Sequence[ReadRow]", rows)  # their keys are names of columns, which are texts

        return await self._whole(self._in_thread(work))

    async def write(self, work: Work[T]) -> T:
        """Run the work in a transaction, in a thread: committed and durable when this returns, undone when it raises."""

        def transaction() -> T:
            with self._engine.begin() as connection:
                return work(connection)

        async def alone() -> T:
            async with self._writing:
                return await self._in_thread(transaction)

        return await self._whole(alone())

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def _whole(self, work: Coroutine[Any, Any, T]) -> T:
        """Run to the end even when cancelled, and only then be cancelled."""
        task = asyncio.create_task(self._translated(work), name=f"transaction of {self.name}")
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            with suppress(MeshcaError):
                await asyncio.shield(task)
            raise

    async def _translated(self, work: Coroutine[Any, Any, T]) -> T:
        with translated(self.name):
            return await work


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise CannotStart(
            f"the store's URL is malformed, write {SQLITE}:///PATH or {POSTGRESQL}://HOST/NAME"
        ) from error
    if parsed.drivername not in {SQLITE, POSTGRESQL}:
        raise CannotStart(f"the store's URL starts with {parsed.drivername}, which is not {SQLITE} or {POSTGRESQL}")
    if parsed.drivername == SQLITE and parsed.database in {None, "", ":memory:"}:
        raise CannotStart(f"the store's URL {parsed} names no file, write {SQLITE}:///PATH")
    return parsed


def _check_file(path: Path) -> None:
    """Make the file with mode 0600 if it is not there. It is not opened to check it: closing would drop SQLite's locks of this process."""
    with translated(f"store {path}"):
        with suppress(FileExistsError):
            create_private(path)
        check_private_file(os.lstat(path), path)


def _sqlite_engine(url: URL, busy_timeout: timedelta) -> Engine:
    """An engine whose transactions take the write lock at their first change, not in the middle."""
    arguments = {"isolation_level": "IMMEDIATE", "timeout": busy_timeout.total_seconds()}
    # The connection that was used last comes first: the pages that it holds are the newest.
    engine = create_engine(url, pool_size=_CONNECTIONS, max_overflow=0, pool_use_lifo=True, connect_args=arguments)

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _: object) -> None:
        cursor = connection.cursor()
        for pragma in _PRAGMAS:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    return engine
