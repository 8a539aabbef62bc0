"""Admin API messages to values and back: the edge where strings become types, and the only place that knows both."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict
from google.protobuf.timestamp_pb2 import Timestamp

from meshca.errors import InvalidInput
from meshca.model import AuditRecord, Entry, Holder, Kind, Selector, Slot
from meshca.proto import admin_pb2 as pb
from spiffe.bundle import Bundle
from spiffe.errors import SpiffeError
from spiffe.id import SpiffeID, TrustDomain

T = TypeVar("T")

NO_SEQUENCE = -1


def parsed(parse: Callable[[str], T], text: str, what: str) -> T:
    """Parse a field, or raise InvalidInput that names it."""
    try:
        return parse(text)
    except (SpiffeError, ValueError) as error:
        raise InvalidInput(f"{what}: {error}") from error


def kind_of(text: str) -> Kind:
    """Read a kind of authority. Raises InvalidInput."""
    try:
        return Kind(text)
    except ValueError as error:
        raise InvalidInput(f"kind {text!r} is neither root nor intermediate") from error


def timestamp(at: datetime | None) -> Timestamp | None:
    """A time as protobuf has it."""
    if at is None:
        return None
    message = Timestamp()
    message.FromDatetime(at)
    return message


def when(message: Any, field: str) -> datetime | None:
    """A time field as an aware datetime, None when it is absent. Raises InvalidInput."""
    if not message.HasField(field):
        return None
    try:
        return datetime.fromtimestamp(getattr(message, field).seconds, UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise InvalidInput(f"{field}: not a time: {error}") from error


def span(message: Any, field: str) -> timedelta | None:
    """A duration field, None when it is absent. Raises InvalidInput."""
    if not message.HasField(field):
        return None
    try:
        return timedelta(seconds=getattr(message, field).seconds, microseconds=getattr(message, field).nanos // 1000)
    except OverflowError as error:
        raise InvalidInput(f"{field}: too long: {error}") from error


def entry_of(message: pb.Entry, *, entry_id: str, created_at: datetime) -> Entry:
    """Read an entry. Raises InvalidInput."""
    return Entry(
        id=entry_id,
        spiffe_id=parsed(SpiffeID.parse, message.spiffe_id, "spiffe_id"),
        selectors=frozenset(Selector.parse(text) for text in message.selectors),
        created_at=created_at,
        ttl=span(message, "ttl"),
        dns_names=tuple(message.dns_names),
        hint=message.hint,
        default=message.default,
        federates_with=frozenset(parsed(TrustDomain.parse, name, "federates_with") for name in message.federates_with),
        expires_at=when(message, "expires_at"),
        source=message.source,
    )


_FIELDS = frozenset(
    {"spiffe_id", "selectors", "ttl", "dns_names", "hint", "default", "federates_with", "expires_at", "source"}
)


def entry_changed(old: Entry, message: pb.Entry, fields: frozenset[str]) -> Entry:
    """The old entry with the named fields taken from the message. Raises InvalidInput."""
    unknown = fields - _FIELDS
    if unknown:
        raise InvalidInput(f"an entry has no field {', '.join(sorted(unknown))}; it has {', '.join(sorted(_FIELDS))}")
    whole = pb.Entry()
    whole.CopyFrom(entry_message(old))
    for name in fields:
        whole.ClearField(name)
    patch = pb.Entry()
    patch.CopyFrom(message)
    for descriptor in pb.Entry.DESCRIPTOR.fields:
        if descriptor.name not in fields:
            patch.ClearField(descriptor.name)
    whole.MergeFrom(patch)
    return entry_of(whole, entry_id=old.id, created_at=old.created_at)


def entry_message(entry: Entry) -> pb.Entry:
    """An entry as the admin API shows it."""
    ttl = Duration()
    if entry.ttl is not None:
        ttl.FromTimedelta(entry.ttl)
    return pb.Entry(
        id=entry.id,
        spiffe_id=str(entry.spiffe_id),
        selectors=sorted(str(selector) for selector in entry.selectors),
        ttl=None if entry.ttl is None else ttl,
        dns_names=entry.dns_names,
        hint=entry.hint,
        default=entry.default,
        federates_with=sorted(str(trust_domain) for trust_domain in entry.federates_with),
        expires_at=timestamp(entry.expires_at),
        source=entry.source,
        created_at=timestamp(entry.created_at),
    )


def change_facts(old: Entry | None, new: Entry | None) -> dict[str, Any]:
    """What becomes of an entry, as the record has it: all that it said before, and all that it says after."""
    said = {"old": old, "new": new}
    return {
        name: MessageToDict(entry_message(entry), preserving_proto_field_name=True)
        for name, entry in said.items()
        if entry
    }


def bundle_of(message: pb.Bundle) -> Bundle:
    """Read a bundle. Raises InvalidInput."""
    trust_domain = parsed(TrustDomain.parse, message.trust_domain, "trust_domain")
    try:
        return replace(
            Bundle.from_der(trust_domain, b"".join(message.x509_authorities)),
            sequence=None if message.sequence == NO_SEQUENCE else message.sequence,
            refresh_hint=timedelta(seconds=message.refresh_hint) if message.refresh_hint else None,
        )
    except (SpiffeError, OverflowError) as error:
        raise InvalidInput(f"bundle of {trust_domain}: {error}") from error


def bundle_message(bundle: Bundle) -> pb.Bundle:
    """A bundle as the admin API shows it."""
    return pb.Bundle(
        trust_domain=str(bundle.trust_domain),
        x509_authorities=[der(certificate) for certificate in bundle.x509_authorities],
        sequence=NO_SEQUENCE if bundle.sequence is None else bundle.sequence,
        refresh_hint=int(bundle.refresh_hint.total_seconds()) if bundle.refresh_hint else 0,
        digest=bundle.digest,
    )


def authority_message(slot: Slot, *, live_leaves: int, following: str) -> pb.Authority:
    """An authority as the admin API shows it."""
    return pb.Authority(
        id=slot.id,
        kind=slot.kind,
        state=slot.state,
        issuer_id=slot.issuer_id,
        not_before=timestamp(slot.not_before),
        not_after=timestamp(slot.not_after),
        prepared_at=timestamp(slot.prepared_at),
        activated_at=timestamp(slot.activated_at),
        certificate=der(slot.certificate),
        live_leaves=live_leaves,
        next=following,
        leaving=slot.leaving,
    )


def holder_message(holder: Holder) -> pb.Holder:
    """A holder as the admin API shows it."""
    return pb.Holder(
        name=holder.name,
        spiffe_ids=[str(spiffe_id) for spiffe_id in holder.spiffe_ids],
        bundle=holder.bundle,
        since=timestamp(holder.since),
        expires=timestamp(holder.expires),
    )


def record_message(record: AuditRecord) -> pb.AuditRecord:
    """An audit record as the admin API shows it."""
    return pb.AuditRecord(
        writer=record.writer,
        sequence=record.sequence,
        at=timestamp(record.at),
        kind=record.kind,
        body=record.body,
        previous=record.previous,
        hash=record.hash,
        serial=record.serial,
        spiffe_id=record.spiffe_id,
        not_after=timestamp(record.not_after),
    )


def der(certificate: x509.Certificate) -> bytes:
    """The certificate's DER."""
    return certificate.public_bytes(Encoding.DER)
