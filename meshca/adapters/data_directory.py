"""The data directory of a server: made if need be, ours alone, and held by one server at a time."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from meshca.adapters.private_files import private_directory
from meshca.errors import CannotStart

_LOCK = "lock"


@contextmanager
def held(data_dir: Path) -> Iterator[None]:
    """Hold the directory while the context is open. Raises CannotStart when it is not ours, or another server holds it."""
    with private_directory(data_dir, parents=True) as directory:  # a fresh home has no ~/.local/state
        lock = _open_lock(data_dir, directory)
        try:
            _take(lock, data_dir)
            yield
        finally:
            os.close(lock)


def set_aside(database: Path) -> Path | None:
    """Move a store out of the way, with what SQLite keeps beside it; return where to, None if there was none."""
    if not database.exists():
        return None
    kept = next(
        path
        for number in range(1, 1000)
        if not (path := database.with_name(f"{database.name}.before-{number}")).exists()
    )
    for suffix in ("", "-wal", "-shm"):
        beside = database.with_name(database.name + suffix)
        if beside.exists():
            beside.rename(kept.with_name(kept.name + suffix))
    return kept


def _open_lock(data_dir: Path, directory: int) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(_LOCK, flags, 0o600, dir_fd=directory)
    except OSError as error:
        raise CannotStart(f"data directory {data_dir} cannot be written: {error.strerror}") from error


def _take(lock: int, data_dir: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise CannotStart(
            f"another meshca server runs in {data_dir}: stop it, or choose another data directory"
        ) from error
