"""Opens and closes a Unix listener at a path, without ever taking the place of another that lives.

Rules: nobody can connect before mode and group are set; only what is provably stale is removed, and on close only what is ours.
"""

import errno
import grp
import os
import re
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

from sds.errors import SDSError

LONGEST_PATH = 107
"""Bytes that fit in sun_path beside the final zero (unix(7))."""
_BACKLOG = 4096
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketSpec:
    """One socket to listen on. `name` is what selectors call it; `group` is a name or number, None leaves the process's own.

    Everybody may connect by default, since who connects is known by the gate and not by file permissions. Raises SDSError.
    """

    name: str
    path: Path
    mode: int = 0o666
    group: str | int | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise SDSError(f"socket name {self.name!r} is not 1 to 64 of A-Z a-z 0-9 . _ -")
        if not 0 <= self.mode <= 0o777:  # noqa: PLR2004 - the permission bits
            raise SDSError(f"socket {self.name!r} has the mode {self.mode:o}, which is not within 0 to 777")
        check_path(self.path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """A bound socket and the file that leads to it."""

    spec: SocketSpec
    socket: socket.socket
    inode: tuple[int, int]

    def close(self) -> None:
        """Stop listening, and remove the file unless somebody else has put theirs there."""
        self.socket.close()
        path = self.spec.path
        try:
            if _inode(path) == self.inode:
                path.unlink()
        except FileNotFoundError:
            pass


def check_path(path: Path) -> None:
    """Raise SDSError for a path that no Unix socket can have."""
    length = len(os.fsencode(path))
    if not path.is_absolute() or "\0" in str(path):
        raise SDSError(f"socket path {str(path)!r} is not an absolute path")
    if length > LONGEST_PATH:
        raise SDSError(f"socket path {path} has {length} bytes, the limit is {LONGEST_PATH}")


def check_free(spec: SocketSpec) -> None:
    """Raise SDSError, as `listen` would, for whatever can be known of it beforehand. Changes nothing."""
    try:
        directory = next(each for each in spec.path.parents if each.exists())
        if not directory.is_dir() or not os.access(directory, os.W_OK | os.X_OK, effective_ids=True):
            raise _refused(spec.path, f"{directory} is no directory that we may write")
        _is_stale(spec.path)
    except OSError as error:
        raise _refused(spec.path, error.strerror or str(error)) from error
    if spec.group is not None:
        _group_id(spec.group)


def listen(spec: SocketSpec) -> Listener:
    """Listen at the path; make its directory (0755) if there is none. Raises SDSError, naming the path, if that cannot be."""
    try:
        _make_directory(spec.path.parent)
        if _is_stale(spec.path):
            spec.path.unlink(missing_ok=True)
        return _bind(spec)
    except OSError as error:
        raise _refused(spec.path, error.strerror or str(error)) from error


def _make_directory(directory: Path) -> None:
    if not directory.exists():
        directory.mkdir(parents=True)
        directory.chmod(0o755)  # whatever the umask


def _is_stale(path: Path) -> bool:
    """Whether a socket is there that nobody listens on any more. Raises SDSError for anything else that is there."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return False
    if not stat.S_ISSOCK(mode):
        raise _refused(path, "something that is not a socket is there")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        code = probe.connect_ex(str(path))
    if code not in (errno.ECONNREFUSED, errno.ENOENT):
        raise _refused(path, "a running server listens there")
    return True


def _refused(path: Path, reason: str) -> SDSError:
    return SDSError(f"socket {path} cannot be opened: {reason}")


def _bind(spec: SocketSpec) -> Listener:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        listener.bind(str(spec.path))
        spec.path.chmod(spec.mode)
        if spec.group is not None:
            os.chown(spec.path, -1, _group_id(spec.group))
        listener.listen(_BACKLOG)  # only now can anybody connect
    except BaseException:
        listener.close()
        raise
    return Listener(spec=spec, socket=listener, inode=_inode(spec.path))


def _group_id(group: str | int) -> int:
    if isinstance(group, int):
        return group
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise SDSError(f"there is no group {group!r}") from error


def _inode(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_dev, status.st_ino
