"""The CA as agents see it: what it signs for whom, and what it keeps back."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from meshca.adapters.store_memory import MemoryAuditLog
from meshca.csr import make_csr
from meshca.errors import IssuanceRefused, NotFound
from meshca.model import AuditKind, AuditRecord, Issued, IssueRequest, Kind
from tests.support.ca import memory_ca
from tests.support.clock import FakeClock
from tests.support.values import entry

CSR = make_csr(ec.generate_private_key(ec.SECP256R1()))


class Interrupted(MemoryAuditLog):
    """A log during whose writing of `issued` links something else happens."""

    def __init__(self) -> None:
        super().__init__()
        self.meanwhile: Callable[[], None] = lambda: None

    async def append(self, records: Sequence[AuditRecord]) -> None:
        if any(record.kind is AuditKind.ISSUED for record in records):
            self.meanwhile()
        await super().append(records)


def request(entry_id: str) -> IssueRequest:
    return IssueRequest(entry_id=entry_id, csr=CSR, holder="p1")


@pytest.mark.parametrize("gone", [set(Kind), {Kind.INTERMEDIATE}], ids=["both", "intermediate"])
async def test_a_leaf_whose_issuer_left_while_it_was_signed_does_not_leave_either(tmp_path: Path, gone: set[Kind]):
    log = Interrupted()
    server = memory_ca(FakeClock(), tmp_path, audit=log)
    await server.start()
    await server.registry.create(entry("web"))

    def drop() -> None:
        kept = tuple(slot for slot in server.rotation.slots.slots if slot.kind not in gone)
        server.rotation.slots = replace(server.rotation.slots, slots=kept)

    log.meanwhile = drop
    (outcome,) = await server.ca.issue([request("web")])
    assert isinstance(outcome, IssuanceRefused)
    assert outcome.reason == "issuer_gone"
    assert server.ledger.names() == frozenset()


async def test_a_holder_that_cannot_be_looked_at_holds_up_neither_a_start_nor_the_end_of_others(tmp_path: Path):
    log, clock, ended = MemoryAuditLog(), FakeClock(), set[str]()

    def is_gone(holder: str) -> bool:
        if holder == "strange":
            raise ValueError("no such field")
        return holder in ended

    server = memory_ca(clock, tmp_path, audit=log)
    await server.start()
    await server.registry.create(entry("web"))
    await server.ca.issue([replace(request("web"), holder=each) for each in ("before", "strange", "zombie")])

    again = memory_ca(clock, tmp_path, audit=log, is_gone=is_gone)
    await again.start()
    assert again.ledger.names() == {"before", "strange", "zombie"}
    ended |= {"before", "zombie"}
    _, reap = again.chores["ended processes"]
    await reap()
    assert again.ledger.names() == {"strange"}


async def test_each_request_has_its_outcome_in_order_and_an_unknown_entry_spoils_no_other(tmp_path: Path):
    server = memory_ca(FakeClock(), tmp_path)
    await server.start()
    await server.registry.create(entry("web"))
    wanted = ["web", "unknown"] * 70  # more than one chunk
    outcomes = await server.ca.issue([request(each) for each in wanted])
    assert [type(outcome) for outcome in outcomes] == [Issued, NotFound] * 70
    assert len({outcome.leaf.serial for outcome in outcomes if isinstance(outcome, Issued)}) == 70


async def test_without_an_active_intermediate_nothing_is_signed_and_the_reason_is_told(tmp_path: Path):
    server = memory_ca(FakeClock(), tmp_path)
    await server.registry.create(entry("web"))
    (outcome,) = await server.ca.issue([request("web")])
    assert isinstance(outcome, IssuanceRefused)
    assert outcome.reason == "no_issuer"


async def test_an_entry_is_not_removed_by_a_clock_that_has_just_jumped(tmp_path: Path):
    clock = FakeClock()
    server = memory_ca(clock, tmp_path)
    await server.start()
    await server.registry.create(entry("web", expires_at=clock.now() + timedelta(hours=1)))
    _, expire = server.chores["expired entries"]
    clock.jump(timedelta(hours=2))
    await expire()
    (refused,) = await server.ca.issue([request("web")])
    assert isinstance(refused, NotFound), "by the wall clock it grants nothing"
    assert server.registry.find("web") is not None
    clock.advance(timedelta(minutes=5))
    await expire()
    assert server.registry.find("web") is None
