"""Copies of a SQLite store: made, checked, brought back."""

# ruff: noqa: ASYNC240 - blocking on a local file is no harm in a test

import asyncio
import os
import re
import sqlite3
import stat
from pathlib import Path

import pytest

from meshca.adapters.store_backup import copy_store, restore, verify_backup
from meshca.adapters.store_migrate import newest_revision
from meshca.adapters.store_sql import SqlStore
from meshca.errors import AlreadyExists, CannotStart, InvalidInput
from tests.support.children import run_unprivileged
from tests.support.pki import CA
from tests.support.values import entry, link, slots


def url_of(file: Path) -> str:
    return f"sqlite:///{file}"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
async def backup(file: Path, tmp_path: Path) -> Path:
    """A copy of a store with one entry, a journal and 200 links."""
    made = tmp_path / "copies of today" / "store?.backup"
    made.parent.mkdir()
    async with SqlStore.open(url_of(file)) as store:
        await store.entries.create(entry("web"))
        await store.journal.save(slots(CA.create()))
        await store.audit.append([link("a", n, body="x" * 200) for n in range(200)])
        copy_store(file, made)  # while it is in use
    return made


async def test_a_copy_is_one_private_file_that_restores_to_the_same_store(file: Path, backup: Path, tmp_path: Path):
    assert list(backup.parent.iterdir()) == [backup]
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    assert verify_backup(backup) == newest_revision()

    assert restore(backup, tmp_path / "restored.db") == newest_revision()

    async with SqlStore.open(url_of(file)) as before, SqlStore.open(url_of(tmp_path / "restored.db")) as after:
        assert await after.entries.entries() == await before.entries.entries()
        assert await after.journal.load() == await before.journal.load()
        assert await after.audit.read("a", -1, 999) == await before.audit.read("a", -1, 999)


async def test_a_copy_made_amid_writes_holds_whole_transactions(file: Path, tmp_path: Path):
    async with SqlStore.open(url_of(file)) as store:

        async def write() -> None:
            for start in range(0, 400, 8):
                await store.audit.append([link("a", start + part) for part in range(8)])

        async def copy(n: int) -> None:
            with await store.backup(tmp_path) as copied:
                (tmp_path / f"{n}.backup").write_bytes(copied.read())

        await asyncio.gather(write(), copy(1), copy(2))

    for n in (1, 2):
        restore(tmp_path / f"{n}.backup", tmp_path / f"{n}.db")
        async with SqlStore.open(url_of(tmp_path / f"{n}.db")) as copied:
            assert len(await copied.audit.read("a", -1, 999)) % 8 == 0


@pytest.mark.parametrize("beside", ["", "-wal", "-shm", "-journal"])
async def test_nothing_is_overwritten_nor_restored_beside_what_another_store_left(
    file: Path, backup: Path, tmp_path: Path, beside: str
):
    taken = tmp_path / f"new.db{beside}"
    taken.write_text("mine")

    with pytest.raises(AlreadyExists, match=str(taken)):
        restore(backup, tmp_path / "new.db")
    with pytest.raises(AlreadyExists, match=str(taken)):
        copy_store(file, tmp_path / "new.db")

    assert taken.read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"store.db", "copies of today", taken.name}


SWAP = "UPDATE sqlite_schema SET rootpage = (SELECT rootpage FROM sqlite_schema WHERE name = 'audit_at') WHERE name = 'audit_kind'"


@pytest.mark.parametrize("damage", ["flipped", "truncated", "empty", "text", "missing", "no store", "mixed up"])
def test_a_damaged_copy_is_refused_and_nothing_is_restored(backup: Path, tmp_path: Path, damage: str):
    content = bytearray(backup.read_bytes())
    match damage:
        case "flipped":
            for page in range(4096, len(content), 4096):
                content[page : page + 12] = b"\xff" * 12
        case "truncated":
            del content[len(content) // 2 :]
        case "empty":
            content.clear()
        case "text":
            content[:] = b"no database"
    backup.write_bytes(content)
    if damage == "missing":
        backup.unlink()
    if damage == "no store":
        execute(backup, "DROP TABLE alembic_version")
    if damage == "mixed up":
        execute(backup, "PRAGMA writable_schema = ON", SWAP)

    with pytest.raises(InvalidInput, match=r"copies of today/store.*(is damaged|can not be read or holds no store)"):
        restore(backup, tmp_path / "restored.db")

    assert not (tmp_path / "restored.db").exists()


def test_a_copy_of_a_newer_version_is_refused_by_both_revisions(backup: Path, tmp_path: Path):
    execute(backup, "UPDATE alembic_version SET version_num = '9999'")

    with pytest.raises(CannotStart, match=f"9999.*{newest_revision()}"):
        restore(backup, tmp_path / "restored.db")

    assert not (tmp_path / "restored.db").exists()


async def test_a_target_that_can_not_be_made_is_named(file: Path, backup: Path, tmp_path: Path):
    with pytest.raises(InvalidInput, match=f"{tmp_path}/no is no directory"):
        restore(backup, tmp_path / "no" / "backup")


async def test_an_open_copy_has_no_name_and_only_we_could_read_it(file: Path, backup: Path, tmp_path: Path):
    before = set(tmp_path.iterdir())
    async with SqlStore.open(url_of(file)) as store:
        with await store.backup(tmp_path) as copied:
            status = os.fstat(copied.fileno())
            assert (status.st_nlink, stat.S_IMODE(status.st_mode)) == (0, 0o600)
            assert copied.read() == backup.read_bytes()
    assert {path for path in tmp_path.iterdir() if not path.name.startswith("store.db")} == before - {file}


LIMITED = """
import asyncio, resource, sys
from pathlib import Path
from meshca.adapters.store_sql import SqlStore
from meshca.errors import StoreUnavailable

async def main(url, directory):
    async with SqlStore.open(url) as store:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, resource.RLIM_INFINITY))
        try:
            await store.backup(directory)
        except StoreUnavailable as error:
            print(error)
    assert list(directory.iterdir()) == []

asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
"""


def test_no_part_of_a_copy_stays_where_the_disk_is_full(file: Path, backup: Path, tmp_path: Path):
    (tmp_path / "full").mkdir()

    said = run_unprivileged(LIMITED, url_of(file), tmp_path / "full")

    assert re.search(rf"copy {tmp_path}/full/backup-[0-9a-f]+ of store {file} can not be used: the disk", said)


def execute(file: Path, *statements: str) -> None:
    connection = sqlite3.connect(file)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()
