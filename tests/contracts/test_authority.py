"""What every Authority owes an agent. The scripted one of our tests is held to it too, or tests against it would prove little."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from meshca.csr import make_csr
from meshca.errors import NotFound
from meshca.model import Entry, HolderReport, Issued, IssueRequest
from meshca.ports import Authority, Clock
from spiffe.x509svid import X509SVID
from spiffe.x509verify import verify
from tests.support.ca import memory_ca
from tests.support.clock import FakeClock
from tests.support.scripted import ScriptedAuthority
from tests.support.values import OURS, entry
from tests.support.wait import until

Key = ec.EllipticCurvePrivateKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """A CA of example.org as its agent and its administrator see it."""

    authority: Authority
    clock: Clock
    add: Callable[[Entry], Awaitable[object]]


async def scripted(_: Path) -> Home:
    authority = ScriptedAuthority(clock=FakeClock())
    authority.start()

    async def add(made: Entry) -> None:
        authority.change(entries=(*authority.view.value.entries, made))

    return Home(authority=authority, clock=authority.clock, add=add)


async def server(directory: Path) -> Home:
    clock = FakeClock()
    made = memory_ca(clock, directory)
    await made.start()
    return Home(authority=made.ca, clock=clock, add=made.registry.create)


@pytest.fixture(params=[scripted, server], ids=["scripted", "server"])
async def home(request: pytest.FixtureRequest, tmp_path: Path) -> Home:
    return await request.param(tmp_path)


def request(key: Key, entry_id: str = "web") -> IssueRequest:
    return IssueRequest(entry_id=entry_id, csr=make_csr(key), holder="unix/1/2/web")


def new_key() -> Key:
    return ec.generate_private_key(ec.SECP256R1())


async def issued(home: Home, *requests: IssueRequest) -> tuple[Issued, ...]:
    outcomes = await home.authority.issue(requests)
    assert all(isinstance(outcome, Issued) for outcome in outcomes)
    return outcomes  # type: ignore[return-value]


async def test_the_view_has_entries_bundle_and_signer_and_a_revision_that_rises_with_each_change(home: Home):
    before = home.authority.view.value
    await home.add(entry("web"))

    after = await until(lambda: home.authority.view.value.entries and home.authority.view.value)

    assert after.revision > before.revision
    assert [each.id for each in after.entries] == ["web"]
    assert (after.trust_domain, after.active != "") == (OURS, True)
    assert len(after.bundles[OURS].x509_authorities) == 1


async def test_a_leaf_says_what_its_entry_says_for_the_key_of_the_csr_and_verifies_against_the_bundle(home: Home):
    await home.add(entry("web", dns_names=("web.example.org",)))
    key = new_key()

    (outcome,) = await issued(home, request(key))

    svid = X509SVID(spiffe_id=entry("web").spiffe_id, chain=outcome.chain, private_key=key)
    assert verify(svid.chain, home.authority.view.value.bundles, home.clock.now()) == svid.spiffe_id
    assert (outcome.leaf.spiffe_id, outcome.leaf.entry_id, outcome.leaf.holder) == (
        svid.spiffe_id,
        "web",
        "unix/1/2/web",
    )
    assert (outcome.leaf.serial, outcome.leaf.not_after) == (svid.serial, svid.not_after)
    assert outcome.leaf.intermediate_id == home.authority.view.value.active
    assert outcome.leaf.issued_at == home.clock.now()


async def test_a_batch_has_one_outcome_for_each_request_in_order_and_a_refusal_spoils_nothing(home: Home):
    await home.add(entry("web"))
    keys = [new_key() for _ in range(3)]

    first, refused, last = await home.authority.issue([request(keys[0]), request(keys[1], "nobody"), request(keys[2])])

    assert isinstance(refused, NotFound)
    assert "nobody" in str(refused)
    for outcome, key in ((first, keys[0]), (last, keys[2])):
        assert isinstance(outcome, Issued)
        assert _public(outcome.chain[0]) == _public(key)
    assert first.leaf.serial != last.leaf.serial
    assert await home.authority.issue([]) == ()


async def test_reports_are_taken_from_anybody_about_anything(home: Home):
    await home.add(entry("web"))
    (outcome,) = await issued(home, request(new_key()))
    for report in (
        HolderReport(holder="unix/1/2/web", bundle="unknown", held=frozenset({outcome.leaf.serial})),
        HolderReport(holder="unix/1/2/web", replaced=frozenset({outcome.leaf.serial, 5})),
        HolderReport(holder="nobody", gone=True),
        HolderReport(holder="unix/1/2/web", gone=True),
    ):
        home.authority.report([report, report])
    home.authority.report([])


def _public(holder: object) -> bytes:
    return holder.public_key().public_bytes(  # type: ignore[attr-defined]
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
