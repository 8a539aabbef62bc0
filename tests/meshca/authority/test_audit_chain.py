import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from meshca.adapters.store_memory import MemoryAuditLog
from meshca.authority.record import Chain, _hash_of, head_text, leaf_of, link, parse_head, signed_facts
from meshca.authority.recorder import Note, Recorder
from meshca.errors import InvalidInput, Refused, StoreUnavailable
from meshca.model import AuditKind, AuditQuery, AuditRecord
from tests.support.clock import START, FakeClock
from tests.support.kernel import HOUR, Kernel
from tests.support.pki import CA, new_key

AUTHORITY = CA.create()
RSA = CA.create(key=new_key("rsa2048"))
SIGNER: tuple[Any, Any] = (AUTHORITY.key, AUTHORITY.certificate)
Links = list[AuditRecord]


async def recorded(count: int, *, log: MemoryAuditLog | None = None) -> tuple[Recorder, MemoryAuditLog]:
    """A recorder that has written so many links, a minute apart."""
    log, clock = log or MemoryAuditLog(), FakeClock()
    recorder = Recorder(log=log, clock=clock, writer="server")
    for number in range(count):
        await recorder.append([Note(kind=AuditKind.ADMIN, facts={"n": number}, spiffe_id="spiffe://example.org/a")])
        clock.advance(timedelta(minutes=1))
    return recorder, log


def verified(links: Sequence[AuditRecord], head: str = "") -> int:
    chain = Chain(head)
    for each in links:
        chain.verify(each)
    chain.end()
    return chain.count


async def chain(count: int = 5) -> Links:
    _, log = await recorded(count)
    return list(await log.read("server", 0, 1000))


def changed(number: int, **fields: Any) -> Callable[[Links], Links]:
    return lambda links: [replace(each, **fields) if each.sequence == number else each for each in links]


def rewritten(links: Links) -> Links:
    """Record 3 is another, with a hash that fits; what follows still names the old one."""
    other = link(links[1], writer="server", at=START, kind=AuditKind.ADMIN, facts={"n": "forged"})
    return [*links[:2], other, *links[3:]]


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (changed(3, body='{"n":7}'), "record 3 of server was changed: its hash does not fit"),
        (changed(3, at=START), "record 3 of server was changed"),
        (changed(3, kind=AuditKind.ISSUED), "record 3 of server was changed"),
        (changed(3, serial="ab"), "record 3 of server was changed"),
        (changed(3, spiffe_id=""), "record 3 of server was changed"),
        (changed(3, not_after=START), "record 3 of server was changed"),
        (changed(3, hash="ab" * 32), "record 3 of server was changed"),
        (changed(1, previous="ab" * 32), "record 1 of server was changed"),
        (changed(3, previous="ab" * 32), "record 3 of server does not follow record 2"),
        (rewritten, "record 4 of server does not follow record 3"),
        (lambda links: links[:2] + links[3:], "record 3 of server is missing: 4 follows 2"),
        (lambda links: [links[0], links[2], links[1], *links[3:]], "record 2 of server is missing: 3 follows 1"),
        (lambda links: [*links[:2], links[1], *links[2:]], "record 3 of server is missing: 2 follows 2"),
        (lambda links: links[1:], "starts at record 2, and no signed anchor says why"),
    ],
    ids=[
        "edited body",
        "edited time",
        "edited kind",
        "edited serial",
        "edited SPIFFE ID",
        "edited expiry",
        "edited hash",
        "edited start",
        "edited link",
        "rewritten",
        "gap",
        "turned round",
        "twice",
        "cut at the start",
    ],
)
async def test_whatever_is_done_to_a_chain_shows_and_the_record_is_named(damage: Callable[[Links], Links], text: str):
    links = await chain()
    assert verified(links) == 5
    with pytest.raises(Refused, match=text):
        verified(damage(links))


async def test_truncation_shows_against_a_head_that_was_kept():
    links = await chain()
    head = head_text(links[-1], "server")
    assert verified(links, head) == 5
    assert verified(links, head_text(links[2], "server")) == 5
    assert verified(links[:4]) == 4
    with pytest.raises(Refused, match="was cut: the head says 5 records, there are 4"):
        verified(links[:4], head)
    with pytest.raises(Refused, match="was cut: the head says 5 records, there are 0"):
        verified([], head)
    with pytest.raises(Refused, match="record 3 of server is not the one that the head names"):
        verified(links, f"server:3:{'ab' * 32}")
    with pytest.raises(Refused, match="the head is of the audit log of other, this one is of server"):
        verified(links, "other:3:ab")


def test_an_empty_chain_has_a_head_too():
    assert head_text(None, "server") == "server:0:"
    assert verified([], "server:0:") == 0


@pytest.mark.parametrize(
    "text", ["", "server", "server:1", ":1:ab", "server:x:ab", "server:²:ab", "server:1:AB", "a:1:ab\n"]
)
def test_what_is_no_head_is_refused_with_the_text(text: str):
    with pytest.raises(InvalidInput, match="is not written writer:sequence:hash"):
        parse_head(text)


@given(st.text(st.characters(exclude_characters=":"), min_size=1), st.integers(0, 10**18 - 1), st.integers(0))
def test_a_head_reads_back_as_it_was_written(writer: str, sequence: int, number: int):
    assert parse_head(f"{writer}:{sequence}:{number:x}") == (writer, sequence, f"{number:x}")


async def test_a_new_process_goes_on_where_the_last_one_ended():
    recorder, log = await recorded(3)
    head = recorder.head
    again = Recorder(log=log, clock=FakeClock(), writer="server")
    assert (again.head, again.sequence) == ("server:0:", 0)
    await again.load()
    assert (again.head, again.sequence) == (head, 3)
    await again.append([])
    await again.append([Note(kind=AuditKind.ADMIN, facts={})])
    assert await again.verify_all(head) == 4


async def test_an_append_that_was_cut_short_but_done_leaves_the_chain_whole():
    recorder, log = await recorded(2)
    stale, _ = await recorded(0, log=log)
    await stale.append([Note(kind=AuditKind.ADMIN, facts={"a": 1}), Note(kind=AuditKind.ADMIN, facts={"a": 2})])
    assert await recorder.sign_head(*SIGNER) == recorder.head
    assert await recorder.verify_all() == 5


@pytest.mark.parametrize("authority", [AUTHORITY, RSA], ids=["EC", "RSA"])
async def test_a_signed_head_is_checked_with_the_certificate_in_it(authority: Any):
    recorder, log = await recorded(2)
    head = await recorder.sign_head(authority.key, authority.certificate)
    assert head == recorder.head
    links = list(await log.read("server", 0, 1000))
    assert verified(links, head) == 3


def resigned(links: Links, **facts: Any) -> Links:
    """The last link with a body of somebody's choosing, and a hash that fits."""
    last = link(links[-2], writer="server", at=START, kind=AuditKind.HEAD, facts=facts)
    return [*links[:-1], last]


@pytest.mark.parametrize("authority", [AUTHORITY, RSA], ids=["EC", "RSA"])
async def test_a_forged_signature_of_a_head_shows(authority: Any):
    recorder, log = await recorded(2)
    await recorder.sign_head(authority.key, authority.certificate)
    links = list(await log.read("server", 0, 1000))
    facts = json.loads(links[-1].body)
    foreign = CA.create("example.com", key=new_key("ed25519")).certificate
    for forged in (
        facts | {"head": "server:2:ab"},
        facts | {"signature": facts["signature"][::-1]},
        facts | {"certificate": "AAAA"},
        facts | {"certificate": base64.b64encode(foreign.public_bytes(Encoding.DER)).decode()},
        {"head": facts["head"]},
    ):
        with pytest.raises(Refused, match="the signature of record 3 of server is wrong"):
            verified(resigned(links, **forged))


HOSTILE = [
    "",
    "not json",
    "[]",
    "null",
    '"certificate"',
    "{}",
    '{"certificate":5}',
    '{"certificate":[],"signature":""}',
    '{"certificate":"é","signature":""}',
    '{"certificate":"\ud800","signature":""}',
    '{"certificate":"AAAA","signature":5}',
    '{"certificate":' + "9" * 5000 + "}",
    "[" * 100_000,
    '{"certificate":' * 100_000,
    '"\ud800',
]


@pytest.mark.parametrize("kind", [AuditKind.HEAD, AuditKind.ANCHOR, AuditKind.ISSUED])
@pytest.mark.parametrize("body", HOSTILE, ids=lambda body: body[:24].encode(errors="replace"))
async def test_a_body_that_nobody_would_write_is_refused_with_the_record_named(kind: AuditKind, body: str):
    """By who can write the disk: with a hash that fits, or without."""
    links = await chain(3)
    other = replace(links[2], kind=kind, body=body)
    with pytest.raises(Refused, match="record 3 of server was changed"):
        verified([*links[:2], other])
    other = replace(other, hash=_hash_of(other))
    if kind is AuditKind.ISSUED:
        with pytest.raises(Refused, match="record 3 of server tells of no leaf"):
            leaf_of(other)
    else:
        with pytest.raises(Refused, match="the signature of record 3 of server is wrong"):
            verified([*links[:2], other])


async def test_odd_facts_that_were_signed_are_checked_as_any_other():
    links = await chain(3)
    facts = {"head": "\ud800", "more": [float("nan")], "hash": {}}
    with pytest.raises(Refused, match="record 3 of server names another head"):
        verified(resigned(links, **signed_facts(facts, *SIGNER)))


@pytest.mark.parametrize(
    "changes",
    [{"serial": ""}, {"serial": "xyz"}, {"spiffe_id": ""}, {"spiffe_id": "spiffe://"}, {"body": '{"entry":"web"}'}],
    ids=str,
)
async def test_an_issued_record_that_tells_of_no_leaf_is_named(changes: dict[str, str]):
    kernel = await Kernel.started()
    await kernel.leaf()
    (record,) = await kernel.audit.find(AuditQuery(kind=AuditKind.ISSUED))
    with pytest.raises(Refused, match=f"record {record.sequence} of server tells of no leaf"):
        leaf_of(replace(record, **changes))


async def test_a_signed_head_that_belongs_elsewhere_shows():
    recorder, log = await recorded(2)
    await recorder.sign_head(*SIGNER)
    links = list(await log.read("server", 0, 1000))
    facts = json.loads(links[-1].body)
    elsewhere = link(links[0], writer="server", at=START, kind=AuditKind.HEAD, facts=facts)
    with pytest.raises(Refused, match="record 2 of server names another head than record 1"):
        verified([links[0], elsewhere])


async def test_pruning_leaves_a_signed_anchor_and_the_rest_still_verifies():
    recorder, log = await recorded(5)
    kept = recorder.head
    removed, head = await recorder.prune(START + timedelta(minutes=3), *SIGNER)
    assert (removed, head) == (3, recorder.head)
    assert await recorder.verify_all(head) == 3
    assert await recorder.verify_all(kept) == 3
    links = list(await log.read("server", 0, 1000))
    assert [each.sequence for each in links] == [4, 5, 6]
    third = (await chain())[2]
    assert verified(links, head_text(third, "server")) == 3
    with pytest.raises(Refused, match="record 3 of server is not the one that the head names"):
        verified(links, f"server:3:{'ab' * 32}")
    with pytest.raises(Refused, match="the head is of record 2, which was pruned: the audit log starts at 4"):
        verified(links, f"server:2:{third.previous}")
    with pytest.raises(Refused, match="starts at record 5, and no signed anchor says why"):
        verified(links[1:])
    assert (await recorder.prune(START, *SIGNER))[0] == 0


async def test_all_may_be_pruned_but_the_anchor():
    recorder, _ = await recorded(5)
    assert (await recorder.prune(START + HOUR, *SIGNER))[0] == 5
    assert await recorder.verify_all(recorder.head) == 1
    assert (await recorder.prune(START + HOUR, *SIGNER))[0] == 1


async def test_what_tells_of_a_valid_leaf_is_not_pruned():
    kernel = await Kernel.started()
    issued = await kernel.leaf()
    await kernel.passes(HOUR / 2)
    await kernel.leaf(holder="p2")
    await kernel.rotation.prune_record(kernel.clock.now() + HOUR)
    await kernel.restart()
    assert kernel.ledger.names() == {"p1", "p2"}
    assert issued.leaf.serial in {leaf.serial for leaf in await kernel.recorder.live()}
    await kernel.recorder.verify_all(kernel.recorder.head)
    await kernel.passes(HOUR)
    removed, head = await kernel.rotation.prune_record(kernel.clock.now())
    assert removed > 0
    assert await kernel.recorder.verify_all(head) > 0
    assert await kernel.rotation.sign_head() == kernel.recorder.head


async def test_a_leaf_reads_back_from_its_record_as_it_was_issued():
    kernel = await Kernel.started()
    issued = await kernel.leaf("web", holder="p1")
    (leaf,) = await kernel.recorder.live()
    assert leaf == issued.leaf
    (record,) = await kernel.audit.find(AuditQuery(serial=issued.leaf.serial, kind=AuditKind.ISSUED))
    assert leaf_of(record) == issued.leaf
    assert leaf_of(replace(record, not_after=None)).not_after == record.at


async def test_nothing_counts_as_written_that_the_store_refused():
    recorder, log = await recorded(2)
    head = recorder.head

    class Full(MemoryAuditLog):
        async def append(self, *_: object) -> None:
            raise StoreUnavailable("the disk is full")

    recorder._log = Full()
    with pytest.raises(StoreUnavailable):
        await recorder.append([Note(kind=AuditKind.ADMIN, facts={})])
    assert recorder.head == head
    recorder._log = log
    await recorder.append([Note(kind=AuditKind.ADMIN, facts={})])
    assert await recorder.verify_all(head) == 3
