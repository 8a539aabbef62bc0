"""Copies of a SQLite store: made while it is in use, checked, and brought back.

Rules:
- A copy appears whole, durable and with mode 0600, or not at all; nothing is ever overwritten.
- Copies are made in directories of ours alone: SQLite opens files by their names, which whoever owns a directory may give to others.
"""

import os
import secrets
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

from meshca.adapters.private_files import sync_directory
from meshca.adapters.store_errors import translated
from meshca.adapters.store_migrate import check_revision
from meshca.errors import AlreadyExists, InvalidInput

# What SQLite keeps beside a database: left over from another one, they would be replayed into ours.
_SIDE_FILES = ("", "-wal", "-shm", "-journal")


def copy_store(source: Path, target: Path) -> None:
    """Copy a store, in use or not, to a new file. Raises AlreadyExists, InvalidInput, StoreUnavailable."""
    if not target.parent.is_dir():
        raise InvalidInput(f"{target.parent} is no directory that the server sees: make it first")
    with translated(f"copy {target} of store {source}"):
        for path in (target.with_name(target.name + suffix) for suffix in _SIDE_FILES):
            if path.exists():
                raise AlreadyExists(f"{path} is there already and is not overwritten", str(path))
        opened, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        try:
            _copy(source, Path(name))
            os.fsync(opened)
            os.link(name, target)  # unlike a rename, it fails when the target appeared meanwhile
        except FileExistsError as error:
            raise AlreadyExists(f"{target} is there already and is not overwritten", str(target)) from error
        finally:
            os.close(opened)
            Path(name).unlink()
            sync_directory(target.parent)


def open_copy(source: Path, directory: Path) -> BinaryIO:
    """Return an open copy of a store, in a file that has no name and so is gone when it is closed. Raises as `copy_store` does."""
    path = directory / f"backup-{secrets.token_hex(8)}"
    copy_store(source, path)
    try:
        return path.open("rb")
    finally:
        path.unlink()


def verify_backup(path: Path) -> str:
    """Read all of a copy and return its revision. Raises InvalidInput when it is damaged or no store, CannotStart when it is too new."""
    try:
        with closing(_open_for_reading(path)) as connection:
            problem = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
            (revision,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    except (sqlite3.Error, TypeError) as error:
        raise InvalidInput(f"backup {path} can not be read or holds no store: {error}") from error
    if problem != "ok":
        raise InvalidInput(f"backup {path} is damaged: {problem}")
    check_revision(revision, f"backup {path}")
    return str(revision)


def restore(backup: Path, database: Path) -> str:
    """Check a copy and make it the database of a store that is not there; return its revision. Raises as both steps do."""
    revision = verify_backup(backup)
    copy_store(backup, database)
    return revision


def _copy(source: Path, target: Path) -> None:
    with closing(_open_for_reading(source)) as read, closing(sqlite3.connect(target)) as written:
        read.backup(written)
        written.execute("PRAGMA journal_mode = DELETE")  # one file, complete without any beside it


def _open_for_reading(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
