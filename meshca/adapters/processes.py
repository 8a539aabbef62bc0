"""What /proc says of a process. Reads only; whoever calls makes sure that it is still the same process.

Rules:
- Names belong to the process, and may hold any byte: fields are found by their names, and texts are shown escaped.
- A path counts only if it leads us to the very file that runs (device and inode): anybody can show another file under that name in
  a mount namespace of their own, and hand it from there to a process in ours.
- So a file that was deleted (an upgrade while it runs) has no path: there is nothing to compare with. Nor could its mount be: a service
  manager gives us, and them, a namespace of our own.
- A path may lead to where no answer comes from (a network file system). What follows one blocks, and says so.
- A file is opened once, and hashed through that descriptor.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path

from sds.caller import UnixPeer
from sds.errors import NotAuthorized
from sds.peer import StartTimeLife, read_process, start_time

MOST_GROUPS = 1024
"""How many supplementary groups of a process count: as many as an Active Directory allows, and far fewer than a kernel does."""
_DELETED = " (deleted)"

Content = tuple[int, int, int, int, int]
"""Device, inode, size, mtime and ctime: the same content has the same five."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The identity a process has now: effective uid and gid, and its supplementary groups, the first of them if there are `more`."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    more: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Executable:
    """The file that a process runs. `path` is "" where none can be vouched for: `doubt` then says why. `descriptor` is open for reading."""

    path: str
    doubt: str
    content: Content
    descriptor: int

    @property
    def size(self) -> int:
        """Bytes."""
        return self.content[2]

    def sha256(self) -> str:
        """Read all of it; return lower-case hex. Blocks."""
        with open(self.descriptor, "rb", closefd=False) as file:
            return file_digest(file, "sha256").hexdigest()


def find_process(pid: int) -> UnixPeer:
    """Return a process as a peer that dialled no socket. Raises NotAuthorized if it does not run or cannot be seen."""
    started = start_time(pid)
    status = read_status(pid)
    life = StartTimeLife(pid, started)
    if not life.alive():
        raise NotAuthorized(f"pid {pid} has ended")
    return UnixPeer(pid=pid, uid=status.uid, gid=status.gid, started=started, socket="", alive=life.alive)


def has_ended(holder: str) -> bool:
    """Whether a holder's process has provably ended: its pid is free, or somebody else's."""
    match holder.split("/"):
        case ["unix", pid, started, *_]:
            try:
                return start_time(int(pid)) != int(started)
            except NotAuthorized:
                return True
            except OSError:  # we cannot look, so it is not proven
                return False
    return False


def read_status(pid: int) -> Status:
    """Return who a process is now. Raises NotAuthorized, and OSError as `read_process` does."""
    fields = _fields(read_process(pid, "status"))
    uid, gid = int(fields[b"Uid"].split()[1]), int(fields[b"Gid"].split()[1])
    groups = fields[b"Groups"].split(maxsplit=MOST_GROUPS)
    return Status(uid=uid, gid=gid, groups=tuple(map(int, groups[:MOST_GROUPS])), more=len(groups) > MOST_GROUPS)


@contextmanager
def open_executable(pid: int) -> Iterator[Executable]:
    """Open what a process runs now. Blocks. Raises OSError where that is not permitted, or there is no such process."""
    link = f"/proc/{pid}/exe"
    descriptor = os.open(link, os.O_RDONLY | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        path, doubt = _vouched(str(Path(link).readlink()), status)
        yield Executable(path=path, doubt=doubt, content=_content(status), descriptor=descriptor)
    finally:
        os.close(descriptor)


def still_runs(pid: int, executable: Executable) -> bool:
    """Whether the process runs the very same file, unchanged. Blocks. Raises OSError."""
    return _content(Path(f"/proc/{pid}/exe").stat()) == executable.content


def _content(status: os.stat_result) -> Content:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _fields(text: bytes) -> dict[bytes, bytes]:
    """What /proc writes a line each, `Name: value`. The kernel escapes the newline, and no other end of a line."""
    return {name: value for name, _, value in (line.partition(b":") for line in text.split(b"\n"))}


def _vouched(link: str, status: os.stat_result) -> tuple[str, str]:
    """Return the path of that file and "", or "" and why there is none."""
    if _leads_to(link, status):
        return link, ""
    if link.endswith(_DELETED):
        reason = "was deleted or replaced after it had been started: start it again"
    else:
        reason = "is not the file that we see under that name (another mount namespace?)"
    return "", f"there is no unix:path: {link.removesuffix(_DELETED)!r} {reason}"


def _leads_to(path: str, status: os.stat_result) -> bool:
    try:
        return os.path.samestat(Path(path).stat(), status)
    except OSError:
        return False
