"""What the kernel does when the clock is set back, and when nothing can be recorded."""

from collections.abc import Sequence
from datetime import timedelta

import pytest

from meshca.adapters.store_memory import MemoryAuditLog
from meshca.errors import IssuanceRefused, StoreUnavailable
from meshca.model import AuditRecord, Kind
from spiffe.bundle import BundleSet
from spiffe.x509verify import verify
from tests.support.kernel import DAY, HOUR, Kernel
from tests.support.values import entry


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
async def test_a_clock_set_back_before_the_intermediate_signs_nothing_says_why_and_goes_on_when_it_is_right_again(
    back: timedelta,
):
    kernel = await Kernel.started()
    kernel.clock.advance(8 * DAY)
    await kernel.rotation.tick()
    before = kernel.slots

    kernel.clock.jump(-back)
    await kernel.rotation.tick()
    told = f"it is {kernel.clock.now():%Y-%m-%dT%H:%M:%SZ}, before intermediate {kernel.intermediate.id} is valid"
    refused = await kernel.issue(entry("web"))
    assert isinstance(refused, IssuanceRefused)
    assert told in str(refused)
    with pytest.raises(IssuanceRefused, match=told):
        kernel.rotation.self_test()
    assert kernel.slots == before

    kernel.clock.jump(back)
    await kernel.leaf()
    kernel.rotation.self_test()
    await kernel.recorder.verify_all()


async def test_after_the_clock_was_set_back_a_rotation_waits_anew_and_ends():
    kernel = await Kernel.started()
    kernel.clock.advance(2 * HOUR)
    await kernel.leaf(holder="p1")
    old = kernel.root
    await kernel.rotation.rotate(Kind.ROOT)
    kernel.takes()
    kernel.clock.jump(-HOUR)
    await kernel.passes(timedelta(seconds=1))
    assert kernel.root.id == old.id

    await kernel.passes(timedelta(seconds=10))
    assert kernel.root.id != old.id
    kernel.takes(gone=True)
    await kernel.passes(timedelta(seconds=10))
    assert kernel.states() == "active / active"


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
