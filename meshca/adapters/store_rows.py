"""Values to rows of the SQL store and back, pure. `x_of(x_row(x)) == x` for every x.

Rules: an instant is an integer of microseconds, a set is sorted canonical JSON, "" where nothing is said is NULL.
"""

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from meshca.model import (
    Activation,
    AuditKind,
    AuditRecord,
    Entry,
    Kind,
    Leaving,
    Selector,
    Slot,
    Slots,
    State,
)
from spiffe.bundle import Bundle
from spiffe.id import SpiffeID, TrustDomain

Row = dict[str, Any]
ReadRow = Mapping[str, Any]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_AUDIT_KINDS: Mapping[str, AuditKind] = {kind.value: kind for kind in AuditKind}


def instant_row(instant: datetime) -> int:
    """Microseconds since 1970, exact. Raises TypeError for a naive datetime."""
    return (instant - _EPOCH) // _MICROSECOND


def serial_row(serial: int) -> str:
    """A serial number as audit records have it: lower-case hex without leading zeros."""
    return f"{serial:x}"


def entry_row(entry: Entry) -> Row:
    """One row of `entries`."""
    selectors = _json(map(str, sorted(entry.selectors)))
    return {
        "id": entry.id,
        "rule": sha256(f"{entry.spiffe_id}\n{selectors}".encode()).hexdigest(),
        "spiffe_id": str(entry.spiffe_id),
        "selectors": selectors,
        "created_at": instant_row(entry.created_at),
        "ttl": _duration_row(entry.ttl),
        "dns_names": _json(entry.dns_names),
        "hint": entry.hint,
        "default": entry.default,
        "federates_with": _json(map(str, sorted(entry.federates_with))),
        "expires_at": _optional_row(entry.expires_at),
        "source": entry.source,
    }


def entry_of(row: ReadRow) -> Entry:
    """The entry of a row."""
    return Entry(
        id=row["id"],
        spiffe_id=SpiffeID.parse(row["spiffe_id"]),
        selectors=frozenset(map(Selector.parse, json.loads(row["selectors"]))),
        created_at=_instant(row["created_at"]),
        ttl=_duration(row["ttl"]),
        dns_names=tuple(json.loads(row["dns_names"])),
        hint=row["hint"],
        default=row["default"],
        federates_with=frozenset(map(TrustDomain, json.loads(row["federates_with"]))),
        expires_at=_optional(row["expires_at"]),
        source=row["source"],
    )


def bundle_row(bundle: Bundle) -> Row:
    """One row of `bundles`."""
    return {
        "trust_domain": bundle.trust_domain.name,
        "x509_authorities": bundle.to_der(),
        "sequence": None if bundle.sequence is None else str(bundle.sequence),
        "refresh_hint": _duration_row(bundle.refresh_hint),
    }


def bundle_of(row: ReadRow) -> Bundle:
    """The bundle of a row."""
    trust_domain, document = TrustDomain(row["trust_domain"]), row["x509_authorities"]
    return Bundle(
        trust_domain=trust_domain,
        x509_authorities=Bundle.from_der(trust_domain, document).x509_authorities if document else (),
        sequence=None if row["sequence"] is None else int(row["sequence"]),
        refresh_hint=_duration(row["refresh_hint"]),
    )


def journal_row(slots: Slots) -> Row:
    """The row of `journal`, with the revision that follows the slots' own."""
    return {
        "row": 1,
        "trust_domain": slots.trust_domain.name,
        "sequence": slots.sequence,
        "revision": slots.revision + 1,
    }


def slot_row(position: int, slot: Slot) -> Row:
    """One row of `slots`."""
    return {
        "position": position,
        "id": slot.id,
        "kind": slot.kind.value,
        "state": slot.state.value,
        "certificate": slot.certificate.public_bytes(Encoding.DER),
        "issuer_id": slot.issuer_id,
        "prepared_at": instant_row(slot.prepared_at),
        "activated_at": _optional_row(slot.activated_at),
        "retired_at": _optional_row(slot.retired_at),
        "activation": slot.activation.value,
        "leaving": slot.leaving.value,
    }


def slot_of(row: ReadRow) -> Slot:
    """The slot of a row."""
    return Slot(
        id=row["id"],
        kind=Kind(row["kind"]),
        state=State(row["state"]),
        certificate=x509.load_der_x509_certificate(row["certificate"]),
        issuer_id=row["issuer_id"],
        prepared_at=_instant(row["prepared_at"]),
        activated_at=_optional(row["activated_at"]),
        retired_at=_optional(row["retired_at"]),
        activation=Activation(row["activation"]),
        leaving=Leaving(row["leaving"]),
    )


def slots_of(journal: ReadRow, slots: Iterable[ReadRow]) -> Slots:
    """The slots of the row of `journal` and the rows of `slots` in order."""
    return Slots(
        trust_domain=TrustDomain(journal["trust_domain"]),
        slots=tuple(map(slot_of, slots)),
        sequence=journal["sequence"],
        revision=journal["revision"],
    )


def audit_row(record: AuditRecord) -> Row:
    """One row of `audit`."""
    return {
        "writer": record.writer,
        "sequence": record.sequence,
        "at": instant_row(record.at),
        "kind": str(record.kind),
        "body": record.body,
        "previous": record.previous,
        "hash": record.hash,
        "serial": record.serial or None,
        "spiffe_id": record.spiffe_id or None,
        "not_after": _optional_row(record.not_after),
    }


def audit_of(row: ReadRow) -> AuditRecord:
    """The audit record of a row."""
    return AuditRecord(
        writer=row["writer"],
        sequence=row["sequence"],
        at=_instant(row["at"]),
        kind=_AUDIT_KINDS.get(row["kind"], row["kind"]),
        body=row["body"],
        previous=row["previous"],
        hash=row["hash"],
        serial=row["serial"] or "",
        spiffe_id=row["spiffe_id"] or "",
        not_after=_optional(row["not_after"]),
    )


def _json(texts: Iterable[str]) -> str:
    return json.dumps(list(texts), separators=(",", ":"), ensure_ascii=False)


def _instant(microseconds: int) -> datetime:
    return _EPOCH + microseconds * _MICROSECOND


def _optional_row(instant: datetime | None) -> int | None:
    return None if instant is None else instant_row(instant)


def _optional(microseconds: int | None) -> datetime | None:
    return None if microseconds is None else _instant(microseconds)


def _duration_row(duration: timedelta | None) -> int | None:
    return None if duration is None else duration // _MICROSECOND


def _duration(microseconds: int | None) -> timedelta | None:
    return None if microseconds is None else microseconds * _MICROSECOND
