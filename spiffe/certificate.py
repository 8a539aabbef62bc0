"""What one certificate says, and whether it is legal by the profile table.

Rules:
- `read` touches every field that anybody decides on, so that a certificate which was read holds no surprise.
- Each refusal names its checklist row. Others translate it into the exception of their document.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Self, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from spiffe.errors import InvalidID, VerificationFailed
from spiffe.id import SpiffeID
from spiffe.profile import BOTH_ENDS, Profile

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey

RSA_BITS = range(2048, 8192 + 1)  # less is weak (and Envoy refuses it); more lets a peer burn our time
CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512)

# What cryptography raises where a certificate, a key or one of their fields is not legal.
UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)

_FORBIDDEN_BIT = {"key_cert_sign": "X5-32", "crl_sign": "X5-33"}
_MISSING_BIT = {"digital_signature": "X5-22", "key_cert_sign": "X5-20"}
_PROCESSED = (
    x509.BasicConstraints,
    x509.KeyUsage,
    x509.ExtendedKeyUsage,
    x509.SubjectAlternativeName,
    x509.NameConstraints,
)

_ExtensionT = TypeVar("_ExtensionT", bound=x509.ExtensionType)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fields:
    """The fields of a certificate that decide anything. Dates are aware, UTC."""

    certificate: x509.Certificate
    subject: x509.Name
    self_issued: bool
    not_before: datetime
    not_after: datetime
    extensions: x509.Extensions

    @classmethod
    def read(cls, certificate: x509.Certificate) -> Self:
        """Read the certificate whole. Raises VerificationFailed where it is malformed or its algorithms are weak (X5-30)."""
        try:
            fields = cls(
                certificate=certificate,
                subject=certificate.subject,
                self_issued=certificate.subject == certificate.issuer,
                not_before=certificate.not_valid_before_utc,
                not_after=certificate.not_valid_after_utc,
                extensions=certificate.extensions,
            )
            strong_key(certificate.public_key())
            _check_serial(certificate.serial_number)
            _check_signature_hash(certificate.signature_hash_algorithm)
        except UNREADABLE as error:
            raise VerificationFailed("X5-30", f"certificate cannot be used: {error}") from error
        return fields

    def extension(self, kind: type[_ExtensionT]) -> x509.Extension[_ExtensionT] | None:
        """The extension of this kind, if there is one."""
        try:
            return self.extensions.get_extension_for_class(kind)
        except x509.ExtensionNotFound:
            return None

    @property
    def uris(self) -> list[str]:
        """The URI SANs, in order."""
        san = self.extension(x509.SubjectAlternativeName)
        return san.value.get_values_for_type(x509.UniformResourceIdentifier) if san else []

    @property
    def path_length(self) -> int | None:
        """The pathLenConstraint, None where there is none."""
        constraints = self.extension(x509.BasicConstraints)
        return constraints.value.path_length if constraints else None


def strong_key(key: object) -> PublicKey:
    """The key, if it is of a kind and size that we trust, see CURVES and RSA_BITS. Raises ValueError."""
    match key:
        case ec.EllipticCurvePublicKey(curve=curve) if isinstance(curve, CURVES):
            return key
        case rsa.RSAPublicKey(key_size=bits) if bits in RSA_BITS:
            return key
        case ed25519.Ed25519PublicKey():
            return key
        case _:
            raise ValueError(f"key of {type(key).__name__} is weak or of a kind that is not supported")


def claimed_id(fields: Fields) -> SpiffeID:
    """The SPIFFE ID of a leaf. Raises VerificationFailed (X5-01, X5-02, X5-34, X5-35)."""
    uris = fields.uris
    if not uris:
        raise VerificationFailed("X5-01", "certificate has no URI SAN")
    if len(uris) > 1:
        raise VerificationFailed("X5-02", f"certificate has {len(uris)} URI SANs: {', '.join(uris)}")
    try:
        spiffe_id = SpiffeID.parse(uris[0])
    except InvalidID as error:
        raise VerificationFailed("X5-34", f"URI SAN is not a SPIFFE ID: {error}") from error
    if not spiffe_id.is_workload:
        raise VerificationFailed("X5-35", f"{spiffe_id} names a trust domain, not a workload")
    return spiffe_id


def check_profile(fields: Fields, profile: Profile) -> None:
    """Hold the extensions against the table. Raises VerificationFailed with the row that the certificate breaks."""
    _check_basic_constraints(fields, profile)
    _check_key_usage(fields, profile)
    _check_extended_key_usage(fields, profile)
    _check_subject(fields, profile)
    _check_critical_extensions(fields)


def check_issued(fields: Fields, issuer: Fields) -> None:
    """Name chaining and signature: `issuer` signed the certificate. Raises VerificationFailed (X5-30)."""
    try:
        fields.certificate.verify_directly_issued_by(issuer.certificate)
    except InvalidSignature as error:
        raise VerificationFailed("X5-30", f"signature is not by {issuer.subject.rfc4514_string()}") from error
    except UNREADABLE as error:
        raise VerificationFailed(
            "X5-30", f"certificate is not issued by {issuer.subject.rfc4514_string()}: {error}"
        ) from error


def _check_basic_constraints(fields: Fields, profile: Profile) -> None:
    constraints = fields.extension(x509.BasicConstraints)
    row = "X5-14" if profile.ca else "X5-31"
    if constraints is None:
        raise VerificationFailed(row, f"{profile.name} has no BasicConstraints")
    if constraints.value.ca is not profile.ca:
        raise VerificationFailed(row, f"{profile.name} has cA {str(constraints.value.ca).lower()}")


def _check_key_usage(fields: Fields, profile: Profile) -> None:
    usage = fields.extension(x509.KeyUsage)
    if usage is None:
        raise VerificationFailed("X5-18", f"{profile.name} has no KeyUsage")
    if usage.critical is not profile.key_usage_critical:
        raise VerificationFailed("X5-19", f"{profile.name} has a KeyUsage that is not critical")
    for bit in sorted(profile.key_usage_forbidden):
        if getattr(usage.value, bit):
            raise VerificationFailed(_FORBIDDEN_BIT[bit], f"{profile.name} has KeyUsage {bit}")
    for bit in sorted(profile.key_usage_set):
        if not getattr(usage.value, bit):
            raise VerificationFailed(_MISSING_BIT[bit], f"{profile.name} lacks KeyUsage {bit}")


def _check_extended_key_usage(fields: Fields, profile: Profile) -> None:
    """An SVID serves both ends of a connection; an authority that is limited to less cannot make one."""
    usage = fields.extension(x509.ExtendedKeyUsage)
    if usage is not None and not set(BOTH_ENDS).issubset(usage.value):
        raise VerificationFailed("X5-28", f"{profile.name} has an EKU without serverAuth and clientAuth")


def _check_subject(fields: Fields, profile: Profile) -> None:
    if fields.subject.rdns:
        return
    if not profile.subject_is_empty:
        raise VerificationFailed("X5-30", f"{profile.name} has an empty Subject")
    san = fields.extension(x509.SubjectAlternativeName)
    if san is not None and not san.critical:
        raise VerificationFailed("X5-06", f"{profile.name} has an empty Subject and a SAN that is not critical")


def _check_critical_extensions(fields: Fields) -> None:
    for extension in fields.extensions:
        if extension.critical and not isinstance(extension.value, _PROCESSED):
            raise VerificationFailed("X5-30", f"critical extension {extension.oid.dotted_string} is not supported")


def _check_serial(serial: int) -> None:
    """Positive, or records and revocation cannot name the certificate (RFC 5280 4.1.2.2)."""
    if serial <= 0:
        raise ValueError(f"serial number is {serial}")


def _check_signature_hash(algorithm: hashes.HashAlgorithm | None) -> None:
    """Ed25519 has no hash of its own choosing, hence None."""
    if algorithm is not None and not isinstance(algorithm, HASHES):
        raise ValueError(f"signature uses {algorithm.name}")
