"""The bundle of a trust domain as a value, and sets of bundles that never mix (Trust Domain and Bundle standard).

Rules:
- Only certificates that may sign are authorities; each is there once, and their order is kept.
- A bundle without authorities is legal and means: trust nobody of this trust domain (TB-13, TB-14).
- Nothing here, or anywhere, pools the authorities of two trust domains (TB-01).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from hashlib import sha256
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from spiffe.certificate import Fields, check_profile
from spiffe.errors import InvalidBundle, InvalidSVID, VerificationFailed
from spiffe.id import TrustDomain
from spiffe.profile import SIGNING
from spiffe.x509svid import parse_der_chain, parse_pem_chain

MAX_AUTHORITIES = 64
MAX_SEQUENCE = 2**64 - 1
MAX_REFRESH_HINT = timedelta(days=366)

_Parser = Callable[[bytes, int], tuple[x509.Certificate, ...]]


@dataclass(
    frozen=True, kw_only=True
)  # without slots, so that thousands of streams share each encoding: cached_property
class Bundle:
    """The X.509 authorities of one trust domain. Raises InvalidBundle.

    `sequence` has 64 bits and only rises (TB-05, TB-07); `refresh_hint` is in whole seconds (TB-09).
    """

    trust_domain: TrustDomain
    x509_authorities: tuple[x509.Certificate, ...]
    sequence: int | None = None
    refresh_hint: timedelta | None = None

    def __post_init__(self) -> None:
        """Hold X5-07, TB-07 and TB-09."""
        if len(self.x509_authorities) > MAX_AUTHORITIES:
            raise InvalidBundle(f"{self._named} has more than {MAX_AUTHORITIES} authorities")
        if len(set(self.x509_authorities)) != len(self.x509_authorities):
            raise InvalidBundle(f"{self._named} has an authority twice")
        if self.sequence is not None and not 0 <= self.sequence <= MAX_SEQUENCE:
            raise InvalidBundle(
                f"{self._named} has the sequence {self.sequence}, which does not fit in 64 bits (TB-07)"
            )
        if self.refresh_hint is not None:
            self._check_refresh_hint(self.refresh_hint)
        for certificate in self.x509_authorities:
            self._check_authority(certificate)

    @classmethod
    def from_pem(cls, trust_domain: TrustDomain, document: bytes) -> Self:
        """Read at least one concatenated PEM certificate. Raises InvalidBundle."""
        return cls(trust_domain=trust_domain, x509_authorities=_parsed(trust_domain, parse_pem_chain, document))

    @classmethod
    def from_der(cls, trust_domain: TrustDomain, document: bytes) -> Self:
        """Read at least one concatenated DER certificate, as the Workload API sends them. Raises InvalidBundle."""
        return cls(trust_domain=trust_domain, x509_authorities=_parsed(trust_domain, parse_der_chain, document))

    @cached_property
    def digest(self) -> str:
        """Hex SHA-256 over the trust domain and the authorities in any order. The sequence has no part in it."""
        fingerprints = sorted(certificate.fingerprint(hashes.SHA256()) for certificate in self.x509_authorities)
        return sha256(b"".join([self.trust_domain.name.encode(), b"\0", *fingerprints])).hexdigest()

    def to_pem(self) -> bytes:
        """The authorities as concatenated PEM. Empty if there are none: leave such a bundle out (D-16)."""
        return self._pem

    def to_der(self) -> bytes:
        """The authorities as concatenated DER. Empty if there are none: leave such a bundle out (D-16)."""
        return self._der

    @cached_property
    def _pem(self) -> bytes:
        return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in self.x509_authorities)

    @cached_property
    def _der(self) -> bytes:
        return b"".join(certificate.public_bytes(Encoding.DER) for certificate in self.x509_authorities)

    @property
    def _named(self) -> str:
        return f"bundle of {self.trust_domain}"

    def _check_refresh_hint(self, hint: timedelta) -> None:
        if hint % timedelta(seconds=1) or not timedelta() <= hint <= MAX_REFRESH_HINT:
            raise InvalidBundle(
                f"{self._named} has the refresh hint {hint}: not whole seconds of a year at most (TB-09)"
            )

    def _check_authority(self, certificate: x509.Certificate) -> None:
        try:
            check_profile(Fields.read(certificate), SIGNING)
        except VerificationFailed as error:
            raise InvalidBundle(f"{self._named} has a certificate that may not sign: {error}") from error


def _parsed(trust_domain: TrustDomain, parse: _Parser, document: bytes) -> tuple[x509.Certificate, ...]:
    """The certificates of the document, each once."""
    try:
        return tuple(dict.fromkeys(parse(document, MAX_AUTHORITIES)))
    except InvalidSVID as error:
        raise InvalidBundle(f"bundle of {trust_domain}: {error}") from error


class BundleSet(Mapping[TrustDomain, Bundle]):
    """Bundles by trust domain, in the order of their names. It does not change. Raises InvalidBundle for duplicates."""

    __slots__ = ("_bundles",)

    def __init__(self, bundles: Iterable[Bundle] = ()) -> None:
        ordered = sorted(bundles, key=lambda bundle: bundle.trust_domain)
        self._bundles = {bundle.trust_domain: bundle for bundle in ordered}
        if len(self._bundles) != len(ordered):
            names = ", ".join(str(bundle.trust_domain) for bundle in ordered)
            raise InvalidBundle(f"a trust domain has two bundles, which are never merged: {names}")

    def __getitem__(self, trust_domain: TrustDomain) -> Bundle:
        return self._bundles[trust_domain]

    def __iter__(self) -> Iterator[TrustDomain]:
        return iter(self._bundles)

    def __len__(self) -> int:
        return len(self._bundles)

    def __hash__(self) -> int:
        return hash(tuple(self._bundles.values()))

    def __repr__(self) -> str:
        return f"BundleSet({list(self._bundles.values())!r})"

    def with_bundle(self, bundle: Bundle) -> "BundleSet":
        """This set with the bundle in it, in place of an older one of its trust domain."""
        return BundleSet([*self.without(bundle.trust_domain).values(), bundle])

    def without(self, trust_domain: TrustDomain) -> "BundleSet":
        """This set without any bundle of the trust domain."""
        return BundleSet(bundle for bundle in self.values() if bundle.trust_domain != trust_domain)
