"""What the kernel does when the clock is set, or the machine sleeps, and when nothing can be recorded."""

from collections.abc import Sequence
from datetime import timedelta

import pytest

from meshca.adapters.store_memory import MemoryAuditLog
from meshca.authority.steady import Reckoning, reckon
from meshca.errors import IssuanceRefused, Refused, StoreUnavailable
from meshca.model import AuditRecord, Kind
from spiffe.bundle import BundleSet
from spiffe.x509verify import verify
from tests.support.clock import START
from tests.support.kernel import DAY, HOUR, Kernel
from tests.support.values import entry

SECOND, MINUTE, NOTHING = timedelta(seconds=1), timedelta(minutes=1), timedelta(0)


class Disk(MemoryAuditLog):
    """A record that can be full."""

    full = False

    async def append(self, records: Sequence[AuditRecord]) -> None:
        if self.full:
            raise StoreUnavailable("the disk is full")
        await super().append(records)


async def test_a_clock_set_back_within_the_life_of_the_intermediate_harms_nothing():
    kernel = await Kernel.started()
    kernel.clock.advance(11 * HOUR)
    await kernel.leaf(holder="p1")
    before = kernel.slots

    kernel.clock.jump(-10 * HOUR)
    await kernel.rotation.tick()
    issued = await kernel.leaf("other", holder="p2")

    assert kernel.slots == before
    verify(issued.chain, BundleSet([kernel.slots.bundle]), kernel.clock.now())


@pytest.mark.parametrize("back", [timedelta(seconds=30), HOUR, 400 * DAY], ids=str)
async def test_a_clock_set_back_before_an_authority_is_valid_refuses_until_the_next_tick_has_replaced_it(
    back: timedelta,
):
    kernel = await Kernel.started()
    kernel.clock.advance(8 * DAY)
    await kernel.rotation.tick()

    kernel.clock.jump(-back)
    told = f"it is {kernel.clock.now():%Y-%m-%dT%H:%M:%SZ}, before intermediate {kernel.intermediate.id} is valid"
    refused = await kernel.issue(entry("web"))
    assert isinstance(refused, IssuanceRefused)
    assert told in str(refused)
    with pytest.raises(IssuanceRefused, match=told):
        kernel.rotation.self_test()
    alarm = f"intermediate {kernel.intermediate.id} is not valid now: nothing new can be signed"
    assert alarm in kernel.rotation.alarms(kernel.clock.now())

    await signs(kernel)
    kernel.clock.jump(back)
    await signs(kernel)
    await kernel.recorder.verify_all()


async def signs(kernel: Kernel) -> None:
    """From the next tick on it signs, and there is nothing to be alarmed at but a clock that has just moved."""
    await kernel.rotation.tick()
    issued = await kernel.leaf(holder="late")
    verify(issued.chain, BundleSet([kernel.slots.bundle]), kernel.clock.now())
    kernel.takes("late", gone=True)
    kernel.rotation.self_test()
    assert [text for text in kernel.rotation.alarms(kernel.clock.now()) if "the clock" not in text] == []
    kernel.sound()


async def test_after_the_clock_was_set_back_a_rotation_waits_anew_and_ends():
    kernel = await Kernel.started()
    kernel.clock.advance(2 * HOUR)
    await kernel.leaf(holder="p1")
    old = kernel.root
    await kernel.rotation.rotate(Kind.ROOT)
    kernel.takes()
    kernel.clock.jump(-HOUR)
    await kernel.passes(timedelta(seconds=1))
    assert kernel.states() == "active, prepared / active", "the one dated in the future gave way to another"
    assert kernel.root.id == old.id

    kernel.takes()
    await kernel.passes(timedelta(seconds=10))
    assert kernel.root.id != old.id
    kernel.takes(gone=True)
    await kernel.passes(timedelta(seconds=10))
    assert kernel.states() == "active / active"


@pytest.mark.parametrize("ahead", [2 * HOUR, 18 * HOUR, 26 * HOUR, 366 * DAY], ids=str)
async def test_a_clock_that_jumps_ahead_for_a_moment_costs_nothing(ahead: timedelta):
    kernel = await Kernel.started()
    issued = await kernel.leaf(holder="p1")
    kernel.takes()
    await kernel.passes(MINUTE)
    root, intermediate = kernel.root, kernel.intermediate
    kernel.clock.jump(ahead)
    await kernel.rotation.tick()
    assert f"the clock jumped ahead by {ahead}: nothing is dropped" in kernel.rotation.alarms(kernel.clock.now())[0]
    with pytest.raises(Refused, match=f"the clock has just jumped ahead by {ahead}"):
        await kernel.rotation.prune_record(kernel.clock.now())
    kernel.clock.jump(-ahead)
    await kernel.passes(SECOND)
    assert kernel.root == root
    assert kernel.keys.key_ids() >= {root.id, intermediate.id}
    assert kernel.ledger.leaves_under(root.id) == (issued.leaf,)
    verify(issued.chain, BundleSet([kernel.slots.bundle]), kernel.clock.now())
    await signs(kernel)
    assert kernel.rotation.alarms(kernel.clock.now()) == ()


async def test_a_root_is_not_activated_without_proof_because_the_clock_jumped_ahead_of_the_leaves():
    kernel = await Kernel.started()
    await kernel.leaf(holder="p1")
    kernel.takes()
    await kernel.rotation.rotate(Kind.ROOT)
    await kernel.passes(MINUTE)
    kernel.clock.jump(2 * HOUR)
    for _ in range(4):
        await kernel.passes(MINUTE)
    assert kernel.states() == "active, prepared / active"
    assert [holder.name for holder in kernel.ledger.behind(kernel.slots.bundle.digest, kernel.clock.now())] == ["p1"]
    await kernel.passes(2 * MINUTE)
    assert kernel.states() == "old, active / old, active", "the new time has held"
    await kernel.passes(MINUTE)
    assert kernel.states() == "active / active"


@pytest.mark.parametrize("hours", [2, 30])
async def test_after_a_pause_of_the_machine_all_goes_on_at_once_but_what_can_not_be_taken_back(hours: int):
    kernel = await Kernel.started()
    await kernel.leaf(holder="p1")
    kernel.takes()
    before = kernel.slots
    kernel.clock.jump(hours * HOUR)
    await signs(kernel)
    for _ in range(4):
        await kernel.passes(MINUTE)
    assert {slot.id for slot in before.slots} <= kernel.keys.key_ids()
    assert kernel.ledger.names() == {"p1"}
    await kernel.passes(2 * MINUTE)
    assert kernel.rotation.alarms(kernel.clock.now()) == ()
    assert kernel.states() == "active / active"
    assert kernel.ledger.names() == set()


@pytest.mark.parametrize("holder", ["p1", ""])
async def test_authorities_that_a_wrong_clock_made_are_replaced_when_it_is_right_again(holder: str):
    """It was wrong for so long that it was believed. Whoever holds a leaf has to take the new root first, as ever."""
    kernel = await Kernel.started()
    kernel.clock.jump(366 * DAY)
    for _ in range(10):
        await kernel.passes(MINUTE)
    if holder:
        await kernel.leaf(holder=holder)
    kernel.clock.jump(-366 * DAY)
    await kernel.passes(SECOND)
    if holder:
        assert kernel.states() == "active, prepared / active"
        kernel.takes(holder)
        await kernel.passes(timedelta(seconds=10))
    await signs(kernel)
    assert kernel.root.not_before < kernel.clock.now()


async def test_what_is_prepared_is_made_anew_when_its_dates_turn_out_wrong():
    kernel = await Kernel.started()
    kernel.clock.jump(2 * HOUR)
    for kind in Kind:
        await kernel.rotation.prepare(kind)
    kernel.clock.jump(-2 * HOUR)
    await kernel.passes(SECOND)
    assert kernel.states() == "active / active"


LOOKS: list[tuple[str, list[tuple[timedelta, timedelta]], timedelta]] = [
    ("nothing happened", [(MINUTE, NOTHING)], NOTHING),
    ("slewed", [(MINUTE, MINUTE / 2), (MINUTE, MINUTE / 2), (MINUTE, MINUTE)], NOTHING),
    ("jumped", [(SECOND, 2 * MINUTE)], 2 * MINUTE),
    ("jumped and slewed", [(SECOND, 2 * MINUTE), (SECOND, SECOND)], 2 * MINUTE),
    ("jumped twice", [(SECOND, 2 * MINUTE), (4 * MINUTE, HOUR), (4 * MINUTE, NOTHING)], HOUR + 2 * MINUTE),
    ("held", [(SECOND, 2 * MINUTE), (4 * MINUTE, NOTHING), (MINUTE, NOTHING)], NOTHING),
    ("came back", [(SECOND, HOUR), (SECOND, -HOUR)], NOTHING),
    ("came back roughly", [(SECOND, HOUR), (SECOND, MINUTE / 2 - HOUR)], NOTHING),
    ("came back in part", [(SECOND, HOUR), (SECOND, -HOUR / 2)], HOUR / 2),
    ("was set back", [(SECOND, -HOUR)], NOTHING),
    ("was set back and came back", [(SECOND, -HOUR), (SECOND, HOUR)], HOUR),
]


@pytest.mark.parametrize(("looks", "ahead"), [each[1:] for each in LOOKS], ids=[each[0] for each in LOOKS])
def test_the_clock_is_ahead_from_a_jump_until_it_is_back_or_has_held(
    looks: list[tuple[timedelta, timedelta]], ahead: timedelta
):
    """Each look: how much later it is, and by how much the wall clock was moved meanwhile."""
    seen = Reckoning(now=START, monotonic=0.0)
    for passed, moved in looks:
        seen = reckon(seen, seen.now + passed + moved, seen.monotonic + passed.total_seconds())
    assert seen.ahead == ahead


async def test_while_nothing_can_be_recorded_nothing_is_signed_and_there_is_an_alarm_that_says_why():
    disk = Disk()
    kernel = await Kernel.started(audit=disk)
    before, keys = kernel.slots, kernel.keys.key_ids()

    disk.full = True
    for attempt in (kernel.leaf, lambda: kernel.rotation.prepare(Kind.ROOT)):
        with pytest.raises(StoreUnavailable, match="the disk is full"):
            await attempt()
    assert kernel.rotation.alarms(kernel.clock.now()) == (
        "nothing can be recorded, so nothing is signed: the disk is full",
    )
    assert kernel.slots == before
    assert kernel.keys.key_ids() == keys

    disk.full = False
    await kernel.leaf()
    assert kernel.rotation.alarms(kernel.clock.now()) == ()
    await kernel.recorder.verify_all()
