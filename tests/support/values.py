"""Legal values of the model for tests of stores: short to write, all fields changeable."""

from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509

from meshca.model import AuditKind, AuditRecord, Entry, Kind, Selector, Slot, Slots, State
from spiffe.id import SpiffeID, TrustDomain
from tests.support.pki import CA

T0 = datetime(2030, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
OURS = TrustDomain("example.org")


def selectors(*texts: str) -> frozenset[Selector]:
    """Selectors written `type:value`."""
    return frozenset(map(Selector.parse, texts))


def entry(name: str, **changes: Any) -> Entry:
    """The entry of that id: `spiffe://example.org/<name>` for whoever has `unix:user:<name>`."""
    made = {
        "id": name,
        "spiffe_id": SpiffeID(OURS, f"/{name}"),
        "created_at": T0,
        "selectors": selectors(f"unix:user:{name}"),
    }
    return Entry(**made | changes)


def link(writer: str, sequence: int, **changes: Any) -> AuditRecord:
    """An audit record; its hashes are texts that nobody checks."""
    made = {
        "writer": writer,
        "sequence": sequence,
        "at": T0 + timedelta(seconds=sequence % 1000),
        "kind": AuditKind.INTENT,
        "body": "{}",
        "previous": f"{writer}{sequence - 1}",
        "hash": f"{writer}{sequence}",
    }
    return AuditRecord(**made | changes)


def slot(certificate: x509.Certificate, **changes: Any) -> Slot:
    """An active root with this certificate."""
    made = {
        "id": x509.SubjectKeyIdentifier.from_public_key(certificate.public_key()).digest.hex(),
        "kind": Kind.ROOT,
        "state": State.ACTIVE,
        "certificate": certificate,
        "issuer_id": "",
        "prepared_at": T0,
    }
    return Slot(**made | changes)


def slots(*authorities: CA, **changes: Any) -> Slots:
    """Slots of example.org with an active root for each authority."""
    return Slots(trust_domain=OURS, slots=tuple(slot(authority.certificate) for authority in authorities), **changes)
