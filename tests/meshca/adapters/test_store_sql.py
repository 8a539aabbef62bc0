"""The SQL store on SQLite, where it meets the disk: modes, revisions, locks, full disks, kills."""

# ruff: noqa: ASYNC240 - blocking on a local file is no harm in a test

import asyncio
import os
import sqlite3
import stat
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, event

from meshca.adapters.store_migrate import newest_revision
from meshca.adapters.store_schema import METADATA
from meshca.adapters.store_sql import SqlStore
from meshca.errors import CannotStart, InvalidInput, StoreUnavailable
from meshca.model import AuditKind, AuditQuery
from spiffe.id import SpiffeID
from tests.support.children import TREE, python, run_unprivileged
from tests.support.values import T0, entry, link

NO_WAIT = timedelta()


def url_of(file: Path) -> str:
    return f"sqlite:///{file}"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("only root with CAP_SYS_ADMIN can mount a disk")
    yield disk
    subprocess.run(["umount", disk], check=True)


def tables(file: Path) -> set[str]:
    connection = sqlite3.connect(file)
    found = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    connection.close()
    return found


def execute(file: Path, statement: str) -> None:
    connection = sqlite3.connect(file)
    connection.execute(statement)
    connection.commit()
    connection.close()


async def test_database_and_side_files_are_closed_to_others_whatever_the_umask(file: Path):
    before = os.umask(0)
    try:
        async with SqlStore.open(url_of(file)) as store:
            await store.entries.create(entry("web"))
            assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in file.parent.iterdir()} == {
                "store.db": 0o600,
                "store.db-wal": 0o600,
                "store.db-shm": 0o600,
            }
    finally:
        os.umask(before)


async def test_every_connection_is_durable_and_strict(file: Path):
    async with SqlStore.open(url_of(file)) as store:
        connection = store._database._engine.raw_connection()
        for pragma, value in {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 5000}.items():
            assert connection.execute(f"PRAGMA {pragma}").fetchone() == (value,)
        connection.close()


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("store.db", "malformed"),
        ("", "malformed"),
        ("mysql://root:secret@db/x", "starts with mysql"),
        ("sqlite+aiosqlite:///store.db", "starts with sqlite.aiosqlite,"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("postgresql+psycopg://user:secret@host:port/x", "malformed"),
    ],
)
async def test_a_url_that_names_no_store_is_refused_without_showing_a_password(url: str, complaint: str):
    with pytest.raises(CannotStart, match=complaint) as refused:
        async with SqlStore.open(url):
            pass
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("mode", [0o644, 0o660])
async def test_a_database_that_is_open_to_others_is_refused_with_what_to_run(file: Path, mode: int):
    file.touch()
    file.chmod(mode)

    with pytest.raises(CannotStart, match=f"{file} .* mode {mode:04o} .*chmod 0600 {file}"):
        async with SqlStore.open(url_of(file)):
            pass


async def test_a_store_of_a_newer_version_is_refused_by_both_revisions_and_left_alone(file: Path):
    async with SqlStore.open(url_of(file)) as store:
        await store.entries.create(entry("web"))
    execute(file, "UPDATE alembic_version SET version_num = '9999'")
    before = file.read_bytes()

    with pytest.raises(CannotStart, match=f"{file} has revision 9999, .* up to {newest_revision()}"):
        async with SqlStore.open(url_of(file)):
            pass

    assert file.read_bytes() == before


async def test_a_migration_that_fails_leaves_the_database_as_it_was(file: Path):
    file.touch(mode=0o600)
    execute(file, "CREATE TABLE audit (mine)")

    with pytest.raises(StoreUnavailable, match="audit"):
        async with SqlStore.open(url_of(file)):
            pass

    assert tables(file) == {"audit"}


async def test_the_migrations_make_the_schema(file: Path):
    async with SqlStore.open(url_of(file)):
        pass

    engine = create_engine(f"sqlite:///{file}")
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []
    engine.dispose()


def test_importing_and_opening_prints_nothing(file: Path):
    code = """
import asyncio, sys
from meshca.adapters.store_sql import SqlStore
async def main():
    async with SqlStore.open(sys.argv[1]):
        pass
asyncio.run(main())
"""
    done = subprocess.run(python(code, url_of(file)), cwd=TREE, capture_output=True, check=True)
    assert done.stdout + done.stderr == b""


@pytest.mark.parametrize(
    "query",
    [
        AuditQuery(serial=1),
        AuditQuery(spiffe_id=SpiffeID.parse("spiffe://example.org/web")),
        AuditQuery(since=T0),
        AuditQuery(kind=AuditKind.HEAD),
    ],
    ids=["serial", "spiffe_id", "since", "kind"],
)
async def test_every_narrowing_of_a_query_uses_an_index(file: Path, query: AuditQuery):
    async with SqlStore.open(url_of(file)) as store:
        said = await plan(store, store.audit.find(query))
    assert "SEARCH audit USING INDEX audit_" in said
    assert "TEMP B-TREE" not in said


async def test_live_links_and_chains_are_found_by_an_index(file: Path):
    async with SqlStore.open(url_of(file)) as store:
        assert "USING INDEX audit_live" in await plan(store, store.audit.live(T0))
        for chained in (store.audit.head("a"), store.audit.read("a", 0, 1)):
            said = await plan(store, chained)
            assert "USING INDEX sqlite_autoindex_audit_1" in said
            assert "TEMP B-TREE" not in said


async def plan(store: SqlStore, reading) -> str:  # noqa: ANN001 - any coroutine
    """How SQLite goes about the statement that a call executes."""
    executed = []
    engine = store._database._engine
    event.listen(engine, "before_cursor_execute", lambda *call: executed.append(call[2:4]))
    await reading
    ((statement, parameters),) = executed
    with engine.connect() as connection:
        rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
        return "\n".join(row.detail for row in rows)


async def test_a_database_that_another_process_has_locked_is_unavailable_until_it_is_free(file: Path):
    async with SqlStore.open(url_of(file), busy_timeout=NO_WAIT) as store:
        await store.audit.append([link("a", 1)])
        other = sqlite3.connect(file, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")

        with pytest.raises(StoreUnavailable, match=f"store {file} .*another process has it locked"):
            await store.audit.append([link("a", 2)])
        assert await store.audit.head("a") == link("a", 1)

        other.execute("ROLLBACK")
        other.close()
        await store.audit.append([link("a", 2)])


@pytest.mark.parametrize(
    "content", [b"no database" * 100, b"SQLite format 3\0" + b"\xff" * 4096], ids=["text", "damaged header"]
)
async def test_a_file_that_is_no_database_is_named(file: Path, content: bytes):
    file.write_bytes(content)
    file.chmod(0o600)

    with pytest.raises(StoreUnavailable, match=f"store {file} can not be used: it is (no SQLite database|damaged)"):
        async with SqlStore.open(url_of(file)):
            pass
    assert file.read_bytes() == content


async def test_a_missing_directory_is_named(tmp_path: Path):
    with pytest.raises(StoreUnavailable, match=f"{tmp_path}/no/store.db.*No such file"):
        async with SqlStore.open(url_of(tmp_path / "no" / "store.db")):
            pass


async def test_a_number_that_no_database_holds_is_refused_and_nothing_is_kept(file: Path):
    async with SqlStore.open(url_of(file)) as store:
        with pytest.raises(InvalidInput, match=f"store {file}"):
            await store.audit.append([link("a", 1), link("a", 2**63, at=T0)])
        assert await store.audit.head("a") is None


async def test_a_full_disk_is_named_loses_nothing_and_is_used_again_once_there_is_room(small_disk: Path):
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(300_000))
    async with SqlStore.open(url_of(small_disk / "store.db")) as store:
        appended = 0
        with pytest.raises(StoreUnavailable, match="the disk is full"):  # noqa: PT012 - until it raises
            while True:
                await store.audit.append([link("a", appended + part, body="x" * 500) for part in (1, 2, 3, 4)])
                appended += 4

        assert len(await store.audit.read("a", 0, 10_000)) == appended > 0
        ballast.unlink()
        await store.audit.append([link("a", appended + 1)])
        assert len(await store.audit.read("a", 0, 10_000)) == appended + 1


async def test_a_store_is_not_half_made_on_a_full_disk(small_disk: Path):
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(1_000_000))
    file = small_disk / "store.db"

    with pytest.raises(StoreUnavailable, match=f"store {file}"):
        async with SqlStore.open(url_of(file)):
            pass

    ballast.unlink()
    assert tables(file) == set()
    async with SqlStore.open(url_of(file)) as store:
        await store.audit.append([link("a", 1)])


LIMITED = """
import asyncio, resource, sys
from meshca.adapters.store_sql import SqlStore
from meshca.errors import StoreUnavailable
from tests.support.values import link

async def main():
    appended = 0
    async with SqlStore.open(sys.argv[1]) as store:
        resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, resource.RLIM_INFINITY))
        try:
            while True:
                await store.audit.append([link("a", appended + part, body="x" * 500) for part in (1, 2, 3, 4)])
                appended += 4
        except StoreUnavailable as error:
            print(error)
        assert len(await store.audit.read("a", 0, 10_000)) == appended > 0
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        await store.audit.append([link("a", appended + 1)])

asyncio.run(main())
"""


def test_a_file_that_may_not_grow_is_named_loses_nothing_and_is_used_again_later(file: Path):
    assert f"store {file} can not be used: the disk" in run_unprivileged(LIMITED, url_of(file))


READ_ONLY = """
import asyncio, sys
from pathlib import Path
from meshca.adapters.store_sql import SqlStore
from meshca.errors import StoreUnavailable
from tests.support.values import link

async def open_it(url):
    async with SqlStore.open(url) as store:
        await store.audit.append([link("a", 1)])

async def main(file, made):
    url = f"sqlite:///{file}"
    if made:
        await open_it(url)
    file.parent.chmod(0o500)
    if made:
        file.chmod(0o400)
    try:
        await open_it(url)
    except StoreUnavailable as error:
        print(error)
    file.parent.chmod(0o700)
    assert sorted(path.name for path in file.parent.iterdir()) == [file.name] * made

asyncio.run(main(Path(sys.argv[1]), sys.argv[2] == "made before"))
"""


@pytest.mark.parametrize("when", ["made before", "not made"])
def test_a_read_only_directory_and_file_are_named(file: Path, when: str):
    said = run_unprivileged(READ_ONLY, file, when)

    assert f"store {file} can not be used: " in said
    assert "read-only" in said or "Permission denied" in said or "can not be opened" in said


APPEND = """
import asyncio, sys
from meshca.adapters.store_sql import SqlStore
from tests.support.values import link, slots

async def main():
    async with SqlStore.open(sys.argv[1]) as store:
        head, kept = await store.audit.head("a"), await store.journal.load()
        sequence, kept = head.sequence if head else 0, kept or slots()
        while True:
            await store.audit.append([link("a", sequence + part) for part in (1, 2, 3, 4)])
            kept = await store.journal.save(kept)
            sequence += 4
            print(sequence, kept.revision, flush=True)

asyncio.run(main())
"""


async def test_whatever_a_killed_process_said_it_kept_is_there(file: Path):
    for lines in (1, 40, 173):
        sequence, revision = await said_until_killed(url_of(file), lines)

        async with SqlStore.open(url_of(file)) as store:
            kept, slots = await store.audit.read("a", 0, 10_000), await store.journal.load()
        assert [one.sequence for one in kept] == list(range(1, len(kept) + 1))
        assert len(kept) in {sequence, sequence + 4, sequence + 8}
        assert slots is not None
        assert slots.revision in {revision, revision + 1}


async def said_until_killed(url: str, lines: int) -> tuple[int, ...]:
    """The numbers of the last line that a process printed before it was killed, some time after `lines` lines."""
    child = await asyncio.create_subprocess_exec(*python(APPEND, url), cwd=TREE, stdout=asyncio.subprocess.PIPE)
    assert child.stdout is not None
    said = b"".join([await child.stdout.readline() for _ in range(lines)])
    child.kill()
    said += await child.stdout.read()
    await child.wait()
    return tuple(map(int, said.rpartition(b"\n")[0].splitlines()[-1].split()))
