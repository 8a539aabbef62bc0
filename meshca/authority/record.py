"""The issuance record: a hash chain of what was meant, what was signed, and what administrators did. Pure.

Rules:
- A link's hash covers everything in it and the link before, so that an edit or a gap shows; a head kept elsewhere shows truncation.
- Heads and anchors are signed by an authority, whose certificate is in the body.
"""

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from meshca.errors import InvalidInput, Refused
from meshca.model import AuditKind, AuditRecord, AuthorityKey, Leaf
from spiffe.errors import SpiffeError
from spiffe.id import SpiffeID

Facts = Mapping[str, Any]

_HEAD = re.compile(r"([^:]+):([0-9]{1,18}):([0-9a-f]*)")
_ILL = (
    KeyError,
    ValueError,
    TypeError,
    RecursionError,
    SpiffeError,
    InvalidSignature,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
)
"""What reading a body may raise that whoever can write the disk has made up."""
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"))


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
    sequence, before = (previous.sequence + 1, previous.hash) if previous else (1, "")
    at, body = at.astimezone(UTC), _CANONICAL.encode(facts)
    return AuditRecord(
        writer=writer,
        sequence=sequence,
        at=at,
        kind=kind,
        body=body,
        previous=before,
        hash=_hash(writer, sequence, at, kind, body, before, serial, spiffe_id, not_after),
        serial=serial,
        spiffe_id=spiffe_id,
        not_after=not_after,
    )


def head_text(record: AuditRecord | None, writer: str) -> str:
    """A head as people keep it: `writer:sequence:hash`."""
    return f"{writer}:{record.sequence}:{record.hash}" if record else f"{writer}:0:"


def parse_head(text: str) -> tuple[str, int, str]:
    """Read `writer:sequence:hash`. Raises InvalidInput."""
    found = _HEAD.fullmatch(text)
    if not found:
        raise InvalidInput(f"head {text[:120]!r} is not written writer:sequence:hash")
    return found[1], int(found[2]), found[3]


class Chain:
    """Verifies the links of one writer in order. `verify` raises Refused naming the sequence where the chain breaks."""

    def __init__(self, head: str = "") -> None:
        self._wanted = parse_head(head) if head else None
        self._first: AuditRecord | None = None
        self._last: AuditRecord | None = None
        self._anchored = False
        self.count = 0

    def verify(self, record: AuditRecord) -> None:
        """Check one more link. Raises Refused."""
        first = self._first = self._first or record
        if self._last:
            _check_follows(record, self._last)
        if _hash_of(record) != record.hash:
            raise Refused(f"{_named(record)} was changed: its hash does not fit")
        said = verify_signed(record) if record.kind in {AuditKind.HEAD, AuditKind.ANCHOR} else {}
        if record.kind is AuditKind.HEAD and self._last and said.get("head") != head_text(self._last, record.writer):
            raise Refused(f"{_named(record)} names another head than record {self._last.sequence}")
        self._compare(record.writer, record.sequence, record.hash)
        self._anchored = self._anchored or (record.kind is AuditKind.ANCHOR and _is_anchor(said, first))
        self._last = record
        self.count += 1

    def end(self) -> None:
        """Check what only the whole chain can show. Raises Refused."""
        if self._first and self._first.sequence > 1:
            self._check_start(self._first)
        if self._wanted:
            self._check_end(*self._wanted[:2])

    def _check_end(self, writer: str, sequence: int) -> None:
        there = self._last.sequence if self._last else 0
        if self._last and self._last.writer != writer:
            raise Refused(f"the head is of the audit log of {writer}, this one is of {self._last.writer}")
        if there < sequence:
            raise Refused(f"audit log was cut: the head says {sequence} records, there are {there}")

    def _check_start(self, first: AuditRecord) -> None:
        if not self._anchored:
            raise Refused(f"audit log starts at record {first.sequence}, and no signed anchor says why")
        if self._wanted and self._wanted[1] < first.sequence - 1:
            raise Refused(
                f"the head is of record {self._wanted[1]}, which was pruned: the audit log starts at {first.sequence}, give a later head"
            )
        self._compare(first.writer, first.sequence - 1, first.previous)

    def _compare(self, writer: str, sequence: int, digest: str) -> None:
        if self._wanted and self._wanted[:2] == (writer, sequence) and self._wanted[2] != digest:
            raise Refused(f"record {sequence} of {writer} is not the one that the head names")


def _check_follows(record: AuditRecord, last: AuditRecord) -> None:
    if record.sequence != last.sequence + 1:
        raise Refused(
            f"record {last.sequence + 1} of {record.writer} is missing: {record.sequence} follows {last.sequence}"
        )
    if record.previous != last.hash:
        raise Refused(f"{_named(record)} does not follow record {last.sequence}")


def _named(record: AuditRecord) -> str:
    return f"record {record.sequence} of {record.writer}"


def signed_facts(facts: Facts, key: AuthorityKey, certificate: x509.Certificate) -> Facts:
    """The facts with a signature over them, and the certificate that it is to be checked with."""
    der = certificate.public_bytes(Encoding.DER)
    return {
        **facts,
        "certificate": base64.b64encode(der).decode(),
        "signature": base64.b64encode(_sign(key, _message(facts))).decode(),
    }


def verify_signed(record: AuditRecord) -> Facts:
    """What a head or anchor says. Raises Refused unless its signature is right."""
    try:
        facts = dict(json.loads(record.body))
        certificate = x509.load_der_x509_certificate(base64.b64decode(facts.pop("certificate")))
        _verify(certificate.public_key(), base64.b64decode(facts.pop("signature")), _message(facts))
    except _ILL as error:
        raise Refused(f"the signature of {_named(record)} is wrong") from error
    return facts


def leaf_of(record: AuditRecord) -> Leaf:
    """The leaf that an `issued` link tells of. Raises Refused."""
    try:
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
    except _ILL as error:
        raise Refused(f"{_named(record)} tells of no leaf") from error


def leaf_facts(leaf: Leaf) -> Facts:
    """What both intent and issued links say of a leaf, beside what is lifted out for queries: whose it is."""
    return {"entry": leaf.entry_id, "holder": leaf.holder, "intermediate": leaf.intermediate_id, "root": leaf.root_id}


def _is_anchor(said: Facts, first: AuditRecord) -> bool:
    return bool(said.get("sequence") == first.sequence - 1 and said.get("hash") == first.previous)


def _hash_of(record: AuditRecord) -> str:
    link = record.writer, record.sequence, record.at, record.kind, record.body, record.previous
    return _hash(*link, record.serial, record.spiffe_id, record.not_after)


def _hash(*fields: str | int | datetime | None) -> str:
    """SHA-256 over the fields, each with its length before it, so that no two links can read the same. Times must be UTC."""
    texts = [
        each if isinstance(each, str) else time_text(each) if isinstance(each, datetime) else str(each)
        for each in fields
    ]
    return hashlib.sha256(
        "".join([f"{len(text)}:{text}," for text in texts]).encode(errors="surrogatepass")
    ).hexdigest()


@lru_cache(maxsize=1024)
def time_text(at: datetime) -> str:
    """A time as the record has it. Many links of a batch have the same."""
    return at.isoformat()


def _message(facts: Facts) -> bytes:
    return b"meshca audit log\0" + _CANONICAL.encode(facts).encode()


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
