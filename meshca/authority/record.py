"""The issuance record: a hash chain of what was meant, what was signed, and what administrators did. Pure.

Rules:
- A link's hash covers everything in it and the link before, so that an edit or a gap shows; a head kept elsewhere shows truncation.
- Heads and anchors are signed by an authority, whose certificate is in the body.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from meshca.errors import InvalidInput, Refused
from meshca.model import AuditKind, AuditRecord, AuthorityKey, Leaf
from spiffe.id import SpiffeID

Facts = Mapping[str, Any]


def link(
    previous: AuditRecord | None,
    *,
    writer: str,
    at: datetime,
    kind: AuditKind,
    facts: Facts,
    serial: str = "",
    spiffe_id: str = "",
    not_after: datetime | None = None,
) -> AuditRecord:
    """The next link of a writer's chain. `facts` must be JSON; keys and their order are made canonical."""
    fields = {
        "writer": writer,
        "sequence": previous.sequence + 1 if previous else 1,
        "at": at.astimezone(UTC),
        "kind": kind,
        "body": json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=True),
        "previous": previous.hash if previous else "",
        "serial": serial,
        "spiffe_id": spiffe_id,
        "not_after": not_after,
    }
    return AuditRecord(hash=_hash(fields), **fields)  # type: ignore[arg-type]  # the fields of the dataclass, by name


def head_text(record: AuditRecord | None, writer: str) -> str:
    """A head as people keep it: `writer:sequence:hash`."""
    return f"{writer}:{record.sequence}:{record.hash}" if record else f"{writer}:0:"


def parse_head(text: str) -> tuple[str, int, str]:
    """Read `writer:sequence:hash`. Raises InvalidInput."""
    writer, _, rest = text.partition(":")
    sequence, _, digest = rest.partition(":")
    if not writer or not sequence.isascii() or not sequence.isdecimal():
        raise InvalidInput(f"head {text[:120]!r} is not written writer:sequence:hash")
    return writer, int(sequence), digest


class Chain:
    """Verifies links in order. `verify` raises Refused naming the sequence where the chain breaks."""

    def __init__(self, head: str = "") -> None:
        self._last: AuditRecord | None = None
        self._pruned: AuditRecord | None = None
        self._anchored = False
        self._wanted = parse_head(head) if head else None
        self.count = 0

    def verify(self, record: AuditRecord) -> None:
        """Check one more link. Raises Refused."""
        before = self._last.sequence if self._last else record.sequence - 1
        if record.sequence != before + 1:
            raise Refused(
                f"audit log of {record.writer}: record {before + 1} is missing, {record.sequence} follows {before}"
            )
        if _hash_of(record) != record.hash:
            raise Refused(f"audit log of {record.writer}: record {record.sequence} was changed: its hash does not fit")
        if self._last and record.previous != self._last.hash:
            raise Refused(f"audit log of {record.writer}: record {record.sequence} does not follow record {before}")
        self._check_signature(record)
        self._compare(record)
        self._pruned = self._pruned or (record if record.sequence > 1 and not self._last else None)
        self._anchored = self._anchored or _is_anchor_of(record, self._pruned)
        self._last = record
        self.count += 1

    def end(self) -> None:
        """Check what only the whole chain can show. Raises Refused."""
        if self._pruned and not self._anchored:
            raise Refused(f"audit log: it starts at record {self._pruned.sequence}, and no signed anchor says why")
        if self._wanted and (self._last is None or self._last.sequence < self._wanted[1]):
            there = self._last.sequence if self._last else 0
            raise Refused(f"audit log was cut: the head says {self._wanted[1]} records, there are {there}")

    def _compare(self, record: AuditRecord) -> None:
        if self._wanted and self._wanted[:2] == (record.writer, record.sequence) and self._wanted[2] != record.hash:
            raise Refused(f"audit log of {record.writer}: record {record.sequence} is not the one that the head names")

    def _check_signature(self, record: AuditRecord) -> None:
        if record.kind in {AuditKind.HEAD, AuditKind.ANCHOR}:
            verify_signed(record)


def signed_facts(facts: Facts, key: AuthorityKey, certificate: x509.Certificate) -> Facts:
    """The facts with a signature over them, and the certificate that it is to be checked with."""
    der = certificate.public_bytes(Encoding.DER)
    return {
        **facts,
        "certificate": base64.b64encode(der).decode(),
        "signature": base64.b64encode(_sign(key, _message(facts))).decode(),
    }


def verify_signed(record: AuditRecord) -> None:
    """Raise Refused unless a head's or anchor's signature is right."""
    facts = json.loads(record.body)
    try:
        certificate = x509.load_der_x509_certificate(base64.b64decode(facts.pop("certificate")))
        _verify(certificate.public_key(), base64.b64decode(facts.pop("signature")), _message(facts))
    except (KeyError, ValueError, InvalidSignature) as error:
        raise Refused(f"audit log of {record.writer}: the signature of record {record.sequence} is wrong") from error


def leaf_of(record: AuditRecord) -> Leaf:
    """The leaf that an `issued` link tells of."""
    facts = json.loads(record.body)
    return Leaf(
        serial=int(record.serial, 16),
        spiffe_id=SpiffeID.parse(record.spiffe_id),
        entry_id=facts["entry"],
        holder=facts["holder"],
        intermediate_id=facts["intermediate"],
        root_id=facts["root"],
        issued_at=record.at,
        not_after=record.not_after or record.at,
    )


def leaf_facts(leaf: Leaf) -> Facts:
    """What intent and issued links say of a leaf, beside what is lifted out for queries."""
    return {"entry": leaf.entry_id, "holder": leaf.holder, "intermediate": leaf.intermediate_id, "root": leaf.root_id}


def _is_anchor_of(record: AuditRecord, first: AuditRecord | None) -> bool:
    if first is None or record.kind is not AuditKind.ANCHOR:
        return False
    facts = json.loads(record.body)
    return bool(facts.get("sequence") == first.sequence - 1 and facts.get("hash") == first.previous)


def _hash_of(record: AuditRecord) -> str:
    names = ("writer", "sequence", "at", "kind", "body", "previous", "serial", "spiffe_id", "not_after")
    return _hash({name: getattr(record, name) for name in names})


def _hash(fields: Mapping[str, Any]) -> str:
    """SHA-256 over the fields, each with its length in front, so that no two links can read the same."""
    digest = hashlib.sha256()
    for value in fields.values():
        text = (str(int(value.timestamp() * 1_000_000)) if isinstance(value, datetime) else str(value or "")).encode()
        digest.update(b"%d:%b" % (len(text), text))
    return digest.hexdigest()


def _message(facts: Facts) -> bytes:
    return b"meshca audit log\0" + json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()


def _sign(key: AuthorityKey, message: bytes) -> bytes:
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(message, padding.PKCS1v15(), hashes.SHA256())
    return key.sign(message, ec.ECDSA(hashes.SHA256()))


def _verify(key: object, signature: bytes, message: bytes) -> None:
    if isinstance(key, rsa.RSAPublicKey):
        key.verify(signature, message, padding.PKCS1v15(), hashes.SHA256())
    elif isinstance(key, ec.EllipticCurvePublicKey):
        key.verify(signature, message, ec.ECDSA(hashes.SHA256()))
    else:
        raise InvalidSignature
