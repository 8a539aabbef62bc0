"""Gives each process what its entries say and keeps it fresh: the Provider behind the workload sockets.

Rules:
- Level-triggered: whatever wakes the loop (a new view, a new stream, a leaf that came, time), it decides anew from state.
- Bundles reach the grants at once and never wait for a leaf; leaves are issued aside (`meshca.agent.issuing`), and so are processes read
  whose entries rely on what may change (`Workload.must_be_read`).
- A process without streams keeps its leaves, so that it finds them when it reconnects, but they are not renewed.
- A process that has ended gets nothing, and the CA is told that it holds nothing.
- One task for each of the three loops, and one for each user whose processes are being read: who takes long to be read, or cannot be,
  keeps nobody else's waiting. None for each workload.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta
from heapq import heappop, heappush
from itertools import count

from meshca.agent.explain import Explanation, explain_stranger, explain_workload
from meshca.agent.granting import Outlook
from meshca.agent.issuing import Issuing
from meshca.agent.workload import Workload
from meshca.errors import NotFound
from meshca.model import AuthorityKey, Entry
from meshca.ports import Authority, Clock, WorkloadAttestor
from sds.caller import Caller, UnixPeer
from sds.errors import NotAuthorized
from sds.log_limit import LogLimit
from sds.provider import Grants, Proof
from sds.watch import Latest

LIFE_CHECK_SECONDS = 5.0
_LONGEST_NAP = 1.0
_LOOK_AGAIN = timedelta(seconds=1)
_AT_ONCE = 64
"""How many workloads are decided before others get a turn in the event loop."""

logger = logging.getLogger(__name__)


class _Stream:
    """One stream's Subscription."""

    __slots__ = ("_holding", "_on_proof", "_workload")

    def __init__(self, workload: Workload, on_proof: Callable[[Workload], None]) -> None:
        self._workload = workload
        self._on_proof = on_proof
        self._holding = workload.open()

    @property
    def grants(self) -> Latest[Grants]:
        """See Subscription."""
        return self._workload.grants

    def delivered(self, proof: Proof) -> None:
        """See Subscription."""
        self._workload.holding.delivered(self._holding, proof)
        self._on_proof(self._workload)

    def close(self, monotonic: float) -> None:
        """The stream has ended."""
        self._workload.close(self._holding, monotonic)


class Workloads:
    """The Provider over an Authority. `run` keeps it going; before that, subscribers wait.

    `make_key` makes one workload key and is called in a thread. `find` turns a pid into a peer for `explain` and raises NotAuthorized.
    `nap` is how many seconds a change of the clock may go unnoticed.
    """

    def __init__(
        self,
        *,
        authority: Authority,
        attestor: WorkloadAttestor,
        clock: Clock,
        make_key: Callable[[], AuthorityKey],
        find: Callable[[int], UnixPeer],
        nap: float = _LONGEST_NAP,
    ) -> None:
        self._authority = authority
        self._attestor = attestor
        self._clock = clock
        self._find = find
        self._nap = nap
        self._outlook = Outlook(authority.view.value)
        self._issuing = Issuing(
            authority=authority,
            clock=clock,
            make_key=make_key,
            outlook=lambda: self._outlook,
            on_outcome=self._stir,
        )
        self._workloads: dict[str, Workload] = {}
        self._stirred: dict[Workload, None] = {}
        self._touched: dict[Workload, None] = {}
        self._unread: dict[int, dict[Workload, None]] = {}
        self._timetable: list[tuple[datetime, int, Workload]] = []
        self._numbers = count()
        self._wake = asyncio.Event()
        self._seen = clock.now()
        self._life_checked = clock.monotonic()
        self._log = LogLimit(logger)

    async def run(self) -> None:
        """Keep all grants fresh until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch(), name="workloads: view")
            tasks.create_task(self._reconcile(tasks), name="workloads: reconcile")
            tasks.create_task(self._issuing.run(), name="workloads: issue")

    @asynccontextmanager
    async def subscribe(self, caller: Caller) -> AsyncIterator[_Stream]:
        """See Provider. Several streams of one process share its leaves; each new connection is attested anew."""
        workload = self._workloads.setdefault(caller.holder, await self._attested(caller))
        stream = _Stream(workload, self._touch)
        try:
            self._decide(workload, self._entitled(workload))
            yield stream
        finally:
            stream.close(self._clock.monotonic())
            if not workload.streams and not workload.peer.alive():
                workload.end()
            self._stir(workload)

    async def explain(self, pid: int) -> Explanation:
        """Say why the process gets what it gets. Raises NotFound when it does not run."""
        self._look_at_view()
        connected = [each for each in self._workloads.values() if each.peer.pid == pid and not each.ended]
        if connected:
            workload = max(connected, key=lambda each: each.streams)
            return explain_workload(workload, self._outlook, self._clock.now())
        try:
            peer = self._find(pid)
            selectors, remarks = await self._attestor.attest(peer, self._outlook.index.wanted)
        except (NotAuthorized, OSError) as error:
            raise NotFound(f"no process {pid} can be explained: {error}") from error
        return explain_stranger(peer, selectors, remarks, self._outlook, self._clock.now())

    async def _attested(self, caller: Caller) -> Workload:
        """Return the caller's workload, read as it is now. Raises NotAuthorized."""
        self._look_at_view()
        known = self._workloads.get(caller.holder)
        if known is not None and known.caller is caller:
            if known.must_be_read(known.entries, self._outlook):
                await self._read_again(known)
            return known
        outlook = self._outlook
        selectors, remarks = await self._attestor.attest(caller, outlook.index.wanted)
        workload = self._workloads.get(caller.holder) or Workload(caller, outlook.view.trust_domain)
        workload.attested(caller, selectors, remarks, read=outlook.costly)
        if outlook is not self._outlook:
            self._stir(workload)  # what was wanted may have changed while it was read
        return workload

    # What wakes the loops.

    def _stir(self, *workloads: Workload) -> None:
        """Something changed for these: decide anew, and report."""
        self._stirred.update(dict.fromkeys(workloads))
        self._touch(*workloads)

    def _touch(self, *workloads: Workload) -> None:
        """Something is to be reported of these."""
        self._touched.update(dict.fromkeys(workloads))
        self._wake.set()

    async def _watch(self) -> None:
        async for _ in self._authority.view.watch():
            self._wake.set()

    async def _doze(self) -> None:
        """Wait for the next event or time, and never longer than the clock may go unwatched."""
        seconds = self._nap
        if self._timetable:
            seconds = min(seconds, max(0.0, (self._timetable[0][0] - self._clock.now()).total_seconds()))
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        self._wake.clear()

    # What they do then.

    async def _reconcile(self, tasks: asyncio.TaskGroup) -> None:
        while True:
            self._look_at_view()
            self._look_at_clock(self._clock.now())
            await self._check_lives()
            await self._decide_stirred(tasks)
            self._report()
            await self._doze()

    def _look_at_view(self) -> None:
        view = self._authority.view.value
        if view is not self._outlook.view:
            self._outlook = Outlook(view, self._outlook)
            self._stir(*self._workloads.values())

    def _look_at_clock(self, now: datetime) -> None:
        """Stir whose time has come; all, if the clock was set back."""
        if now < self._seen:
            self._stir(*self._workloads.values())
        self._seen = now
        while self._timetable and self._timetable[0][0] <= now:
            at, _, workload = heappop(self._timetable)
            workload.planned.discard(at)
            if workload.next_at == at:
                self._stir(workload)

    async def _check_lives(self) -> None:
        """End those whose process has ended: a child may keep its connection open."""
        if self._clock.monotonic() - self._life_checked < LIFE_CHECK_SECONDS:
            return
        self._life_checked = self._clock.monotonic()
        async for workload in _unhurried(tuple(self._workloads.values())):
            if not workload.ended and not workload.peer.alive():
                workload.end()
                self._stir(workload)

    async def _decide_stirred(self, tasks: asyncio.TaskGroup) -> None:
        stirred, self._stirred = self._stirred, {}
        async for workload in _unhurried(stirred):
            entries = self._entitled(workload)
            if workload.must_be_read(entries, self._outlook):
                self._read_soon(workload, tasks)
            else:
                self._decide(workload, entries)

    def _read_soon(self, workload: Workload, tasks: asyncio.TaskGroup) -> None:
        uid = workload.peer.uid
        if uid not in self._unread:
            self._unread[uid] = {}
            tasks.create_task(self._read(uid), name=f"workloads: read those of uid {uid}")
        self._unread[uid][workload] = None

    async def _read(self, uid: int) -> None:
        unread = self._unread[uid]
        while unread:
            workload = next(iter(unread))
            del unread[workload]
            await self._read_again(workload)
        del self._unread[uid]

    async def _read_again(self, workload: Workload) -> None:
        """Look at the process as it is now, and decide what it keeps. While we cannot look, it keeps what it has and gets nothing new."""
        outlook = self._outlook
        try:
            selectors, remarks = await self._attestor.attest(workload.peer, outlook.index.wanted)
        except NotAuthorized as error:
            selectors, remarks = frozenset(), (str(error),)
            if not workload.peer.alive():
                workload.end()
                self._touch(workload)
        except Exception as error:  # noqa: BLE001 - what one process makes of itself must not end the service for all
            self._log.warning("process not read", kind=type(error), peer=str(workload.peer), reason=repr(error))
            workload.next_at = self._clock.now() + _LOOK_AGAIN
            self._plan(workload)
            return
        workload.narrowed(selectors, remarks, read=outlook.costly)
        self._decide(workload, self._entitled(workload))

    def _entitled(self, workload: Workload) -> tuple[Entry, ...]:
        return self._outlook.index.entitled(workload.selectors, self._clock.now())

    def _decide(self, workload: Workload, entries: tuple[Entry, ...]) -> None:
        """Set the grants, and see to what is missing, when to look again and whether to keep the workload at all."""
        now = self._clock.now()
        workload.decide(self._outlook, entries, now, self._clock.monotonic())
        if workload.needs(self._outlook, now):
            self._issuing.want(workload)
        self._plan(workload)
        if not workload.streams and not workload.asked and not workload.credentials:
            self._workloads.pop(workload.peer.holder, None)

    def _plan(self, workload: Workload) -> None:
        """Look at it again in time. Each time stands in the timetable once, however often a process dials and leaves."""
        if workload.next_at is not None and workload.next_at not in workload.planned:
            workload.planned.add(workload.next_at)
            heappush(self._timetable, (workload.next_at, next(self._numbers), workload))

    def _report(self) -> None:
        touched, self._touched = self._touched, {}
        reports = [report for workload in touched if (report := workload.report()) is not None]
        if reports:
            self._authority.report(reports)


async def _unhurried(workloads: Iterable[Workload]) -> AsyncIterator[Workload]:
    """Yield each, and let the event loop breathe in between."""
    for number, workload in enumerate(workloads, 1):
        yield workload
        if number % _AT_ONCE == 0:
            await asyncio.sleep(0)
