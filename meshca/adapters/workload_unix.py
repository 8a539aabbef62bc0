"""The WorkloadAttestor of processes on this machine: selectors `unix:...` and `socket:NAME`.

Rules:
- uid, gid and socket are the kernel's word at connect. Supplementary groups, path and sha256 are of the process now.
- Facts of now count only while the process still runs as the uid that connected: a setuid program is not who dialled.
- Everything is read between two looks at whether the peer lives and what it runs; if that changes meanwhile, all is read once more.
- What is read may lead to where no answer comes from (files and names on a network). So it is read in threads, for each user one process
  after the other, and not waited for without end: who takes long keeps only itself waiting.
- What is costly is read only where an entry asks (`meshca.matching.COSTLY`). Files are hashed in threads of their own: who shows us large
  ones, and touches them each time, holds up only what must be hashed, too.
- What cannot be read gives no selector and a remark for `why`, never an error; unless it is we who are short of files, memory or time.
"""

import asyncio
import grp
import pwd
import re
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from weakref import WeakValueDictionary

from meshca.adapters.processes import MOST_GROUPS, Content, Executable, open_executable, read_status, still_runs
from meshca.errors import InvalidInput
from meshca.matching import costly
from meshca.model import Selector
from sds.caller import UnixPeer
from sds.errors import NotAuthorized
from sds.peer import SHORTAGE

MAX_HASHED_BYTES = 1024**3
PATIENCE_SECONDS = 10.0
_ATTEMPTS = 3
"""One to see that a hash is missing, one to take it, and one more if the process changed meanwhile."""
_READERS = 8
_HASHERS = 2
_MOST_HASHES = 1024
_MOST_NAMES = 8192
_NAME_SECONDS = 60.0
_INTERPRETER = re.compile(
    r"(python|pypy|bash|dash|ash|sh|zsh|ksh|fish|busybox|node|nodejs|deno|bun|java|perl|ruby|php|lua|luajit|tclsh|Rscript)[0-9.-]*"
)

Facts = tuple[frozenset[Selector], tuple[str, ...]]


class _Changed(Exception):  # noqa: N818 - never leaves this module
    """The process began to run something else while it was read."""


class _Unhashed(Exception):  # noqa: N818 - same
    """The executable must be hashed, and that is for another thread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    """What is asked of one process: `costly` has the costly kinds among the wanted, `hashing` allows to take the time for a hash."""

    peer: UnixPeer
    wanted: frozenset[Selector]
    costly: frozenset[str]
    hashing: bool


class UnixAttestor:
    """See the port. One for the whole process: hashes and names are remembered."""

    def __init__(self, *, max_hashed_bytes: int = MAX_HASHED_BYTES, patience: float = PATIENCE_SECONDS) -> None:
        self._max_hashed_bytes = max_hashed_bytes
        self._patience = patience
        self._costly: tuple[frozenset[Selector], frozenset[str]] = frozenset(), frozenset()
        self._hashes: dict[Content, str] = {}
        self._readers = ThreadPoolExecutor(max_workers=_READERS, thread_name_prefix="attest")
        self._hashers = ThreadPoolExecutor(max_workers=_HASHERS, thread_name_prefix="hash")
        self._turns: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()
        self._users = _Names(lambda uid: pwd.getpwuid(uid).pw_name)
        self._groups = _Names(lambda gid: grp.getgrgid(gid).gr_name)

    async def attest(self, peer: UnixPeer, wanted: frozenset[Selector]) -> Facts:
        """See the port. Raises NotAuthorized also for a peer that runs something else each time we look."""
        question = _Question(peer=peer, wanted=wanted, costly=self._costly_of(wanted), hashing=False)
        for _ in range(_ATTEMPTS):
            _check_alive(peer)
            try:
                facts = await self._answer(question)
            except _Unhashed:
                question = replace(question, hashing=True)
            except _Changed:
                continue
            else:
                _check_alive(peer)
                return facts
        raise NotAuthorized(f"{peer} changes what it runs while it is looked at")

    async def _answer(self, question: _Question) -> Facts:
        """Read in a thread, in the user's turn, which lasts as long as the thread, even if nobody waits any more. Raises TimeoutError."""
        turn = self._turns.setdefault(question.peer.uid, asyncio.Lock())
        threads = self._hashers if question.hashing else self._readers
        try:
            async with asyncio.timeout(self._patience):
                await turn.acquire()
                reading = asyncio.get_running_loop().run_in_executor(threads, self._read, question)
                reading.add_done_callback(lambda _: turn.release())
                return await asyncio.shield(reading)
        except TimeoutError as error:
            text = f"{question.peer}, or another process of that user, was not read in {self._patience} s"
            raise TimeoutError(text) from error

    def _costly_of(self, wanted: frozenset[Selector]) -> frozenset[str]:
        """There may be 10,000 and they seldom change, so the last answer is remembered."""
        if wanted is not self._costly[0]:
            self._costly = wanted, costly(wanted)
        return self._costly[1]

    def _read(self, question: _Question) -> Facts:
        peer, found = question.peer, _Findings()
        if peer.socket:
            found.add("socket", peer.socket)
        found.add("unix", f"uid:{peer.uid}")
        found.add("unix", "user", self._users.get(peer.uid))
        status = read_status(peer.pid)
        if status.uid == peer.uid:
            self._add_groups((peer.gid, *status.groups), question, found)
            if status.more:
                found.remarks.append(f"it has more than {MOST_GROUPS} groups: the others do not count")
            self._add_executable(question, found)
        else:
            self._add_groups((peer.gid,), question, found)
            found.remarks.append(f"it now runs as uid {status.uid}: no other groups, unix:path or unix:sha256 are read")
        if read_status(peer.pid) != status:
            raise _Changed
        return frozenset(found.selectors), tuple(found.remarks)

    def _add_groups(self, gids: Iterable[int], question: _Question, found: "_Findings") -> None:
        for gid in dict.fromkeys(gids):
            found.add("unix", f"gid:{gid}")
            if "group" in question.costly:
                found.add("unix", "group", self._groups.get(gid))

    def _add_executable(self, question: _Question, found: "_Findings") -> None:
        pid = question.peer.pid
        try:
            with open_executable(pid) as executable:
                found.add("unix", "path", executable.path)
                found.remarks += _remarks(executable, question.wanted)
                if "sha256" in question.costly:
                    found.add("unix", "sha256", self._sha256(executable, question, found))
                if not still_runs(pid, executable):
                    raise _Changed
        except OSError as error:
            if error.errno in SHORTAGE:
                raise
            found.remarks.append(f"/proc/{pid}/exe cannot be read ({error.strerror}): no unix:path or unix:sha256")

    def _sha256(self, executable: Executable, question: _Question, found: "_Findings") -> str:
        if executable.size > self._max_hashed_bytes:
            found.remarks.append(
                f"the executable has {executable.size} bytes, above the limit of {self._max_hashed_bytes}: no unix:sha256"
            )
            return ""
        digest = self._hashes.get(executable.content)
        if digest is None:
            if not question.hashing:
                raise _Unhashed
            digest = executable.sha256()
            if len(self._hashes) >= _MOST_HASHES:
                self._hashes.clear()
            self._hashes[executable.content] = digest
        return digest


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
    """Names for numbers, remembered for a minute. To look one up may block: the directory may be on a network."""

    def __init__(self, look_up: Callable[[int], str]) -> None:
        self._look_up = look_up
        self._known: dict[int, tuple[float, str]] = {}

    def get(self, number: int) -> str:
        """Return the name, "" where there is none."""
        until, name = self._known.get(number, (0.0, ""))
        if time.monotonic() >= until:
            name = self._name(number)
            if len(self._known) >= _MOST_NAMES:
                self._known.clear()
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
