"""Draft, lint, record, sign, compare, record: how every certificate of ours comes to be.

Rules:
- The intent is recorded before the key is used and completed after, so that a crash may lose a certificate but never the record of one.
- A batch shares its two transactions (group commit); one refused order spoils no other. If the intents cannot be recorded, nothing is
  signed; if the completions cannot, nothing leaves.
- Keys come from the key manager. Only that of the intermediate that signs now is kept.
"""

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from meshca.authority.draft import LONGEST_SHORTENING, Draft, draft_leaf, draft_self_test
from meshca.authority.lint import compare, lint
from meshca.authority.record import Facts, leaf_facts, time_text
from meshca.authority.recorder import Note, Recorder
from meshca.csr import PublicKey, read_csr
from meshca.errors import IssuanceRefused
from meshca.model import AuditKind, AuthorityKey, Entry, Issued, Leaf, Slot
from meshca.ports import Clock, KeyManager
from spiffe.id import TrustDomain

SERIAL_BITS = 127
_RANDOM_BITS = 94
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


From = TypeVar("From")
To = TypeVar("To")


def _draw() -> float:
    """A share of the lifetime, drawn once for each certificate."""
    return secrets.randbelow(2**32) / 2**32 * LONGEST_SHORTENING


class Issuer:
    """Signs. `observe` is told how long each stage of a batch took, in CPU seconds; `draw` says by what share a leaf is shortened."""

    def __init__(
        self,
        *,
        keys: KeyManager,
        recorder: Recorder,
        clock: Clock,
        default_ttl: timedelta,
        observe: Observe = lambda _stage, _seconds: None,
        draw: Callable[[], float] = _draw,
    ) -> None:
        self._keys = keys
        self._recorder = recorder
        self._clock = clock
        self._default_ttl = default_ttl
        self._observe = observe
        self._draw = draw
        self._held: tuple[str, AuthorityKey] | None = None

    async def issue(self, orders: Sequence[Order], issuer: Slot) -> tuple[Issued | IssuanceRefused, ...]:
        """Sign leaves under an intermediate: one outcome for each order. Raises StoreUnavailable, KeyGone; then nothing leaves."""
        now, key = self._clock.now(), self._key(issuer.id)
        proven = self._each("csr", lambda order: (order, read_csr(order.csr)), orders)
        drafted = self._each("draft", lambda pair: self._draft(*pair, issuer, now), proven)
        linted = self._each("lint", lambda ready: _linted(ready, issuer), drafted)
        await self._record([_intent(order, ready) for order, ready in zip(orders, linted, strict=True)])
        signed = self._each("sign", lambda ready: (ready, _sign(ready.draft, key)), linted)
        outcomes = self._each("compare", lambda pair: _issued(*pair, issuer), signed)
        await self._record(_completions(orders, signed, outcomes))
        return tuple(outcomes)

    async def sign_authority(self, draft: Draft, key: AuthorityKey, issuer: Slot | None) -> x509.Certificate:
        """Sign a root (issuer None) or an intermediate, recorded before and after. Raises IssuanceRefused, StoreUnavailable."""
        lint(draft, issuer)
        await self._recorder.append([_authority_note(AuditKind.INTENT, draft, _meant(draft))])
        signed = _sign(draft, key)
        certificate = _compared(draft, signed)
        await self._recorder.append([_authority_note(AuditKind.AUTHORITY, draft, _made(signed))])
        return certificate

    def self_test(self, trust_domain: TrustDomain, issuer: Slot) -> None:
        """Sign and verify a throwaway that is already expired; its key is discarded. Raises IssuanceRefused, KeyGone."""
        subject, now = ec.generate_private_key(ec.SECP256R1()), self._clock.now()
        draft = draft_self_test(trust_domain, issuer, subject.public_key(), serial=new_serial(now), now=now)
        certificate = _compared(draft, _sign(draft, self._key(issuer.id)))
        try:
            certificate.verify_directly_issued_by(issuer.certificate)
        except InvalidSignature as error:
            raise IssuanceRefused(
                "self_test", f"the key of intermediate {issuer.id} is not that of its certificate"
            ) from error

    def _draft(self, order: Order, key: PublicKey, issuer: Slot, now: datetime) -> _Ready:
        ttl = order.entry.ttl or self._default_ttl
        draft = draft_leaf(order.entry, issuer, key, serial=new_serial(now), now=now, ttl=ttl, shorten=self._draw())
        return _Ready(draft=draft, leaf=_leaf(order, draft, issuer, now))

    def _key(self, authority_id: str) -> AuthorityKey:
        """The key of the intermediate that signs. It is kept while that one signs, since to load an RSA key takes long."""
        if self._held is None or self._held[0] != authority_id:
            self._held = (authority_id, self._keys.load(authority_id))
        return self._held[1]

    def _each(
        self, stage: str, step: Callable[[From], To], items: Sequence[From | IssuanceRefused]
    ) -> list[To | IssuanceRefused]:
        """Take each item one step further. What is refused stays so and spoils no other."""
        started = time.process_time()
        taken = [item if isinstance(item, IssuanceRefused) else _tried(step, item) for item in items]
        self._observe(stage, time.process_time() - started)
        return taken

    async def _record(self, notes: Sequence[Note]) -> None:
        started = time.process_time()
        await self._recorder.append(notes)
        self._observe("record", time.process_time() - started)


def _tried(step: Callable[[From], To], item: From) -> To | IssuanceRefused:
    try:
        return step(item)
    except IssuanceRefused as refusal:
        return refusal


def _linted(ready: _Ready, issuer: Slot) -> _Ready:
    lint(ready.draft, issuer)
    return ready


def _issued(ready: _Ready, signed: bytes, issuer: Slot) -> Issued:
    return Issued(leaf=ready.leaf, chain=(_compared(ready.draft, signed), issuer.certificate))


def new_serial(now: datetime) -> int:
    """The second, then 94 random bits: positive, unique, not to be guessed, always of one length.

    Time goes first so that new serials lie together in the record's index; random ones would rewrite a page of it each.
    """
    second = int(now.timestamp()) % 2**32
    return 1 << SERIAL_BITS - 1 | second << _RANDOM_BITS | secrets.randbits(_RANDOM_BITS)


def _sign(draft: Draft, key: AuthorityKey) -> bytes:
    """The signed certificate (DER)."""
    return draft.builder().sign(key, _hash_for(key)).public_bytes(Encoding.DER)


def _compared(draft: Draft, signed: bytes) -> x509.Certificate:
    """What came out, parsed anew and found to be what was meant. Raises IssuanceRefused("mismatch")."""
    certificate = x509.load_der_x509_certificate(signed)
    compare(draft, certificate)
    return certificate


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
    return _leaf_note(AuditKind.INTENT, ready.leaf, _meant(ready.draft, dns_names=order.entry.certified_names))


def _completions(
    orders: Sequence[Order],
    signed: Sequence[tuple[_Ready, bytes] | IssuanceRefused],
    outcomes: Sequence[Issued | IssuanceRefused],
) -> list[Note]:
    """What came of each intent. What was refused before there was an intent has its record already."""
    return [
        _refusal(order, outcome)
        if isinstance(outcome, IssuanceRefused)
        else _leaf_note(AuditKind.ISSUED, outcome.leaf, _made(each[1]))
        for order, each, outcome in zip(orders, signed, outcomes, strict=True)
        if not isinstance(each, IssuanceRefused)
    ]


def _meant(draft: Draft, **more: object) -> Facts:
    """What an intent says of a certificate, so that no other with the same serial can pass for it."""
    return {"key_sha256": draft.key_hash.hex(), "not_before": time_text(draft.not_before), **more}


def _made(signed: bytes) -> Facts:
    """What the completion says: the certificate is this one and no other. What is in it, the intent of that serial has said."""
    return {"certificate_sha256": sha256(signed).hexdigest()}


def _leaf_note(kind: AuditKind, leaf: Leaf, more: Facts) -> Note:
    return Note(
        kind=kind,
        facts={**leaf_facts(leaf), **more},
        serial=f"{leaf.serial:x}",
        spiffe_id=str(leaf.spiffe_id),
        not_after=leaf.not_after,
    )


def _refusal(order: Order, refusal: IssuanceRefused) -> Note:
    facts = {"entry": order.entry.id, "holder": order.holder, "reason": refusal.reason, "text": str(refusal)}
    return Note(kind=AuditKind.REFUSED, facts=facts, spiffe_id=str(order.entry.spiffe_id))


def _authority_note(kind: AuditKind, draft: Draft, more: Facts) -> Note:
    facts = {"authority": draft.subject.rfc4514_string(), "issuer": draft.issuer.rfc4514_string(), **more}
    return Note(
        kind=kind, facts=facts, serial=f"{draft.serial:x}", spiffe_id=str(draft.spiffe_id), not_after=draft.not_after
    )
