"""The X.509-SVID as a value: a chain, leaf first, and the leaf's private key (X.509-SVID standard).

Rules:
- A value that exists can be served: its key fits its leaf, the leaf and its issuers are legal, and each is signed by the next.
- Whether anybody should trust it is another question, which needs a bundle and the time: `spiffe.x509verify`.
- The private key never appears in a repr or an error.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
    load_pem_private_key,
)

from spiffe.certificate import UNREADABLE, Fields, PrivateKey, check_issued, check_profile, claimed_id
from spiffe.errors import InvalidSVID, VerificationFailed
from spiffe.id import SpiffeID
from spiffe.profile import LEAF, SIGNING

MAX_CERTIFICATES = 16
MAX_CERTIFICATE_BYTES = 64 * 1024

_PEM_HEADER = b"-----BEGIN CERTIFICATE-----"
_SEQUENCE = 0x30
_LONG_FORM = 0x80


@dataclass(frozen=True, slots=True, kw_only=True)
class X509SVID:
    """An identity that its holder can prove. Raises InvalidSVID unless all parts fit each other.

    `chain` is leaf first, followed by the intermediates, without the root. Two are equal when their chains are.
    """

    spiffe_id: SpiffeID
    chain: tuple[x509.Certificate, ...]
    private_key: PrivateKey = field(repr=False, compare=False)

    def __post_init__(self) -> None:
        """Hold X5-01 to X5-35 for the leaf, X5-14 to X5-20 for its issuers, WA-18 for the order."""
        if not 1 <= len(self.chain) <= MAX_CERTIFICATES:
            raise InvalidSVID(f"chain has {len(self.chain)} certificates, it must have 1 to {MAX_CERTIFICATES}")
        try:
            named = _id_of_chain([Fields.read(certificate) for certificate in self.chain])
        except VerificationFailed as error:
            raise InvalidSVID(f"X.509-SVID of {self.spiffe_id}: {error}") from error
        if named != self.spiffe_id:
            raise InvalidSVID(f"leaf names {named}, not {self.spiffe_id}")
        if self.private_key.public_key() != self.leaf.public_key():
            raise InvalidSVID(f"private key is not that of the leaf of {self.spiffe_id}")

    @classmethod
    def from_pem(cls, certificates: bytes, key: bytes) -> Self:
        """Read a PEM chain, leaf first, and an unencrypted PEM key. Raises InvalidSVID."""
        return cls._of(parse_pem_chain(certificates), _parse_key(load_pem_private_key, key))

    @classmethod
    def from_der(cls, certificates: bytes, key: bytes) -> Self:
        """Read concatenated DER certificates, leaf first, and a PKCS#8 DER key. Raises InvalidSVID."""
        return cls._of(parse_der_chain(certificates), _parse_key(load_der_private_key, key))

    @classmethod
    def _of(cls, chain: tuple[x509.Certificate, ...], private_key: PrivateKey) -> Self:
        return cls(spiffe_id=spiffe_id_of(chain[0]), chain=chain, private_key=private_key)

    @property
    def leaf(self) -> x509.Certificate:
        """The certificate that names the workload."""
        return self.chain[0]

    @property
    def serial(self) -> int:
        """The serial number of the leaf."""
        return self.leaf.serial_number

    @property
    def not_before(self) -> datetime:
        """Start of the leaf's validity, aware, UTC."""
        return self.leaf.not_valid_before_utc

    @property
    def not_after(self) -> datetime:
        """End of the leaf's validity, aware, UTC."""
        return self.leaf.not_valid_after_utc

    def chain_pem(self) -> bytes:
        """The chain as concatenated PEM, leaf first."""
        return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in self.chain)

    def chain_der(self) -> bytes:
        """The chain as concatenated DER, leaf first (WA-18, WA-19, WA-21)."""
        return b"".join(certificate.public_bytes(Encoding.DER) for certificate in self.chain)

    def key_pem(self) -> bytes:
        """The private key as unencrypted PKCS#8 PEM."""
        return self.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def key_der(self) -> bytes:
        """The private key as unencrypted PKCS#8 DER (WA-20)."""
        return self.private_key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def spiffe_id_of(certificate: x509.Certificate) -> SpiffeID:
    """The workload's SPIFFE ID in a leaf (X5-01, X5-02, X5-34, X5-35). Raises InvalidSVID. Proves nothing by itself."""
    try:
        return claimed_id(Fields.read(certificate))
    except VerificationFailed as error:
        raise InvalidSVID(str(error)) from error


def parse_pem_chain(document: bytes, limit: int = MAX_CERTIFICATES) -> tuple[x509.Certificate, ...]:
    """Read one to `limit` concatenated PEM certificates, in order. Raises InvalidSVID.

    Text and blocks of other kinds between the certificates are skipped, as OpenSSL does.
    """
    count = document.count(_PEM_HEADER)
    _check_bounds(document, count, limit)
    try:
        certificates = tuple(x509.load_pem_x509_certificates(document))
    except UNREADABLE as error:
        raise InvalidSVID(f"PEM certificates cannot be read: {error}") from error
    if len(certificates) != count:  # the library skips a block that was cut off
        raise InvalidSVID(f"only {len(certificates)} of {count} PEM certificates can be read")
    return certificates


def parse_der_chain(document: bytes, limit: int = MAX_CERTIFICATES) -> tuple[x509.Certificate, ...]:
    """Read one to `limit` concatenated DER certificates, in order. Raises InvalidSVID."""
    parts = _split_der(document, limit)
    _check_bounds(document, len(parts), limit)
    try:
        return tuple(x509.load_der_x509_certificate(part) for part in parts)
    except UNREADABLE as error:
        raise InvalidSVID(f"DER certificate cannot be read: {error}") from error


def _id_of_chain(chain: Sequence[Fields]) -> SpiffeID:
    """The ID of the leaf, in a chain whose every part is legal and signed by the next."""
    leaf, *issuers = chain
    spiffe_id = claimed_id(leaf)
    check_profile(leaf, LEAF)
    for issuer in issuers:
        check_profile(issuer, SIGNING)
    for certificate, issuer in pairwise(chain):
        check_issued(certificate, issuer)
    return spiffe_id


def _parse_key(load: Callable[..., object], document: bytes) -> PrivateKey:
    """Read a key. The library's own error is dropped on purpose: nothing of a key may reach a log."""
    try:
        key = load(document, password=None)
    except UNREADABLE:
        raise InvalidSVID("private key is not an unencrypted PKCS#8 key") from None
    if not isinstance(key, PrivateKey):
        raise InvalidSVID(f"private key is of a kind that is not supported: {type(key).__name__}")
    return key


def _check_bounds(document: bytes, count: int, limit: int) -> None:
    if len(document) > limit * MAX_CERTIFICATE_BYTES:
        raise InvalidSVID(f"chain has {len(document)} bytes, the limit is {limit * MAX_CERTIFICATE_BYTES}")
    if count == 0:
        raise InvalidSVID("there is no certificate")
    if count > limit:
        raise InvalidSVID(f"chain has more than {limit} certificates")


def _split_der(document: bytes, limit: int) -> list[bytes]:
    """Cut at the ends of the outer SEQUENCEs, into `limit` + 1 parts at most."""
    parts: list[bytes] = []
    start = 0
    while start < len(document) and len(parts) <= limit:
        end = start + _sequence_size(document[start : start + 5])
        if end > len(document):
            raise InvalidSVID(f"DER certificate {len(parts) + 1} is cut off: {end - len(document)} bytes are missing")
        parts.append(document[start:end])
        start = end
    return parts


def _sequence_size(header: bytes) -> int:
    """Size of the SEQUENCE that starts here, its tag and length (X.690 8.1) included."""
    if len(header) < 2 or header[0] != _SEQUENCE:  # noqa: PLR2004 - a tag and a length
        raise InvalidSVID(f"DER certificate does not start with a SEQUENCE but with {header[:2].hex() or 'nothing'}")
    if header[1] < _LONG_FORM:
        return 2 + header[1]
    width = header[1] - _LONG_FORM
    if width not in (1, 2, 3):
        raise InvalidSVID(f"DER certificate has a length of {width} bytes")
    return 2 + width + int.from_bytes(header[2 : 2 + width], "big")
