"""The server is killed, or its store fails, at every single call that the kernel makes to the outside; and each time it goes on."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from meshca.adapters.keys_disk import DiskKeyManager
from meshca.adapters.keys_memory import MemoryKeyManager
from meshca.adapters.store_memory import MemoryAuditLog, MemoryJournal
from meshca.errors import KeyGone, StoreConflict, StoreUnavailable
from meshca.model import Kind, Slots, State
from spiffe.bundle import BundleSet
from spiffe.x509verify import verify
from tests.support.clock import FakeClock
from tests.support.kernel import HOUR, RULES, Kernel


class Killed(BaseException):
    """What kill -9 is to the process: nothing catches it, nothing after it happens."""


@dataclass(kw_only=True)
class Fate:
    """At which call to a port to strike, before or after the call is done, and with what."""

    at: int
    done: bool
    error: BaseException
    calls: int = 0
    struck: bool = False

    def strikes(self, *, done: bool) -> None:
        self.calls += not done
        if self.calls == self.at and done == self.done:
            self.struck = True
            raise self.error


class Fateful:
    """A port in front of another, each call of which may be the last."""

    def __init__(self, port: object, fate: Fate) -> None:
        self._port = port
        self._fate = fate

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._port, name)

        def call(*arguments: Any) -> Any:
            self._fate.strikes(done=False)
            result = method(*arguments)
            self._fate.strikes(done=True)
            return result

        async def call_async(*arguments: Any) -> Any:
            self._fate.strikes(done=False)
            result = await method(*arguments)
            self._fate.strikes(done=True)
            return result

        return call_async if asyncio.iscoroutinefunction(method) else call


@dataclass(kw_only=True)
class World:
    """What outlives the process."""

    keys: MemoryKeyManager = field(default_factory=MemoryKeyManager)
    journal: MemoryJournal = field(default_factory=MemoryJournal)
    audit: MemoryAuditLog = field(default_factory=MemoryAuditLog)
    clock: FakeClock = field(default_factory=FakeClock)

    def kernel(self, fate: Fate) -> Kernel:
        """A process in this world that has not started yet."""
        ports: dict[str, Any] = {name: Fateful(getattr(self, name), fate) for name in ("keys", "journal", "audit")}
        return Kernel(clock=self.clock, **ports)


Step = Callable[[Kernel], Awaitable[object]]


async def has_leaf(kernel: Kernel) -> None:
    if not kernel.ledger.names():
        await kernel.leaf()


async def has_everything(kernel: Kernel) -> None:
    """The holder renews, takes the bundle, and time passes until nothing is due any more."""
    issued = await kernel.leaf()
    for _ in range(4):
        kernel.takes(held=frozenset({issued.leaf.serial}))
        await kernel.passes(RULES.settle)


async def wants(kernel: Kernel, kind: Kind, wish: Callable[[str], Awaitable[object]]) -> None:
    """Wish once: who failed looks before wishing again, since it may have been done all the same."""
    await kernel.rotation.tick()
    if len(kernel.slots.of(kind)) == 1:
        await wish(kernel.active(kind).id)


async def forced(kernel: Kernel) -> None:
    await kernel.rotation.tick()
    for slot in kernel.slots.of(Kind.ROOT, State.PREPARED):
        await kernel.rotation.activate(slot.id, force=True)


ROTATE_ROOT: Sequence[Step] = (
    lambda kernel: kernel.restart(),
    has_leaf,
    lambda kernel: wants(kernel, Kind.ROOT, lambda _: kernel.rotation.rotate(Kind.ROOT)),
    has_everything,
)
REVOKE_INTERMEDIATE: Sequence[Step] = (
    lambda kernel: kernel.restart(),
    has_leaf,
    lambda kernel: wants(kernel, Kind.INTERMEDIATE, lambda one: kernel.rotation.revoke(one, force=False)),
    has_everything,
    has_everything,
)
FORCE_ROOT: Sequence[Step] = (
    lambda kernel: kernel.restart(),
    has_leaf,
    lambda kernel: wants(kernel, Kind.ROOT, lambda _: kernel.rotation.prepare(Kind.ROOT)),
    forced,
    has_everything,
)
STORIES = {"rotate root": ROTATE_ROOT, "revoke intermediate": REVOKE_INTERMEDIATE, "force root": FORCE_ROOT}
KILLED, FAILED = Killed(), StoreUnavailable("the disk is full")


async def ends_well(kernel: Kernel) -> None:
    """All is as if nothing had happened: a leaf holds, the keys are those of the authorities, the record is whole."""
    await kernel.restart()
    for time in (HOUR, RULES.settle, RULES.settle):
        await kernel.passes(time)
    assert kernel.states() == "active / active"
    kernel.sound()
    issued = await kernel.leaf()
    verify(issued.chain, BundleSet([kernel.slots.bundle]), kernel.clock.now())
    assert await kernel.recorder.verify_all(kernel.recorder.head) == kernel.recorder.sequence


async def told(steps: Sequence[Step], fate: Fate, *, restarts: bool) -> None:
    """Tell a story in which fate strikes once; whoever was struck tries that step again, in a new process or in the same."""
    world = World()
    kernel = world.kernel(fate)
    for step in steps:
        try:
            await step(kernel)
        except (Killed, StoreUnavailable, StoreConflict):
            if restarts:
                kernel = world.kernel(fate)
                await kernel.restart()
            await step(kernel)
    fate.at = 0
    await ends_well(kernel)


@pytest.mark.parametrize("done", [False, True], ids=["before the call", "after the call"])
@pytest.mark.parametrize("error", [KILLED, FAILED], ids=["killed", "failed"])
@pytest.mark.parametrize("story", STORIES)
async def test_it_goes_on_wherever_it_was_struck(story: str, error: BaseException, *, done: bool):
    at = 1
    while True:
        fate = Fate(at=at, done=done, error=error)
        await told(STORIES[story], fate, restarts=error is KILLED)
        if not fate.struck:
            break
        at += 1
    assert at > 30


class Slow:
    """A journal that is done when it says so, and says so late: whoever waits for it can be cancelled in between."""

    def __init__(self, journal: MemoryJournal) -> None:
        self._journal = journal
        self.saving = asyncio.Event()
        self.is_slow = False

    async def load(self) -> Slots | None:
        return await self._journal.load()

    async def save(self, slots: Slots) -> Slots:
        saved = await self._journal.save(slots)
        if self.is_slow:
            self.saving.set()
            await asyncio.Event().wait()
        return saved


async def test_a_caller_that_goes_away_in_the_middle_of_a_save_stops_nobody_else():
    journal = Slow(MemoryJournal())
    kernel = await Kernel.started(journal=journal)
    journal.is_slow = True
    task = asyncio.create_task(kernel.rotation.prepare(Kind.ROOT))
    await journal.saving.wait()
    task.cancel()
    await asyncio.wait([task])
    journal.is_slow = False
    assert kernel.states() == "active / active"
    await kernel.rotation.tick()
    assert kernel.states() == "active, prepared / active"
    kernel.sound()


async def test_who_finds_the_journal_changed_by_another_decides_anew():
    kernel = await Kernel.started()
    other = Kernel(clock=kernel.clock, keys=kernel.keys, journal=kernel.journal, audit=MemoryAuditLog())
    await other.restart()
    await other.rotation.prepare(Kind.ROOT)
    with pytest.raises(StoreConflict):
        await kernel.rotation.rotate(Kind.INTERMEDIATE)
    await kernel.rotation.rotate(Kind.INTERMEDIATE)
    assert kernel.states() == "active, prepared / old, active"


async def test_a_key_that_turns_out_to_be_unreadable_is_replaced_at_the_next_tick(tmp_path: Path):
    keys = DiskKeyManager(tmp_path / "keys")
    kernel = await Kernel.started(keys=keys)
    spoiled = kernel.root.id
    (tmp_path / "keys" / f"{spoiled}.pem").write_bytes(b"spoiled")
    with pytest.raises(KeyGone, match="holds no private key"):
        await kernel.rotation.rotate(Kind.INTERMEDIATE)
    await kernel.rotation.tick()
    assert kernel.root.id != spoiled


async def test_a_key_that_is_unreadable_at_start_is_replaced(tmp_path: Path):
    keys = DiskKeyManager(tmp_path / "keys")
    kernel = await Kernel.started(keys=keys)
    spoiled = kernel.intermediate.id
    (tmp_path / "keys" / f"{spoiled}.pem").write_bytes(b"spoiled")
    await kernel.restart()
    assert kernel.intermediate.id != spoiled
    kernel.sound()


async def test_a_certificate_that_can_not_be_recorded_leaves_no_key_behind():
    audit = MemoryAuditLog()
    fate = Fate(at=0, done=False, error=FAILED)
    kernel = await Kernel.started(audit=Fateful(audit, fate))
    keys = kernel.keys.key_ids()
    fate.at = fate.calls + 1
    with pytest.raises(StoreUnavailable):
        await kernel.rotation.prepare(Kind.ROOT)
    assert kernel.keys.key_ids() == keys
