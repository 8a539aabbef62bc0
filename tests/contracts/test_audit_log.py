import asyncio
from datetime import timedelta

import pytest

from meshca.errors import StoreConflict
from meshca.model import AuditKind, AuditQuery, AuditRecord
from meshca.ports import AuditLog
from spiffe.id import SpiffeID
from tests.contracts.conftest import StoreHome
from tests.support.cancel import cancelled_at_each_step
from tests.support.values import HOUR, T0, link

MICROSECOND = timedelta(microseconds=1)
SERIAL = 2**159 + 11
WEB, DB = SpiffeID.parse("spiffe://example.org/web"), SpiffeID.parse("spiffe://example.org/db")


async def test_a_new_log_is_empty(audit: AuditLog):
    assert await audit.head("a") is None
    assert await audit.read("a", 0, 10) == ()
    assert await audit.find(AuditQuery()) == ()
    assert await audit.live(T0) == ()
    assert await audit.prune("a", 10) == 0


async def test_links_come_back_equal_in_the_order_of_their_chain(audit: AuditLog):
    full = link(
        "a",
        2,
        at=T0 + MICROSECOND,
        kind=AuditKind.ISSUED,
        body='{"dns":["ö.example.org"],"n":1}',
        serial=f"{SERIAL:x}",
        spiffe_id=str(WEB),
        not_after=T0 + HOUR,
    )
    await audit.append([link("a", 1), link("b", 1), full])
    await audit.append([])
    await audit.append([link("a", 3)])

    assert await audit.read("a", 0, 10) == (link("a", 1), full, link("a", 3))
    assert await audit.read("a", 1, 1) == (full,)
    assert await audit.read("a", 3, 10) == await audit.read("nobody", 0, 10) == ()
    assert await audit.head("a") == link("a", 3)
    assert await audit.head("b") == link("b", 1)


async def test_a_kind_that_another_program_wrote_comes_back_as_it_is(audit: AuditLog):
    odd = link("a", 1, kind="moved")
    await audit.append([odd])
    assert await audit.read("a", 0, 10) == await audit.find(AuditQuery()) == (odd,)
    assert await audit.find(AuditQuery(kind=AuditKind.HEAD)) == ()


@pytest.mark.parametrize(
    "batch",
    [[link("a", 3), link("a", 2)], [link("a", 3), link("a", 3)], [link("a", 1)]],
    ids=["taken", "taken within the batch", "taken first"],
)
async def test_a_taken_sequence_number_is_a_conflict_and_nothing_is_appended(audit: AuditLog, batch: list[AuditRecord]):
    await audit.append([link("a", 1), link("a", 2)])

    with pytest.raises(StoreConflict):
        await audit.append([link("b", 1), *batch])

    assert await audit.find(AuditQuery()) == (link("a", 2), link("a", 1))


async def test_a_query_narrows_by_what_it_names_newest_first(audit: AuditLog):
    issued = link("a", 1, kind=AuditKind.ISSUED, serial=f"{SERIAL:x}", spiffe_id=str(WEB))
    intent = link("b", 1, at=T0 - HOUR, serial=f"{SERIAL:x}", spiffe_id=str(WEB))  # a clock that jumped back
    other = link("a", 2, kind=AuditKind.ISSUED, serial="a", spiffe_id=str(DB))
    head = link("a", 3, kind=AuditKind.HEAD)
    for appended in (issued, intent, other, head):
        await audit.append([appended])

    assert await audit.find(AuditQuery()) == (head, other, issued, intent)
    assert await audit.find(AuditQuery(limit=2)) == (head, other)
    assert await audit.find(AuditQuery(serial=SERIAL)) == (issued, intent)
    assert await audit.find(AuditQuery(serial=10)) == (other,)
    assert await audit.find(AuditQuery(serial=0)) == ()
    assert await audit.find(AuditQuery(spiffe_id=WEB)) == (issued, intent)
    assert await audit.find(AuditQuery(kind=AuditKind.HEAD)) == (head,)
    assert await audit.find(AuditQuery(since=other.at)) == (head, other)
    assert await audit.find(AuditQuery(since=other.at + MICROSECOND)) == (head,)
    same_time = link("c", 1, at=head.at)
    await audit.append([same_time])
    assert await audit.find(AuditQuery(limit=2)) == (same_time, head)
    assert await audit.find(AuditQuery(serial=SERIAL, spiffe_id=WEB, kind=AuditKind.ISSUED, since=T0)) == (issued,)
    assert await audit.find(AuditQuery(serial=SERIAL, spiffe_id=DB)) == ()


async def test_live_are_the_issued_links_that_have_not_ended_oldest_first(audit: AuditLog):
    longest = link("a", 1, kind=AuditKind.ISSUED, not_after=T0 + HOUR)
    intent = link("a", 2, kind=AuditKind.INTENT, not_after=T0 + HOUR)
    ends = link("b", 1, kind=AuditKind.ISSUED, not_after=T0 + MICROSECOND)
    unending = link("b", 2, kind=AuditKind.ISSUED)
    await audit.append([longest, intent, ends, unending])

    assert await audit.live(T0) == (longest, ends)
    assert await audit.live(T0 + MICROSECOND) == (longest,)
    assert await audit.live(T0 + HOUR) == ()


async def test_pruning_removes_the_old_links_of_one_writer(audit: AuditLog):
    await audit.append([link(writer, n) for n in (1, 2, 3) for writer in ("a", "b")])

    assert await audit.prune("a", 2) == 2
    assert await audit.prune("a", 2) == 0
    await audit.append([link("a", 4)])

    assert await audit.read("a", 0, 10) == (link("a", 3), link("a", 4))
    assert len(await audit.read("b", 0, 10)) == 3
    assert await audit.find(AuditQuery(limit=1)) == (link("a", 4),)
    assert await audit.prune("a", 99) == 2
    assert await audit.head("a") is None


async def test_writers_append_at_once_and_each_chain_is_whole(audit: AuditLog):
    async def write(writer: str) -> None:
        for start in range(1, 161, 16):
            await audit.append([link(writer, n) for n in range(start, start + 16)])

    await asyncio.gather(*map(write, "abcd"))

    for writer in "abcd":
        assert [one.sequence for one in await audit.read(writer, 0, 1000)] == list(range(1, 161))


async def test_of_many_who_append_one_link_one_succeeds(audit: AuditLog):
    attempts = (audit.append([link("a", 1), link(f"b{n}", 1)]) for n in range(8))
    outcomes = await asyncio.gather(*attempts, return_exceptions=True)

    assert outcomes.count(None) == 1
    assert sum(isinstance(outcome, StoreConflict) for outcome in outcomes) == 7
    assert len(await audit.find(AuditQuery())) == 2


async def test_a_cancelled_append_has_done_all_or_nothing(audit: AuditLog):
    async def append(n: int) -> None:
        await audit.append([link(f"w{n}", part) for part in range(64)])

    async def check(n: int) -> None:
        assert len(await audit.read(f"w{n}", -1, 100)) in {0, 64}

    await cancelled_at_each_step(append, check)


async def test_the_log_outlives_the_process_where_the_store_persists(store_home: StoreHome):
    async with store_home.open() as store:
        await store.audit.append([link("a", 1), link("a", 2)])
    async with store_home.open() as store:
        kept = await store.audit.read("a", 0, 10)
        assert kept == ((link("a", 1), link("a", 2)) if store_home.persists else ())
