import asyncio
import hashlib
import json
import logging
import pickle
import shutil
import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from meshca.adapters.keys_memory import MemoryKeyManager
from meshca.adapters.store_memory import MemoryAuditLog
from meshca.authority.draft import Draft
from meshca.authority.issue import Issuer, Order
from meshca.authority.lint import lint
from meshca.csr import make_csr
from meshca.errors import IssuanceRefused, KeyGone, StoreUnavailable
from meshca.model import AuditKind, AuditQuery, AuditRecord, Issued, KeyType, Kind
from spiffe.bundle import BundleSet
from spiffe.x509verify import verify
from tests.support.clock import START
from tests.support.kernel import CSR, HOUR, KEY_TYPES, LEAF_KEY, Kernel
from tests.support.pki import CA, pem
from tests.support.values import OURS, entry, slot

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")


def order(name: str, csr: bytes = CSR, **changes: object) -> Order:
    return Order(entry=entry(name, **changes), csr=csr, holder=f"process of {name}")


async def kinds(kernel: Kernel) -> list[str]:
    """The kinds of links that the last batch left, in order."""
    links = await kernel.audit.read("server", 0, 1000)
    start = max(number for number, each in enumerate(links) if each.kind is AuditKind.AUTHORITY)
    return [str(each.kind) for each in links[start + 1 :]]


async def test_one_refused_order_spoils_no_other_and_each_has_its_outcome_in_order():
    kernel = await Kernel.started()
    orders = [order("web"), order("db", csr=b"no CSR"), order("api"), order("long", ttl=timedelta(seconds=10))]
    outcomes = await kernel.issuer.issue(orders, kernel.intermediate)
    assert [type(outcome) for outcome in outcomes] == [Issued, IssuanceRefused, Issued, Issued]
    for asked, outcome in zip(orders, outcomes, strict=True):
        if isinstance(outcome, Issued):
            assert outcome.leaf.spiffe_id == asked.entry.spiffe_id
            assert (outcome.leaf.entry_id, outcome.leaf.holder) == (asked.entry.id, asked.holder)
            assert outcome.chain[0].serial_number == outcome.leaf.serial
            assert outcome.chain[0].not_valid_after_utc == outcome.leaf.not_after
            assert outcome.chain[0].public_key() == LEAF_KEY.public_key()
            verify(outcome.chain, BundleSet([kernel.slots.bundle]), START)
    assert await kinds(kernel) == ["intent", "refused", "intent", "intent", "issued", "issued", "issued"]


async def test_an_intent_says_what_is_to_be_signed_and_its_completion_which_certificate_that_became():
    kernel = await Kernel.started()
    issued = await kernel.leaf(dns_names=("web.local", "www.local"))
    done, intent = await kernel.audit.find(AuditQuery(serial=issued.leaf.serial))
    assert (intent.kind, done.kind) == (AuditKind.INTENT, AuditKind.ISSUED)
    assert (intent.spiffe_id, intent.not_after) == (done.spiffe_id, done.not_after)
    assert done.spiffe_id == "spiffe://example.org/web"
    certificate, root = issued.chain[0], kernel.root.id
    whose = {"entry": "web", "holder": "p1", "intermediate": kernel.intermediate.id, "root": root}
    meant = {"dns_names": ["web.local", "www.local"], "not_before": certificate.not_valid_before_utc.isoformat()}
    assert json.loads(intent.body) == {**whose, **meant, "key_sha256": key_hash(certificate)}
    assert json.loads(done.body) == {**whose, "certificate_sha256": certificate.fingerprint(hashes.SHA256()).hex()}


def key_hash(certificate: x509.Certificate) -> str:
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(key).hexdigest()


@pytest.mark.parametrize("kind", Kind)
async def test_the_record_tells_an_authority_from_any_other_of_its_name(kind: Kind):
    kernel = await Kernel.started()
    certificate = kernel.active(kind).certificate
    done, intent = await kernel.audit.find(AuditQuery(serial=certificate.serial_number))
    assert (intent.kind, done.kind) == (AuditKind.INTENT, AuditKind.AUTHORITY)
    said, made = json.loads(intent.body), json.loads(done.body)
    assert said["key_sha256"] == key_hash(certificate)
    assert said["not_before"] == certificate.not_valid_before_utc.isoformat()
    assert made["certificate_sha256"] == certificate.fingerprint(hashes.SHA256()).hex()
    assert said["authority"] == made["authority"]


async def test_a_refusal_is_recorded_with_its_reason():
    kernel = await Kernel.started()
    (refused,) = await kernel.issuer.issue([order("web", csr=b"")], kernel.intermediate)
    (record,) = await kernel.audit.find(AuditQuery(kind=AuditKind.REFUSED))
    assert isinstance(refused, IssuanceRefused)
    assert '"reason":"csr"' in record.body
    assert record.spiffe_id == "spiffe://example.org/web"


async def test_a_certificate_that_differs_from_its_draft_is_recorded_as_refused_and_does_not_leave():
    kernel = await Kernel.started()
    issuer = Misprinting(keys=kernel.keys, recorder=kernel.recorder, clock=kernel.clock, default_ttl=HOUR)
    outcomes = await issuer.issue([order("web"), order("misprinted")], kernel.intermediate)
    assert [type(outcome) for outcome in outcomes] == [Issued, IssuanceRefused]
    assert await kinds(kernel) == ["intent", "intent", "issued", "refused"]


class Misprint(Draft):
    """A draft that is encoded as another."""

    def builder(self) -> x509.CertificateBuilder:
        meant = {each.name: getattr(self, each.name) for each in fields(self)}
        return Draft(**meant | {"not_after": self.not_after + HOUR}).builder()


class Misprinting(Issuer):
    def _draft(self, order: Order, *arguments: Any) -> Any:
        ready = super()._draft(order, *arguments)
        if order.entry.id != "misprinted":
            return ready
        return replace(ready, draft=Misprint(**{each.name: getattr(ready.draft, each.name) for each in fields(Draft)}))


async def test_nothing_is_signed_when_the_intents_can_not_be_recorded():
    signed = Counting()
    kernel = await Kernel.started(keys=signed)
    log = Failing(kernel.audit, after=0)
    kernel.recorder._log = log
    signed.loads = 0
    with pytest.raises(StoreUnavailable):
        await kernel.issuer.issue([order("web")], kernel.intermediate)
    assert await kernel.audit.live(START) == ()


async def test_nothing_leaves_when_the_completions_can_not_be_recorded():
    kernel = await Kernel.started()
    kernel.recorder._log = Failing(kernel.audit, after=1)
    with pytest.raises(StoreUnavailable):
        await kernel.issuer.issue([order("web")], kernel.intermediate)
    assert await kinds(kernel) == ["intent"]
    assert await kernel.audit.live(START) == ()


class Failing(MemoryAuditLog):
    """A log in front of another that takes so many appends more."""

    def __init__(self, log: MemoryAuditLog, *, after: int) -> None:
        super().__init__()
        self._log = log
        self._left = after

    async def append(self, records: Sequence[AuditRecord]) -> None:
        self._left -= 1
        if self._left < 0:
            raise StoreUnavailable("the disk is full")
        await self._log.append(records)


class Counting(MemoryKeyManager):
    loads = 0

    def load(self, key_id: str) -> ec.EllipticCurvePrivateKey:  # type: ignore[override]
        self.loads += 1
        return super().load(key_id)  # type: ignore[return-value]


async def test_the_key_of_the_intermediate_is_loaded_once_while_it_signs():
    keys = Counting()
    kernel = await Kernel.started(keys=keys)
    await kernel.leaf()
    keys.loads = 0
    for _ in range(3):
        await kernel.leaf()
    assert keys.loads == 0
    await kernel.rotation.rotate(Kind.INTERMEDIATE)
    keys.loads = 0
    issued = [await kernel.leaf() for _ in range(3)]
    assert keys.loads == 1
    verify(issued[-1].chain, BundleSet([kernel.slots.bundle]), START)


async def test_without_a_key_nothing_is_recorded_or_signed():
    kernel = await Kernel.started()
    head = kernel.recorder.head
    kernel.keys.delete(kernel.intermediate.id)
    with pytest.raises(KeyGone):
        await kernel.issuer.issue([order("web")], kernel.intermediate)
    assert kernel.recorder.head == head


async def test_each_stage_says_what_it_took():
    kernel = await Kernel.started()
    stages: Counter[str] = Counter()
    issuer = Issuer(
        keys=kernel.keys,
        recorder=kernel.recorder,
        clock=kernel.clock,
        default_ttl=HOUR,
        observe=lambda stage, seconds: stages.update({stage: seconds >= 0}),
    )
    await issuer.issue([order("web"), order("db")], kernel.intermediate)
    assert stages == {"csr": 1, "draft": 1, "lint": 1, "record": 2, "sign": 1, "compare": 1}


async def test_lifetimes_are_shortened_by_a_lot_of_their_own_and_never_lengthened():
    kernel = await Kernel.started()
    issuer = Issuer(keys=kernel.keys, recorder=kernel.recorder, clock=kernel.clock, default_ttl=HOUR)
    outcomes = await issuer.issue([order(f"w{n}") for n in range(40)], kernel.intermediate)
    lives = {outcome.leaf.not_after - START for outcome in outcomes if isinstance(outcome, Issued)}
    assert HOUR * 0.9 <= min(lives) < max(lives) <= HOUR
    assert len(lives) > 10


async def test_an_entry_s_own_lifetime_counts():
    kernel = await Kernel.started()
    kernel.shorten = 0.1
    issued = await kernel.leaf("web", ttl=timedelta(seconds=20))
    assert issued.leaf.not_after - START == timedelta(seconds=18)


async def test_an_intermediate_that_ends_soon_signs_nothing_more():
    kernel = await Kernel.started()
    kernel.clock.advance(24 * HOUR - timedelta(seconds=9))
    outcome = await kernel.issue(entry("web"))
    assert isinstance(outcome, IssuanceRefused)
    assert outcome.reason == "issuer_expiring"
    kernel.clock.jump(-48 * HOUR)
    outcome = await kernel.issue(entry("web"))
    assert isinstance(outcome, IssuanceRefused)
    assert outcome.reason == "clock"


async def test_a_root_that_would_be_wrong_is_neither_recorded_nor_signed():
    kernel = await Kernel.started()
    head, key = kernel.recorder.head, ec.generate_private_key(ec.SECP256R1())
    draft = kernel.rotation._draft(None, LEAF_KEY.public_key())
    lint(draft, None)
    with pytest.raises(IssuanceRefused, match="X5-14: it is no CA, or its path length"):
        await kernel.issuer.sign_authority(draft, key, kernel.root)
    assert kernel.recorder.head == head


async def test_a_key_that_is_not_the_certificate_s_is_found_by_the_self_test():
    kernel = await Kernel.started()
    stranger = CA.create(subject="intermediate")
    other = slot(stranger.certificate, id=kernel.intermediate.id)
    with pytest.raises(IssuanceRefused, match=f"the key of intermediate {other.id} is not that of its certificate"):
        kernel.issuer.self_test(OURS, other)


@needs_openssl
@pytest.mark.parametrize("key_type", [KeyType.EC_P256, KeyType.EC_P384, KeyType.RSA_2048])
async def test_openssl_accepts_the_chain_by_its_strictest_rules(key_type: KeyType, tmp_path: Path):
    kernel = await Kernel.started(key_types=KEY_TYPES | {Kind.INTERMEDIATE: key_type})
    leaf, intermediate = (await kernel.leaf(dns_names=("web.example.org",))).chain
    for name, certificate in {"leaf": leaf, "intermediate": intermediate, "root": kernel.root.certificate}.items():
        (tmp_path / f"{name}.pem").write_bytes(pem(certificate))
    judged = await asyncio.to_thread(
        subprocess.run,
        [
            *("openssl", "verify", "-x509_strict", "-attime", str(int(START.timestamp()))),
            *("-CAfile", "root.pem", "-untrusted", "intermediate.pem", "-purpose", "sslserver", "leaf.pem"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (judged.returncode, judged.stdout) == (0, "leaf.pem: OK\n"), judged.stderr


async def test_no_private_key_shows_in_any_repr_log_line_error_or_pickle(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    kernel = await Kernel.started()
    issued = await kernel.leaf()
    await kernel.rotation.rotate(Kind.ROOT)
    await kernel.rotation.sign_head()
    kernel.rotation.self_test()
    links = await kernel.audit.read("server", 0, 1000)
    shown = repr([kernel, kernel.slots, issued, kernel.issuer, kernel.rotation, kernel.keys, links, caplog.records])
    shown += caplog.text + "".join(str(record.__dict__) for record in caplog.records)
    for key_id in kernel.keys.key_ids():
        key = kernel.keys.load(key_id)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        secret = key.private_numbers().private_value
        document = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode().splitlines()[1]
        for text in (str(secret), f"{secret:x}", document):
            assert text not in shown
    with pytest.raises(TypeError):
        pickle.dumps(kernel.issuer)
    certificate = x509.load_der_x509_certificate(kernel.root.certificate.public_bytes(Encoding.DER))
    assert certificate == kernel.root.certificate


async def test_all_that_a_csr_can_be_signed_with_ends_in_a_leaf_or_a_refusal():
    kernel = await Kernel.started()
    csrs = [make_csr(ec.generate_private_key(curve)) for curve in (ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1())]
    outcomes = await kernel.issuer.issue([order(f"w{n}", csr) for n, csr in enumerate(csrs)], kernel.intermediate)
    assert [isinstance(outcome, Issued) for outcome in outcomes] == [True, True, False]
