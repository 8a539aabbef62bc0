"""ONE table of what a legal certificate is (X.509-SVID standard, checklist X5-06 to X5-45).

Rules:
- The template of the CA and the verifier both read `LEAF` and `SIGNING`. The lint of the CA does not: it is written apart.
- KeyUsage bits are *set* (ours carry them, a verifier demands them), *allowed*, or *forbidden* (a verifier refuses them).
  Bits in none of the three are never ours, and tolerated in others' certificates (D-04).
- What a foreign signing certificate may lack, because SPIRE and others leave it out, is its URI SAN (D-03).
"""

from collections.abc import Iterable
from dataclasses import dataclass

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from spiffe.id import SpiffeID

KEY_USAGE_BITS = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)

BOTH_ENDS = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)  # X5-28


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The extensions and the Subject of one kind of certificate."""

    name: str
    ca: bool
    basic_constraints_critical: bool = True
    key_usage_critical: bool = True
    key_usage_set: frozenset[str]
    key_usage_allowed: frozenset[str]
    key_usage_forbidden: frozenset[str]
    extended_key_usage: tuple[x509.ObjectIdentifier, ...]
    extended_key_usage_critical: bool = False
    subject_is_empty: bool
    id_has_path: bool

    @property
    def san_critical(self) -> bool:
        """Critical iff the Subject is empty (X5-06, RFC 5280 4.2.1.6): each other mix breaks a common verifier."""
        return self.subject_is_empty


LEAF = Profile(
    name="leaf",
    ca=False,  # X5-15, X5-31
    key_usage_set=frozenset({"digital_signature"}),  # X5-22
    key_usage_allowed=frozenset({"key_encipherment", "key_agreement"}),  # X5-23
    key_usage_forbidden=frozenset({"key_cert_sign", "crl_sign"}),  # X5-24, X5-25
    extended_key_usage=BOTH_ENDS,  # X5-26, X5-28
    subject_is_empty=True,
    id_has_path=True,  # X5-04, X5-35
)

SIGNING = Profile(
    name="signing certificate",
    ca=True,  # X5-14
    key_usage_set=frozenset({"key_cert_sign"}),  # X5-20
    key_usage_allowed=frozenset({"crl_sign"}),  # X5-21
    key_usage_forbidden=frozenset(),  # X5-45 binds issuers only (D-04)
    extended_key_usage=(),  # X5-29: libraries differ, so omit
    subject_is_empty=False,  # RFC 5280 4.1.2.6: an authority has a name
    id_has_path=False,  # X5-09
)


def basic_constraints(profile: Profile, path_length: int | None = None) -> x509.BasicConstraints:
    """BasicConstraints of the profile, with an optional pathLenConstraint (X5-13)."""
    return x509.BasicConstraints(ca=profile.ca, path_length=path_length)


def key_usage(profile: Profile, *also: str) -> x509.KeyUsage:
    """KeyUsage with the bits that are set, and those of the allowed ones that `also` names. Raises ValueError."""
    if not profile.key_usage_allowed.issuperset(also):
        raise ValueError(f"KeyUsage {sorted(also)} is not allowed on a {profile.name}")
    bits = profile.key_usage_set.union(also)
    return x509.KeyUsage(**{bit: bit in bits for bit in KEY_USAGE_BITS})


def extended_key_usage(profile: Profile) -> x509.ExtendedKeyUsage | None:
    """ExtendedKeyUsage of the profile, None where there is to be none."""
    return x509.ExtendedKeyUsage(profile.extended_key_usage) if profile.extended_key_usage else None


def subject_alternative_name(spiffe_id: SpiffeID, dns_names: Iterable[str] = ()) -> x509.SubjectAlternativeName:
    """The one URI SAN (X5-01), and DNS names behind it (X5-03)."""
    names = [x509.DNSName(name) for name in dns_names]
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(spiffe_id)), *names])
