import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from meshca.errors import AlreadyExists, MeshcaError, NotFound
from meshca.model import MAX_HINT_BYTES, Entry
from meshca.ports import EntryStore
from spiffe.id import TrustDomain
from tests.contracts.conftest import StoreHome
from tests.support.cancel import cancelled_at_each_step
from tests.support.values import HOUR, T0, entry, selectors

WEB, DB, LOG = entry("web"), entry("db"), entry("log")
FULL = entry(
    "full",
    selectors=selectors('unix:path:/opt/naïve "app"', "socket:a:b", "unix:uid:0"),
    created_at=T0 + timedelta(microseconds=1),
    ttl=timedelta(seconds=90, microseconds=1),
    dns_names=("web.example.org", "*.example.org"),
    hint="é" * (MAX_HINT_BYTES // 2),
    default=True,
    federates_with=frozenset({TrustDomain("b.org"), TrustDomain("a.org")}),
    expires_at=T0 + HOUR,
    source="team/ö",
)


async def test_a_new_store_has_no_entries(entries: EntryStore):
    assert await entries.entries() == ()


async def test_entries_come_back_equal_ordered_by_creation_then_id(entries: EntryStore):
    early, upper = entry("zoo", created_at=T0 - HOUR), entry("Web")
    for made in (WEB, FULL, DB, early, upper):
        await entries.create(made)

    assert await entries.entries() == (early, upper, DB, WEB, FULL)


async def test_an_entry_of_a_taken_id_is_refused(entries: EntryStore):
    await entries.create(WEB)

    with pytest.raises(AlreadyExists) as refused:
        await entries.create(replace(DB, id="web"))

    assert refused.value.existing == "web"
    assert await entries.entries() == (WEB,)


async def test_an_identical_entry_is_refused_with_the_id_of_the_existing_one(entries: EntryStore):
    await entries.create(WEB)
    await entries.create(replace(WEB, id="more selectors", selectors=WEB.selectors | DB.selectors))
    await entries.create(replace(WEB, id="other ID", spiffe_id=DB.spiffe_id))

    with pytest.raises(AlreadyExists) as refused:
        await entries.create(replace(WEB, id="twin", ttl=HOUR))

    assert refused.value.existing == "web"
    assert len(await entries.entries()) == 3


async def test_an_update_replaces_the_entry_of_that_id(entries: EntryStore):
    await entries.create(WEB)
    await entries.create(DB)
    changed = replace(FULL, id="web")

    await entries.update(changed)
    await entries.update(changed)

    assert await entries.entries() == (DB, changed)


async def test_an_update_of_nothing_or_into_another_entry_is_refused_and_changes_nothing(entries: EntryStore):
    await entries.create(DB)
    await entries.create(WEB)

    with pytest.raises(NotFound, match="log"):
        await entries.update(LOG)
    with pytest.raises(AlreadyExists) as refused:
        await entries.update(replace(DB, id="web"))

    assert refused.value.existing == "db"
    assert await entries.entries() == (DB, WEB)


async def test_a_deleted_entry_is_gone_and_can_not_be_deleted_again(entries: EntryStore):
    await entries.create(WEB)
    await entries.create(DB)

    await entries.delete("web")

    assert await entries.entries() == (DB,)
    with pytest.raises(NotFound, match="web"):
        await entries.delete("web")


async def test_apply_deletes_then_creates_and_replaces(entries: EntryStore):
    await entries.apply([WEB, DB], [])
    longer = replace(DB, ttl=HOUR)

    await entries.apply([longer, replace(WEB, id="web 2"), LOG], ["web", "web"])

    assert await entries.entries() == (longer, LOG, replace(WEB, id="web 2"))


async def test_apply_can_swap_what_two_entries_say(entries: EntryStore):
    await entries.apply([WEB, DB], [])

    await entries.apply([replace(DB, id="web"), replace(WEB, id="db")], [])

    assert await entries.entries() == (replace(WEB, id="db"), replace(DB, id="web"))


async def test_the_last_of_one_id_wins_within_an_apply_and_an_empty_apply_is_no_error(entries: EntryStore):
    await entries.apply([], [])

    await entries.apply([WEB, replace(WEB, ttl=HOUR)], [])

    assert await entries.entries() == (replace(WEB, ttl=HOUR),)


@pytest.mark.parametrize(
    ("put", "delete", "refusal", "existing"),
    [
        ([LOG], ["db", "nobody"], NotFound, ""),
        ([LOG], ["nobody"], NotFound, ""),
        ([LOG, replace(WEB, id="twin")], ["db"], AlreadyExists, "web"),
        ([LOG, replace(LOG, id="twin")], ["db"], AlreadyExists, "log"),
        ([replace(DB, id="web")], [], AlreadyExists, "db"),
    ],
    ids=[
        "delete a missing one",
        "delete only a missing one",
        "twin of a kept one",
        "twin of a new one",
        "become a kept one",
    ],
)
async def test_a_refused_apply_changes_nothing(
    entries: EntryStore, put: list[Entry], delete: list[str], refusal: type[MeshcaError], existing: str
):
    await entries.apply([WEB, DB], [])

    with pytest.raises(refusal) as refused:
        await entries.apply(put, delete)

    assert getattr(refused.value, "existing", "") == existing
    assert await entries.entries() == (DB, WEB)


async def test_of_many_identical_creations_at_once_one_succeeds(entries: EntryStore):
    outcomes = await asyncio.gather(
        *(entries.create(replace(WEB, id=f"web {n}")) for n in range(16)), return_exceptions=True
    )

    (made,) = await entries.entries()
    assert [outcome.existing for outcome in outcomes if isinstance(outcome, AlreadyExists)] == [made.id] * 15


async def test_readers_never_see_half_of_an_apply(entries: EntryStore):
    pairs = [[entry("a", hint=str(n)), entry("b", hint=str(n))] for n in range(20)]

    async def write() -> None:
        for pair in pairs:
            await entries.apply(pair, [])

    async def read() -> None:
        for _ in pairs:
            seen = await entries.entries()
            assert len(seen) in {0, 2}
            assert len({one.hint for one in seen}) <= 1

    await asyncio.gather(write(), read(), read())


async def test_a_cancelled_apply_has_done_all_or_nothing(entries: EntryStore):
    async def apply(n: int) -> None:
        await entries.apply([entry(f"{n}-{part}") for part in range(8)], [])

    async def check(n: int) -> None:
        kept = [one for one in await entries.entries() if one.id.startswith(f"{n}-")]
        assert len(kept) in {0, 8}

    await cancelled_at_each_step(apply, check)


async def test_entries_outlive_the_process_where_the_store_persists(store_home: StoreHome):
    async with store_home.open() as store:
        await store.entries.apply([WEB, FULL], [])
    async with store_home.open() as store:
        assert await store.entries.entries() == ((WEB, FULL) if store_home.persists else ())
