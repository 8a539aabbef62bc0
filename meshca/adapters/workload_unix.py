"""The WorkloadAttestor of processes on this machine: selectors `unix:...` and `socket:NAME`.

Rules:
- uid, gid and socket are the kernel's word at connect. Supplementary groups, path and sha256 are of the process now.
- Facts of now count only while the process still runs as the uid that connected: a setuid program is not who dialled.
- Everything is read between two looks at whether the peer lives and what it runs; if that changes meanwhile, all is read again.
- Files are hashed in a thread of their own, and for each user one after the other: who shows us large files, and touches them each
  time, keeps only itself waiting. Nobody else's hash waits for more than one of each user, and no leaf waits for a hash.
- What cannot be read gives no selector and a remark for `why`, never an error; unless it is we who are short of files or memory.
"""

import asyncio
import grp
import pwd
import re
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from weakref import WeakValueDictionary

from meshca.adapters.processes import Content, Executable, open_executable, read_status, still_runs
from meshca.errors import InvalidInput
from meshca.model import Selector
from sds.caller import UnixPeer
from sds.errors import NotAuthorized
from sds.peer import SHORTAGE

MAX_HASHED_BYTES = 1024**3
_ATTEMPTS = 5
_MOST_HASHES = 1024
_NAME_SECONDS = 60.0
_INTERPRETER = re.compile(
    r"(python|pypy|bash|dash|ash|sh|zsh|ksh|fish|busybox|node|nodejs|deno|bun|java|perl|ruby|php|lua|luajit|tclsh|Rscript)[0-9.-]*"
)

Facts = tuple[frozenset[Selector], tuple[str, ...]]


class _Changed(Exception):  # noqa: N818 - never leaves this module
    """The process began to run something else while it was read."""


class UnixAttestor:
    """See the port. One for the whole process: hashes and names are remembered."""

    def __init__(self, *, max_hashed_bytes: int = MAX_HASHED_BYTES) -> None:
        self._max_hashed_bytes = max_hashed_bytes
        self._wanted: tuple[frozenset[Selector], bool] = frozenset(), False
        self._hashes: dict[Content, str] = {}
        self._hasher = ThreadPoolExecutor(max_workers=1, thread_name_prefix="hash")
        self._turns: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()
        self._users = _Names(lambda uid: pwd.getpwuid(uid).pw_name)
        self._groups = _Names(lambda gid: grp.getgrgid(gid).gr_name)

    async def attest(self, peer: UnixPeer, wanted: frozenset[Selector]) -> Facts:
        """See the port. Raises NotAuthorized also for a peer that runs something else each time we look."""
        for _ in range(_ATTEMPTS):
            _check_alive(peer)
            try:
                facts = await self._read(peer, wanted)
            except _Changed:
                continue
            _check_alive(peer)
            return facts
        raise NotAuthorized(f"{peer} changes what it runs while it is looked at")

    async def _read(self, peer: UnixPeer, wanted: frozenset[Selector]) -> Facts:
        found = _Findings()
        if peer.socket:
            found.add("socket", peer.socket)
        found.add("unix", f"uid:{peer.uid}")
        found.add("unix", "user", await self._users.get(peer.uid))
        status = read_status(peer.pid)
        if status.uid == peer.uid:
            await self._add_groups((peer.gid, *status.groups), found)
            async with self._turn(peer.uid, wanted):
                await self._add_executable(peer.pid, wanted, found)
        else:
            await self._add_groups((peer.gid,), found)
            found.remarks.append(f"it now runs as uid {status.uid}: no other groups, unix:path or unix:sha256 are read")
        if read_status(peer.pid) != status:
            raise _Changed
        return frozenset(found.selectors), tuple(found.remarks)

    def _turn(self, uid: int, wanted: frozenset[Selector]) -> AbstractAsyncContextManager[None]:
        """One process of a user at a time where hashes are wanted, so that no more than one file of each is open for it."""
        return self._turns.setdefault(uid, asyncio.Lock()) if self._wants_hash(wanted) else nullcontext()

    async def _add_groups(self, gids: Iterable[int], found: "_Findings") -> None:
        for gid in dict.fromkeys(gids):
            found.add("unix", f"gid:{gid}")
            found.add("unix", "group", await self._groups.get(gid))

    async def _add_executable(self, pid: int, wanted: frozenset[Selector], found: "_Findings") -> None:
        try:
            with open_executable(pid) as executable:
                found.add("unix", "path", executable.path)
                found.remarks += _remarks(executable, wanted)
                if self._wants_hash(wanted):
                    found.add("unix", "sha256", await self._sha256(executable, found))
                if not still_runs(pid, executable):
                    raise _Changed
        except OSError as error:
            if error.errno in SHORTAGE:
                raise
            found.remarks.append(f"/proc/{pid}/exe cannot be read ({error.strerror}): no unix:path or unix:sha256")

    def _wants_hash(self, wanted: frozenset[Selector]) -> bool:
        """Whether any entry asks. There may be 10,000 and they seldom change, so the last answer is remembered."""
        if wanted is not self._wanted[0]:
            self._wanted = wanted, any(each.type == "unix" and each.value.startswith("sha256:") for each in wanted)
        return self._wanted[1]

    async def _sha256(self, executable: Executable, found: "_Findings") -> str:
        if executable.size > self._max_hashed_bytes:
            found.remarks.append(
                f"the executable has {executable.size} bytes, above the limit of {self._max_hashed_bytes}: no unix:sha256"
            )
            return ""
        if executable.content not in self._hashes:
            if len(self._hashes) >= _MOST_HASHES:
                self._hashes.clear()
            self._hashes[executable.content] = await self._hash(executable)
        return self._hashes[executable.content]

    async def _hash(self, executable: Executable) -> str:
        """Hash to the end even when cancelled: the file is closed next, and its number may then be somebody's connection."""
        hashing = asyncio.get_running_loop().run_in_executor(self._hasher, executable.sha256)
        try:
            return await asyncio.shield(hashing)
        finally:
            while not hashing.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait([hashing])


class _Findings:
    """Selectors and remarks, as they are found."""

    def __init__(self) -> None:
        self.selectors: set[Selector] = set()
        self.remarks: list[str] = []

    def add(self, type_: str, name: str, value: str | None = None) -> None:
        """Add a selector; none where the value is empty, and a remark where it cannot be written as one."""
        if value == "":
            return
        try:
            self.selectors.add(Selector(type_, name if value is None else f"{name}:{value}"))
        except InvalidInput as error:
            self.remarks.append(f"there is no {type_}:{name}: {error}")


class _Names:
    """Names for numbers, looked up in a thread (the directory may be on a network) and remembered for a minute."""

    def __init__(self, look_up: Callable[[int], str]) -> None:
        self._look_up = look_up
        self._known: dict[int, tuple[float, str]] = {}

    async def get(self, number: int) -> str:
        """Return the name, "" where there is none."""
        until, name = self._known.get(number, (0.0, ""))
        if time.monotonic() >= until:
            name = await asyncio.to_thread(self._name, number)
            self._known[number] = time.monotonic() + _NAME_SECONDS, name
        return name

    def _name(self, number: int) -> str:
        try:
            return self._look_up(number)
        except (KeyError, OSError, OverflowError):
            return ""


def _remarks(executable: Executable, wanted: frozenset[Selector]) -> list[str]:
    remarks = [executable.doubt] if executable.doubt else []
    name = executable.path.rpartition("/")[2]
    if _INTERPRETER.fullmatch(name) and Selector("unix", f"path:{executable.path}") in wanted:
        remarks.append(f"{executable.path} is an interpreter: unix:path says nothing of the script that it runs")
    return remarks


def _check_alive(peer: UnixPeer) -> None:
    if not peer.alive():
        raise NotAuthorized(f"{peer} has ended")
