"""What the kernel does when the clock is set back, and when nothing can be recorded."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import pytest

from meshca.adapters.store_memory import MemoryAuditLog
from meshca.errors import StoreUnavailable
from meshca.model import AuditRecord, Kind, State
from spiffe.bundle import BundleSet
from spiffe.x509verify import verify
from tests.support.kernel import DAY, HOUR, Kernel


@dataclass
class Disk(MemoryAuditLog):
    """A record that can be full."""

    full: bool = field(default=False, kw_only=True)

    async def append(self, records: Sequence[AuditRecord]) -> None:
        if self.full:
            raise StoreUnavailable("the disk is full")
        await super().append(records)


@pytest.mark.parametrize("back", [timedelta(seconds=30), HOUR, 40 * DAY, 400 * DAY], ids=str)
async def test_after_the_clock_was_set_back_leaves_are_signed_and_hold_and_nothing_is_replaced_for_it(back: timedelta):
    kernel = await Kernel.started()
    kernel.clock.advance(8 * DAY)
    await kernel.rotation.tick()
    await kernel.leaf(holder="p1")
    before = kernel.slots

    kernel.clock.jump(-back)
    await kernel.rotation.tick()
    kernel.rotation.self_test()
    issued = await kernel.leaf("other", holder="p2")

    assert kernel.slots == before
    # An issuer's leaf never begins before it, so this one is good as soon as the time of its issuer has come.
    begins = max(kernel.clock.now(), kernel.intermediate.certificate.not_valid_before_utc)
    verify(issued.chain, BundleSet([kernel.slots.bundle]), begins)


async def test_after_the_clock_was_set_back_a_rotation_waits_anew_and_ends():
    kernel = await Kernel.started()
    await kernel.leaf(holder="p1")
    kernel.takes()
    old = kernel.root
    await kernel.rotation.rotate(Kind.ROOT)
    kernel.takes()
    kernel.clock.jump(-HOUR)
    await kernel.passes(timedelta(seconds=1))
    assert kernel.active(Kind.ROOT) == old or kernel.active(Kind.ROOT).id == old.id

    await kernel.passes(timedelta(seconds=10))
    assert kernel.active(Kind.ROOT).id != old.id
    await kernel.leaf(holder="p1")
    kernel.takes(gone=True)
    await kernel.passes(timedelta(seconds=10))
    assert [slot.state for slot in kernel.slots.slots] == [State.ACTIVE] * 2


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
