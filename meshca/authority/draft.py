"""A certificate as we mean it, before there is one: our own frozen value, built from profile, entry and key, never from a CSR.

Rules:
- Nothing here decides whether the draft is legal: `lint` does, from rules of its own.
- Time and chance are arguments, so that the same arguments make the same draft.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from hashlib import sha256

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from meshca.csr import PublicKey
from meshca.errors import IssuanceRefused
from meshca.model import MIN_LEAF_TTL, Entry, Kind, Slot
from spiffe import profile as profiles
from spiffe.id import SpiffeID, TrustDomain
from spiffe.profile import LEAF, SIGNING, Profile

BACKDATE = timedelta(seconds=10)
LONGEST_SHORTENING = 0.1
SELF_TEST_PATH = "/meshca/self-test"

_NOBODY = x509.Name([])
_LONGEST_NAME = 64  # ub-organization-name, RFC 5280 appendix A

Extension = x509.Extension[x509.ExtensionType]


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What the certificate shall say. Times are whole seconds, UTC, as X.509 has them; extensions are in order.

    `key_hash` is what the record names the key by (see `hash_of`).
    """

    profile: Profile
    serial: int
    subject: x509.Name
    issuer: x509.Name
    not_before: datetime
    not_after: datetime
    public_key: PublicKey
    key_hash: bytes
    spiffe_id: SpiffeID
    extensions: tuple[Extension, ...]

    def builder(self) -> x509.CertificateBuilder:
        """The same for the library that encodes and signs."""
        return x509.CertificateBuilder(  # in one step: by its methods it would be copied eleven times, a fifth of what signing costs
            serial_number=self.serial,
            subject_name=self.subject,
            issuer_name=self.issuer,
            not_valid_before=self.not_before.replace(tzinfo=None),
            not_valid_after=self.not_after.replace(tzinfo=None),
            public_key=self.public_key,
            extensions=list(self.extensions),
        )


def hash_of(key: PublicKey) -> bytes:
    """SHA-256 of the subject public key info: what the record names a key by, and a leaf its own (RFC 7093 section 2, method 4)."""
    return sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


def draft_root(trust_domain: TrustDomain, key: PublicKey, *, serial: int, now: datetime, lifetime: timedelta) -> Draft:
    """A self-signed root (X5-41). Its ID is the trust domain's own (ID-24 to ID-26)."""
    key_id = x509.SubjectKeyIdentifier.from_public_key(key)
    name = _authority_name(trust_domain, Kind.ROOT, key_id)
    return Draft(
        profile=SIGNING,
        serial=serial,
        subject=name,
        issuer=name,
        not_before=_whole(now - BACKDATE),
        not_after=_whole(now + lifetime),
        public_key=key,
        key_hash=hash_of(key),
        spiffe_id=trust_domain.id,
        extensions=_extensions(SIGNING, trust_domain.id, key_id),
    )


def draft_intermediate(
    issuer: Slot, trust_domain: TrustDomain, key: PublicKey, *, serial: int, now: datetime, lifetime: timedelta
) -> Draft:
    """An intermediate below a root, for leaves only: path length 0 (X5-13). Never outlives its root."""
    key_id = x509.SubjectKeyIdentifier.from_public_key(key)
    return Draft(
        profile=SIGNING,
        serial=serial,
        subject=_authority_name(trust_domain, Kind.INTERMEDIATE, key_id),
        issuer=issuer.certificate.subject,
        not_before=_start(issuer, now),
        not_after=min(_whole(now + lifetime), issuer.not_after),
        public_key=key,
        key_hash=hash_of(key),
        spiffe_id=trust_domain.id,
        extensions=_extensions(SIGNING, trust_domain.id, key_id, issuer=issuer, path_length=0),
    )


def draft_leaf(
    entry: Entry, issuer: Slot, key: PublicKey, *, serial: int, now: datetime, ttl: timedelta, shorten: float
) -> Draft:
    """A leaf for an entry. `shorten` (0 to 0.1) takes that share off its life, so that clients without jitter do not renew as a herd.

    Never outlives its issuer. Raises IssuanceRefused("issuer_expiring") when that leaves less than the minimum lifetime, and
    IssuanceRefused("clock") when the issuer is not valid yet.
    """
    _check_clock(issuer, now)
    ends = max(now + ttl * (1 - shorten), now + MIN_LEAF_TTL)
    not_after = min(_whole_up(ends), issuer.not_after)
    if not_after - now < MIN_LEAF_TTL:
        raise IssuanceRefused(
            "issuer_expiring",
            f"intermediate {issuer.id} ends at {issuer.not_after:%Y-%m-%dT%H:%M:%SZ}, too soon for a leaf of {entry.spiffe_id}",
        )
    return _leaf(
        entry.spiffe_id, entry.certified_names, issuer, key, serial=serial, span=(_start(issuer, now), not_after)
    )


def draft_self_test(trust_domain: TrustDomain, issuer: Slot, key: PublicKey, *, serial: int, now: datetime) -> Draft:
    """A throwaway that proves we can sign and harms nobody: it has expired already. Raises IssuanceRefused("clock") as for a leaf."""
    _check_clock(issuer, now)
    spiffe_id = SpiffeID(trust_domain, SELF_TEST_PATH)
    ended = _whole(now - timedelta(seconds=1))
    return _leaf(spiffe_id, (), issuer, key, serial=serial, span=(ended - BACKDATE, ended))


def _check_clock(issuer: Slot, now: datetime) -> None:
    """Raise IssuanceRefused while the issuer is not valid yet: nobody with such a clock would take what it signs."""
    if now < issuer.not_before:
        raise IssuanceRefused(
            "clock",
            f"it is {now:%Y-%m-%dT%H:%M:%SZ}, before intermediate {issuer.id} is valid: was the clock set back?",
        )


def _leaf(
    spiffe_id: SpiffeID,
    dns_names: tuple[str, ...],
    issuer: Slot,
    key: PublicKey,
    *,
    serial: int,
    span: tuple[datetime, datetime],
) -> Draft:
    key_hash = hash_of(key)
    return Draft(
        profile=LEAF,
        serial=serial,
        subject=_NOBODY,
        issuer=issuer.certificate.subject,
        not_before=span[0],
        not_after=span[1],
        public_key=key,
        key_hash=key_hash,
        spiffe_id=spiffe_id,
        extensions=_extensions(
            LEAF, spiffe_id, x509.SubjectKeyIdentifier(key_hash), issuer=issuer, dns_names=dns_names
        ),
    )


def _extensions(
    profile: Profile,
    spiffe_id: SpiffeID,
    key_id: x509.SubjectKeyIdentifier,
    *,
    issuer: Slot | None = None,
    path_length: int | None = None,
    dns_names: tuple[str, ...] = (),
) -> tuple[Extension, ...]:
    """The extensions by the profile table."""
    names = profiles.subject_alternative_name(spiffe_id, dns_names)
    own = _extension(names, critical=profile.san_critical), _extension(key_id)
    return (*_usages(profile, path_length), *own, *([_issuer_key(issuer.id)] if issuer else []))


def _extension(value: x509.ExtensionType, *, critical: bool = False) -> Extension:
    return x509.Extension(value.oid, critical, value)


@cache
def _usages(profile: Profile, path_length: int | None) -> tuple[Extension, ...]:
    """What all certificates of a kind have alike: made once, since that takes longer than all the rest of a draft."""
    usage = profiles.extended_key_usage(profile)
    return (
        _extension(profiles.basic_constraints(profile, path_length), critical=profile.basic_constraints_critical),
        _extension(profiles.key_usage(profile), critical=profile.key_usage_critical),
        *([_extension(usage, critical=profile.extended_key_usage_critical)] if usage else []),
    )


@lru_cache(maxsize=8)
def _issuer_key(issuer_id: str) -> Extension:
    """All leaves of an issuer have it alike."""
    return _extension(x509.AuthorityKeyIdentifier(bytes.fromhex(issuer_id), None, None))


def _start(issuer: Slot, now: datetime) -> datetime:
    """A little in the past, for clocks that lag, but not before the issuer: some verifiers want validity to nest."""
    return max(_whole(now - BACKDATE), issuer.not_before)


def _authority_name(trust_domain: TrustDomain, kind: Kind, key_id: x509.SubjectKeyIdentifier) -> x509.Name:
    """Says whose and which, for people; the key id makes it unique, as path building by name needs."""
    organization, common = trust_domain.name[:_LONGEST_NAME], f"{kind} {key_id.digest.hex()[:16]}"
    return x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization), x509.NameAttribute(NameOID.COMMON_NAME, common)]
    )


def _whole(at: datetime) -> datetime:
    return at.astimezone(UTC).replace(microsecond=0)


def _whole_up(at: datetime) -> datetime:
    whole = _whole(at)
    return whole if whole == at else whole + timedelta(seconds=1)
