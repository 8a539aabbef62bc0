"""Draft, lint, record, sign, compare, record: how every certificate of ours comes to be.

Rules:
- The intent is recorded before the key is used and completed after, so that a crash may lose a certificate but never the record of one.
- A batch shares its two transactions (group commit); one refused order spoils no other. If the intents cannot be recorded, nothing is
  signed; if the completions cannot, nothing leaves.
- Keys come from the key manager for each batch and are kept nowhere else.
"""

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from meshca.authority.draft import LONGEST_SHORTENING, Draft, draft_leaf, draft_self_test
from meshca.authority.lint import compare, lint
from meshca.authority.record import leaf_facts
from meshca.authority.recorder import Note, Recorder
from meshca.csr import read_csr
from meshca.errors import IssuanceRefused
from meshca.model import AuditKind, AuthorityKey, Entry, Issued, Leaf, Slot
from meshca.ports import Clock, KeyManager
from spiffe.id import TrustDomain

SERIAL_BITS = 127
Observe = Callable[[str, float], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One leaf to be signed: for an entry, with the key of a CSR, for a holder."""

    entry: Entry
    csr: bytes
    holder: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ready:
    """A draft that passed the lint, and the record of the leaf it becomes."""

    draft: Draft
    leaf: Leaf


class Issuer:
    """Signs. `observe` is told how long each stage of a batch took, in CPU seconds."""

    def __init__(
        self,
        *,
        keys: KeyManager,
        recorder: Recorder,
        clock: Clock,
        default_ttl: timedelta,
        observe: Observe | None = None,
    ) -> None:
        self._keys = keys
        self._recorder = recorder
        self._clock = clock
        self._default_ttl = default_ttl
        self._observe = observe

    async def issue(self, orders: Sequence[Order], issuer: Slot) -> tuple[Issued | IssuanceRefused, ...]:
        """Sign leaves under an intermediate: one outcome for each order. Raises StoreUnavailable, KeyGone; then nothing leaves."""
        now = self._clock.now()
        prepared = [self._prepare(order, issuer, now) for order in orders]
        with self._stage("record"):
            await self._recorder.append([_intent(order, ready) for order, ready in zip(orders, prepared, strict=True)])
        key = self._keys.load(issuer.id)
        outcomes = [self._sign_leaf(ready, key, issuer) for ready in prepared]
        with self._stage("record"):
            await self._recorder.append(_completions(orders, prepared, outcomes))
        return tuple(outcomes)

    async def sign_authority(self, draft: Draft, key: AuthorityKey, issuer: Slot | None) -> x509.Certificate:
        """Sign a root (issuer None) or an intermediate, recorded before and after. Raises IssuanceRefused, StoreUnavailable."""
        lint(draft, issuer)
        await self._recorder.append([_authority_note(draft, AuditKind.INTENT)])
        certificate = _sign(draft, key)
        compare(draft, certificate)
        await self._recorder.append([_authority_note(draft, AuditKind.AUTHORITY)])
        return certificate

    def self_test(self, trust_domain: TrustDomain, issuer: Slot) -> None:
        """Sign and verify a throwaway that is already expired; its key is discarded. Raises IssuanceRefused, KeyGone."""
        subject = ec.generate_private_key(ec.SECP256R1())
        draft = draft_self_test(trust_domain, issuer, subject.public_key(), serial=new_serial(), now=self._clock.now())
        certificate = _sign(draft, self._keys.load(issuer.id))
        compare(draft, certificate)
        certificate.verify_directly_issued_by(issuer.certificate)

    def _prepare(self, order: Order, issuer: Slot, now: datetime) -> _Ready | IssuanceRefused:
        try:
            return self._draft(order, issuer, now)
        except IssuanceRefused as refusal:
            return refusal

    def _draft(self, order: Order, issuer: Slot, now: datetime) -> _Ready:
        if now < issuer.certificate.not_valid_before_utc:
            raise IssuanceRefused(
                "clock",
                f"it is {now:%Y-%m-%dT%H:%M:%SZ}, before intermediate {issuer.id} is valid: was the clock set back?",
            )
        with self._stage("csr"):
            key = read_csr(order.csr)
        with self._stage("draft"):
            ttl = order.entry.ttl or self._default_ttl
            draft = draft_leaf(order.entry, issuer, key, serial=new_serial(), now=now, ttl=ttl, shorten=_draw())
        with self._stage("lint"):
            lint(draft, issuer)
        return _Ready(draft=draft, leaf=_leaf(order, draft, issuer, now))

    def _sign_leaf(self, ready: _Ready | IssuanceRefused, key: AuthorityKey, issuer: Slot) -> Issued | IssuanceRefused:
        if isinstance(ready, IssuanceRefused):
            return ready
        try:
            with self._stage("sign"):
                certificate = _sign(ready.draft, key)
            with self._stage("compare"):
                compare(ready.draft, certificate)
        except IssuanceRefused as refusal:
            return refusal
        return Issued(leaf=ready.leaf, chain=(certificate, issuer.certificate))

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        if self._observe is None:
            yield
            return
        started = time.process_time()
        yield
        self._observe(name, time.process_time() - started)


def new_serial() -> int:
    """127 random bits, with the highest set: positive, unique, and always of one length."""
    return secrets.randbits(SERIAL_BITS - 1) | 1 << (SERIAL_BITS - 1)


def _draw() -> float:
    """A share of the lifetime, drawn once for each certificate."""
    return secrets.randbelow(2**32) / 2**32 * LONGEST_SHORTENING


def _sign(draft: Draft, key: AuthorityKey) -> x509.Certificate:
    """Sign, and parse what came out anew."""
    signed = draft.builder().sign(key, _hash_for(key))
    return x509.load_der_x509_certificate(signed.public_bytes(Encoding.DER))


def _hash_for(key: AuthorityKey) -> hashes.SHA256 | hashes.SHA384:
    return hashes.SHA384() if isinstance(key, ec.EllipticCurvePrivateKey) and key.key_size == 384 else hashes.SHA256()  # noqa: PLR2004 - P-384


def _leaf(order: Order, draft: Draft, issuer: Slot, now: datetime) -> Leaf:
    return Leaf(
        serial=draft.serial,
        spiffe_id=draft.spiffe_id,
        entry_id=order.entry.id,
        holder=order.holder,
        intermediate_id=issuer.id,
        root_id=issuer.issuer_id,
        issued_at=now,
        not_after=draft.not_after,
    )


def _intent(order: Order, ready: _Ready | IssuanceRefused) -> Note:
    if isinstance(ready, IssuanceRefused):
        return _refusal(order, ready)
    return _leaf_note(AuditKind.INTENT, ready.leaf)


def _completions(
    orders: Sequence[Order], prepared: Sequence[_Ready | IssuanceRefused], outcomes: Sequence[Issued | IssuanceRefused]
) -> list[Note]:
    """What came of each intent. What was refused before there was an intent has its record already."""
    return [
        _refusal(order, outcome) if isinstance(outcome, IssuanceRefused) else _leaf_note(AuditKind.ISSUED, outcome.leaf)
        for order, ready, outcome in zip(orders, prepared, outcomes, strict=True)
        if isinstance(ready, _Ready)
    ]


def _leaf_note(kind: AuditKind, leaf: Leaf) -> Note:
    return Note(
        kind=kind,
        facts=leaf_facts(leaf),
        serial=f"{leaf.serial:x}",
        spiffe_id=str(leaf.spiffe_id),
        not_after=leaf.not_after,
    )


def _refusal(order: Order, refusal: IssuanceRefused) -> Note:
    facts = {"entry": order.entry.id, "holder": order.holder, "reason": refusal.reason, "text": str(refusal)}
    return Note(kind=AuditKind.REFUSED, facts=facts, spiffe_id=str(order.entry.spiffe_id))


def _authority_note(draft: Draft, kind: AuditKind) -> Note:
    facts = {
        "authority": draft.subject_key_id.hex(),
        "issuer": draft.issuer.rfc4514_string(),
        "path_length": draft.path_length,
    }
    return Note(
        kind=kind, facts=facts, serial=f"{draft.serial:x}", spiffe_id=str(draft.spiffe_id), not_after=draft.not_after
    )
