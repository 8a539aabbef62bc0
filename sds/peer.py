"""The process at the other end of a Unix connection, as the kernel vouches for it.

Rules:
- uid, gid and pid are those of the moment of connect (SO_PEERCRED), whoever holds the connection now.
- Whether it still runs is asked of a pidfd (SO_PEERPIDFD, Linux 6.5), which no later process can inherit; on older kernels of its number
  and start time together.
- A peer that is gone, or that this pid namespace cannot see, is nobody. That we are short of files or memory to look says nothing of it.
"""

import errno
import os
import select
import socket
import struct
from typing import Protocol

from sds.caller import UnixPeer
from sds.errors import NotAuthorized

_SO_PEERPIDFD = 77
SHORTAGE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""Errors that say something of us, and nothing of who is looked at."""
_CREDENTIALS = struct.Struct("iII")
"""struct ucred: a pid is signed, uid and gid are not."""
_STATE, _STARTED = 0, 19
"""Where /proc/<pid>/stat has the fields 3 and 22, counted from behind the command's name."""


class Life(Protocol):
    """Whether one process still runs."""

    def alive(self) -> bool:
        """False once it has ended, and after `close`."""
        ...

    def close(self) -> None:
        """Let go of what the question costs."""
        ...


class PidfdLife:
    """One process by a descriptor of it, which this object owns from now on."""

    __slots__ = ("_descriptor",)

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def alive(self) -> bool:
        """False once it has ended, and after `close`."""
        if self._descriptor < 0:
            return False
        exits = select.poll()
        exits.register(self._descriptor, select.POLLIN)
        return not exits.poll(0)

    def close(self) -> None:
        """Close the descriptor, once."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1


class StartTimeLife:
    """One process by its number and start time: for kernels without SO_PEERPIDFD. A number that is used again has another start time."""

    __slots__ = ("_pid", "_started")

    def __init__(self, pid: int, started: int) -> None:
        self._pid = pid
        self._started = started

    def alive(self) -> bool:
        """False once it has ended, and after `close`. True while we are too short of files or memory to look."""
        try:
            return start_time(self._pid) == self._started
        except NotAuthorized:
            return False
        except OSError:
            return self._pid > 0

    def close(self) -> None:
        """Forget the process."""
        self._pid = 0


def read_peer(connection: socket.socket, name: str) -> tuple[UnixPeer, Life]:
    """Return who connected to the workload socket called `name`; the caller closes the Life. Raises NotAuthorized."""
    pid, uid, gid = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    if pid == 0:
        raise NotAuthorized(f"peer with uid {uid} on socket {name!r} is in a pid namespace that is not visible here")
    descriptor = _peer_pidfd(connection, pid)
    try:
        started = start_time(pid)
    except NotAuthorized:
        if descriptor is not None:
            os.close(descriptor)
        raise
    life = StartTimeLife(pid, started) if descriptor is None else PidfdLife(descriptor)
    if not life.alive():  # asked last: so the start time was that of the same process
        life.close()
        raise NotAuthorized(f"pid {pid} (uid {uid}) ended after it had connected to socket {name!r}")
    return UnixPeer(pid=pid, uid=uid, gid=gid, started=started, socket=name, alive=life.alive), life


def start_time(pid: int) -> int:
    """Return when a running process started, in clock ticks since boot.

    Raises NotAuthorized if there is none, or it is a zombie; OSError if that cannot be looked at now.
    """
    fields = read_process(pid, "stat").rpartition(b")")[2].split()
    if fields[_STATE] in b"ZX":
        raise NotAuthorized(f"pid {pid} has ended")
    return int(fields[_STARTED])


def read_process(pid: int, name: str) -> bytes:
    """Return what /proc has of a process under this name. Raises NotAuthorized if there is none, OSError if we are short of means."""
    try:
        with open(f"/proc/{pid}/{name}", "rb") as file:  # noqa: PTH123 - a third of the cost, at every connect
            return file.read()
    except OSError as error:
        if error.errno in SHORTAGE:
            raise
        raise NotAuthorized(f"pid {pid} cannot be seen: {error.strerror}") from error


def _peer_pidfd(connection: socket.socket, pid: int) -> int | None:
    """Return a descriptor of the peer, None on a kernel that has none. Raises NotAuthorized if the peer was reaped already."""
    try:
        return connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError as error:
        if error.errno == errno.ENOPROTOOPT:
            return None
        if error.errno in (errno.ESRCH, errno.EINVAL):  # the kernels up to 6.15 say so
            raise NotAuthorized(f"pid {pid} ended before it was identified") from error
        raise
