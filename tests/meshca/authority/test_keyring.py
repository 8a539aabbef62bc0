"""Keys that are not there at a start: one is replaced, all of them stop it."""

from datetime import timedelta

import pytest

from meshca.errors import CannotStart
from meshca.model import KeyType, Kind, Slots
from tests.support.kernel import Kernel

MINUTE = timedelta(minutes=1)


async def loses_all_keys(kernel: Kernel) -> Slots:
    """While it does not run, the keys of all active authorities go."""
    for kind in Kind:
        kernel.keys.delete(kernel.active(kind).id)
    return kernel.slots


async def test_without_the_key_of_any_active_authority_it_does_not_start_and_changes_nothing():
    kernel = await Kernel.started()
    await kernel.leaf()
    stray, _ = kernel.keys.generate(KeyType.EC_P256)
    slots = await loses_all_keys(kernel)
    with pytest.raises(CannotStart) as refused:
        await kernel.restart()
    for told in (*(slot.id for slot in slots.slots), "Put the keys back", "--abandon-keys"):
        assert told in str(refused.value)
    assert await kernel.journal.load() == slots
    assert kernel.keys.key_ids() == {stray}, "whose keys they are is not known yet"


async def test_who_says_that_the_keys_are_gone_waits_for_the_holders_and_has_to_say_it_once_only():
    kernel = await Kernel.started()
    await kernel.leaf()
    await loses_all_keys(kernel)
    kernel.abandon_keys = True
    await kernel.restart()
    assert kernel.states() == "old, prepared / "
    kernel.abandon_keys = False
    await kernel.restart()
    kernel.takes()
    await kernel.passes(MINUTE)
    assert kernel.states() == "old, active / active"
