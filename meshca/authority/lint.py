"""What a legal certificate is, written out by checklist id and independently of the profile table that made the draft.

Rules:
- All broken rules are told at once.
- `lint` judges what a draft says, extension by extension, before a key is used; `compare` judges what came out of the library, parsed
  back, before it leaves.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import cast

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from meshca.authority.draft import Draft
from meshca.errors import IssuanceRefused
from meshca.model import Slot
from spiffe.id import MAX_ID_BYTES
from spiffe.profile import SIGNING as SIGNING_PROFILE

SERIAL_BITS = range(64, 159 + 1)  # RFC 5280 4.1.2.2: at most 20 octets, positive; and not to be guessed
RSA_BITS = range(2048, 4096 + 1)


def lint(draft: Draft, issuer: Slot | None) -> None:
    """Raise IssuanceRefused("lint") with every rule that the draft breaks. `issuer` None means self-signed."""
    case = _case(draft, issuer)
    rules = SIGNING if draft.profile is SIGNING_PROFILE else LEAF
    broken = [text for text, holds in rules if not holds(case)]
    if broken:
        raise IssuanceRefused("lint", f"certificate for {draft.spiffe_id} would be wrong: " + "; ".join(broken))


def compare(draft: Draft, certificate: x509.Certificate) -> None:
    """Raise IssuanceRefused("mismatch") unless the signed certificate says what the draft says, and nothing more."""
    differing = [name for name, meant, got in _pairs(draft, certificate) if meant != got]
    if differing:
        raise IssuanceRefused(
            "mismatch", f"signed certificate for {draft.spiffe_id} differs from its draft in {', '.join(differing)}"
        )


def _pairs(draft: Draft, certificate: x509.Certificate) -> Iterator[tuple[str, object, object]]:
    yield "serial", draft.serial, certificate.serial_number
    yield "subject", draft.subject, certificate.subject
    yield "issuer", draft.issuer, certificate.issuer
    yield "not before", draft.not_before, certificate.not_valid_before_utc
    yield "not after", draft.not_after, certificate.not_valid_after_utc
    yield "public key", draft.public_key, certificate.public_key()
    yield "extensions", draft.extensions, tuple(certificate.extensions)


@dataclass(slots=True)
class _Case:
    """A draft with its extensions by type, each with whether it is critical, and the KeyUsage bits that are set."""

    draft: Draft
    issuer: Slot | None
    extensions: dict[type[x509.ExtensionType], tuple[x509.ExtensionType, bool]]
    usage: set[str]

    def value(self, kind: type[x509.ExtensionType]) -> x509.ExtensionType | None:
        return self.extensions.get(kind, (None, False))[0]

    def critical(self, kind: type[x509.ExtensionType]) -> bool | None:
        """Whether it is critical; None when it is not there."""
        return self.extensions.get(kind, (None, None))[1]

    def names(self, kind: type[x509.GeneralName]) -> list[str]:
        """The SANs of a kind."""
        san = cast("x509.SubjectAlternativeName | None", self.value(x509.SubjectAlternativeName))
        return [] if san is None else [name.value for name in san if isinstance(name, kind)]

    @property
    def constraints(self) -> tuple[bool, int | None] | None:
        """CA and path length."""
        found = cast("x509.BasicConstraints | None", self.value(x509.BasicConstraints))
        return None if found is None else (found.ca, found.path_length)

    @property
    def purposes(self) -> set[x509.ObjectIdentifier] | None:
        found = cast("x509.ExtendedKeyUsage | None", self.value(x509.ExtendedKeyUsage))
        return None if found is None else set(found)


def _case(draft: Draft, issuer: Slot | None) -> _Case:
    extensions = {type(each.value): (each.value, each.critical) for each in draft.extensions}
    usage = extensions.get(x509.KeyUsage, (None, False))[0]
    return _Case(draft, issuer, extensions, {bit for bit in _BITS if getattr(usage, bit, False)})


_BITS = (  # the other two mean something only with keyAgreement
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
)
_LEAF_BITS = {"digital_signature", "key_cert_sign", "crl_sign"}  # the last two are told of on their own
_BOTH_ENDS = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
_KNOWN = {
    x509.BasicConstraints,
    x509.KeyUsage,
    x509.ExtendedKeyUsage,
    x509.SubjectAlternativeName,
    x509.SubjectKeyIdentifier,
    x509.AuthorityKeyIdentifier,
}


def _strong(case: _Case) -> bool:
    match case.draft.public_key:
        case ec.EllipticCurvePublicKey(curve=ec.SECP256R1() | ec.SECP384R1()):
            return True
        case rsa.RSAPublicKey(key_size=bits):
            return bits in RSA_BITS
        case _:
            return False


def _names_issuer(case: _Case) -> bool:
    found = cast("x509.AuthorityKeyIdentifier | None", case.value(x509.AuthorityKeyIdentifier))
    if case.issuer is None:
        return found is None and case.draft.issuer == case.draft.subject
    by_key = found is not None and found.key_identifier == bytes.fromhex(case.issuer.id)
    return by_key and case.draft.issuer == case.issuer.certificate.subject


def _within_issuer(case: _Case) -> bool:
    return case.issuer is None or (
        case.draft.not_before >= case.issuer.not_before and case.draft.not_after <= case.issuer.not_after
    )


def _same_trust_domain(case: _Case) -> bool:
    """The issuer's own URI SAN says whose it is."""
    return case.issuer is None or _ids(case.issuer.certificate) == [str(case.draft.spiffe_id.trust_domain.id)]


@lru_cache(maxsize=8)
def _ids(certificate: x509.Certificate) -> list[str]:
    """Its URI SANs, read once for all the leaves of an issuer."""
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.UniformResourceIdentifier)


def _has_key_id(case: _Case) -> bool:
    """An authority's is what the key is kept under (RFC 5280 4.2.1.2, method 1), a leaf's what the record has (RFC 7093 2, method 4)."""
    key, signing = case.draft.public_key, case.draft.profile is SIGNING_PROFILE
    hashed = sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
    own = x509.SubjectKeyIdentifier.from_public_key(key) if signing else x509.SubjectKeyIdentifier(hashed)
    return case.draft.key_hash == hashed and case.value(x509.SubjectKeyIdentifier) == own


Rule = tuple[str, Callable[[_Case], bool]]

COMMON: tuple[Rule, ...] = (
    ("ID-20: the SPIFFE ID is longer than 2048 bytes", lambda c: len(str(c.draft.spiffe_id)) <= MAX_ID_BYTES),
    (
        "X5-01: the only URI SAN is not the SPIFFE ID",
        lambda c: c.names(x509.UniformResourceIdentifier) == [str(c.draft.spiffe_id)],
    ),
    (
        "X5-06: the SAN is critical if and only if the Subject is empty",
        lambda c: c.critical(x509.SubjectAlternativeName) == (len(c.draft.subject) == 0),
    ),
    ("X5-10: the issuer is of another trust domain", _same_trust_domain),
    ("X5-19: KeyUsage is not there or not critical", lambda c: c.critical(x509.KeyUsage) is True),
    ("X5-30: BasicConstraints is not there or not critical", lambda c: c.critical(x509.BasicConstraints) is True),
    ("X5-30: it ends before it starts", lambda c: c.draft.not_before < c.draft.not_after),
    ("X5-30: it is not valid within the issuer's time", _within_issuer),
    ("X5-30: it does not name its issuer", _names_issuer),
    ("X5-30: the serial is not 64 to 159 bits", lambda c: c.draft.serial.bit_length() in SERIAL_BITS),
    ("X5-30: the subject key identifier is not the key's", _has_key_id),
    ("X5-30: the key is weak or of a kind that verifiers refuse", _strong),
    (
        "X5-30: an extension is unknown to us or there twice",
        lambda c: c.extensions.keys() <= _KNOWN and len(c.extensions) == len(c.draft.extensions),
    ),
)

LEAF: tuple[Rule, ...] = (
    *COMMON,
    ("X5-04: a leaf's ID has a path", lambda c: c.draft.spiffe_id.is_workload),
    ("X5-13: a leaf needs an issuer", lambda c: c.issuer is not None),
    ("X5-15: a leaf is no CA and has no path length", lambda c: c.constraints == (False, None)),
    ("X5-22: digitalSignature is not set", lambda c: "digital_signature" in c.usage),
    ("X5-24: keyCertSign is set", lambda c: "key_cert_sign" not in c.usage),
    ("X5-25: cRLSign is set", lambda c: "crl_sign" not in c.usage),
    ("X5-23: a KeyUsage is set that we do not give", lambda c: c.usage <= _LEAF_BITS),
    ("X5-27: ExtendedKeyUsage is critical", lambda c: c.critical(x509.ExtendedKeyUsage) is not True),
    ("X5-28: ExtendedKeyUsage is not serverAuth and clientAuth", lambda c: c.purposes == _BOTH_ENDS),
)

SIGNING: tuple[Rule, ...] = (
    *COMMON,
    ("X5-09: a signing certificate's ID has no path", lambda c: not c.draft.spiffe_id.is_workload),
    (
        "X5-14: it is no CA, or its path length is not 0 below a root and none for a root",
        lambda c: c.constraints == (True, None if c.issuer is None else 0),
    ),
    ("X5-20: keyCertSign is not set", lambda c: "key_cert_sign" in c.usage),
    ("X5-45: a signing certificate has bits that belong to leaves", lambda c: c.usage <= {"key_cert_sign", "crl_sign"}),
    ("X5-29: a signing certificate has ExtendedKeyUsage", lambda c: c.purposes is None),
    ("X5-03: a signing certificate has DNS names", lambda c: not c.names(x509.DNSName)),
    ("RFC 5280 4.1.2.6: a signing certificate has no Subject", lambda c: len(c.draft.subject) > 0),
)
