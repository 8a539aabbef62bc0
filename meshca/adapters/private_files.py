"""Directories and files that belong to us alone: made so, and refused when they are not.

Rules:
- Names are resolved against the opened directory and are never followed through a symbolic link, so that what was checked is what is used.
- A file appears whole or not at all, and is on the disk when a call returns.
"""

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from meshca.errors import CannotStart

_OTHERS = 0o077
_OURS = re.compile(r"lock|keys.*|store\.db.*|[0-9a-f]{40}\.pem.*")
"""What we put into our directories."""
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def check_private(status: os.stat_result, path: Path) -> None:
    """Raise CannotStart unless this status, of that path, says: our own file or directory, and closed to others."""
    mode = stat.S_IMODE(status.st_mode)
    right = 0o700 if stat.S_ISDIR(status.st_mode) else 0o600
    owner, ours = status.st_uid, os.geteuid()
    if owner != ours:
        remedy = _elsewhere(status, path) or f"chown {ours} {path}"
        raise CannotStart(f"{path} belongs to uid {owner} (mode {mode:04o}) and must belong to uid {ours}: {remedy}")
    if mode & _OTHERS:
        remedy = _elsewhere(status, path) or f"chmod {right:04o} {path}"
        raise CannotStart(f"{path} of uid {owner} has mode {mode:04o} and is open to others: {remedy}")


def _elsewhere(status: os.stat_result, path: Path) -> str:
    """What to do about a directory that others use as well, such as /tmp: to close it would shut them out. "" for one of our own."""
    if not stat.S_ISDIR(status.st_mode):
        return ""
    if not status.st_mode & stat.S_ISVTX and all(_OURS.fullmatch(each.name) for each in path.iterdir()):
        return ""
    return f"use a directory of its own, such as {path / 'meshca'}"


def check_private_file(status: os.stat_result, path: Path) -> None:
    """As `check_private`, and it must be a regular file."""
    if not stat.S_ISREG(status.st_mode):
        raise CannotStart(f"{path} is no regular file: move it away")
    check_private(status, path)


@contextmanager
def private_directory(path: Path, *, parents: bool = False, make: bool = True) -> Iterator[int]:
    """An open descriptor of the directory, made with mode 0700 if it is not there (and its `parents`). Raises CannotStart, OSError.

    Without `make` one that is not there is a FileNotFoundError.
    """
    if parents and not path.parent.exists():
        with private_directory(path.parent, parents=True):
            pass
    if make:
        _make(path)
    with directory(path) as opened:
        check_private(os.fstat(opened), path)
        yield opened


def _make(path: Path) -> None:
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
        sync_directory(path.parent)


@contextmanager
def directory(path: Path) -> Iterator[int]:
    """An open descriptor of any directory. Raises OSError."""
    opened = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield opened
    finally:
        os.close(opened)


def sync_directory(path: Path) -> None:
    """Make durable what was put into a directory or taken out of it. Raises OSError."""
    with directory(path) as opened:
        os.fsync(opened)


def create_private(path: Path) -> None:
    """Make an empty file with mode 0600. Raises FileExistsError, OSError."""
    os.close(os.open(path, _NEW_FILE, 0o600))
    sync_directory(path.parent)


def write_private(parent: int, name: str, content: bytes) -> None:
    """Put a file with mode 0600 into an open directory: whole, durable, in place of an older one. Raises OSError."""
    temporary = f"{name}.tmp"
    try:
        with os.fdopen(os.open(temporary, _NEW_FILE, 0o600, dir_fd=parent), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=parent)
        raise
    os.fsync(parent)


def read_private(parent: int, name: str, path: Path) -> bytes:
    """The content of a file in an open directory; `path` is for errors. Raises CannotStart, FileNotFoundError, OSError."""
    opened = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
    with os.fdopen(opened, "rb") as file:
        check_private_file(os.fstat(opened), path)
        return file.read()
