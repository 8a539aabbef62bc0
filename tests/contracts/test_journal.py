import asyncio
from dataclasses import replace

import pytest

from meshca.errors import StoreConflict
from meshca.model import Activation, Kind, Leaving, Slots, State
from meshca.ports import Journal
from tests.contracts.conftest import StoreHome
from tests.support.cancel import cancelled_at_each_step
from tests.support.pki import CA
from tests.support.values import HOUR, T0, slot, slots

ROOT, NEXT = CA.create(subject="1"), CA.create(subject="2", key_type="rsa2048")
ALL_FIELDS = replace(
    slot(ROOT.intermediate().certificate),
    kind=Kind.INTERMEDIATE,
    state=State.TAINTED,
    issuer_id="ab" * 20,
    activated_at=T0 + HOUR,
    retired_at=T0 + 2 * HOUR,
    activation=Activation.BY_HAND,
    leaving=Leaving.REVOKED,
)


async def test_a_new_store_has_no_slots(journal: Journal):
    assert await journal.load() is None


async def test_slots_come_back_in_order_and_equal_but_for_the_next_revision(journal: Journal):
    first = slots(NEXT, ROOT, sequence=7)

    saved = await journal.save(first)
    assert saved == replace(first, revision=1)
    assert await journal.load() == saved

    narrowed = replace(saved, slots=(ALL_FIELDS,), sequence=8)
    assert await journal.save(narrowed) == replace(narrowed, revision=2)
    assert await journal.load() == replace(narrowed, revision=2)


async def test_slots_without_any_authority_are_not_a_new_store(journal: Journal):
    saved = await journal.save(slots())

    assert await journal.load() == saved == slots(revision=1)


@pytest.mark.parametrize("revision", [0, 1, 3])
async def test_saving_another_revision_than_the_stored_one_is_a_conflict_and_changes_nothing(
    journal: Journal, revision: int
):
    stored = await journal.save(await journal.save(slots(ROOT)))

    with pytest.raises(StoreConflict):
        await journal.save(slots(NEXT, revision=revision))

    assert await journal.load() == stored


async def test_a_new_store_takes_only_revision_zero(journal: Journal):
    with pytest.raises(StoreConflict):
        await journal.save(slots(ROOT, revision=1))

    assert await journal.load() is None


@pytest.mark.parametrize("stored", [0, 1])
async def test_of_many_saves_of_one_revision_one_wins(journal: Journal, stored: int):
    for revision in range(stored):
        await journal.save(slots(ROOT, revision=revision))

    saves = (journal.save(slots(NEXT, sequence=n, revision=stored)) for n in range(8))
    outcomes = await asyncio.gather(*saves, return_exceptions=True)

    (won,) = [outcome for outcome in outcomes if isinstance(outcome, Slots)]
    assert sum(isinstance(outcome, StoreConflict) for outcome in outcomes) == 7
    assert await journal.load() == won


async def test_readers_never_see_half_of_a_save(journal: Journal):
    states = [(ROOT, NEXT), (), (NEXT,)] * 6

    async def write() -> None:
        for revision, authorities in enumerate(states):
            await journal.save(slots(*authorities, sequence=len(authorities), revision=revision))

    async def read() -> None:
        for _ in states:
            seen = await journal.load()
            assert seen is None or len(seen.slots) == seen.sequence

    await asyncio.gather(write(), read(), read())


async def test_a_cancelled_save_has_done_all_or_nothing(journal: Journal):
    before = await journal.save(slots(ROOT))

    async def save(n: int) -> None:
        await journal.save(replace(before, slots=slots(NEXT).slots, sequence=n))

    async def check(n: int) -> None:
        nonlocal before
        after = await journal.load()
        assert after in {
            before,
            Slots(trust_domain=before.trust_domain, slots=slots(NEXT).slots, sequence=n, revision=before.revision + 1),
        }
        before = after

    await cancelled_at_each_step(save, check)


async def test_slots_outlive_the_process_where_the_store_persists(store_home: StoreHome):
    async with store_home.open() as store:
        saved = await store.journal.save(slots(ROOT, NEXT))
    async with store_home.open() as store:
        assert await store.journal.load() == (saved if store_home.persists else None)
