"""What a legal certificate is, written out by checklist id and independently of the profile table that made the draft.

Rules:
- All broken rules are told at once.
- `lint` judges a draft before a key is used; `compare` judges what came out of the library, parsed back, before it leaves.
"""

from collections.abc import Callable, Iterator

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from meshca.authority.draft import Draft
from meshca.errors import IssuanceRefused
from meshca.model import Slot
from spiffe.id import MAX_ID_BYTES

LONGEST_SERIAL_BITS = 159  # RFC 5280 4.1.2.2: at most 20 octets, positive
SHORTEST_SERIAL_BITS = 64
RSA_BITS = range(2048, 4096 + 1)

Rule = Callable[[Draft, Slot | None], bool]


def lint(draft: Draft, issuer: Slot | None) -> None:
    """Raise IssuanceRefused("lint") with every rule that the draft breaks. `issuer` None means self-signed."""
    rules = (*COMMON, *(SIGNING if draft.profile.ca else LEAF))
    broken = [text for text, holds in rules if not holds(draft, issuer)]
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
    meant = {(each.oid, each, critical) for each, critical in draft.extensions}
    yield "extensions", meant, {(each.oid, each.value, each.critical) for each in certificate.extensions}


def _usage(draft: Draft) -> frozenset[str]:
    return draft.profile.key_usage_set


def _strong(draft: Draft) -> bool:
    key = draft.public_key
    if isinstance(key, rsa.RSAPublicKey):
        return key.key_size in RSA_BITS
    return isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1)


def _names_issuer(draft: Draft, issuer: Slot | None) -> bool:
    if issuer is None:
        return draft.issuer == draft.subject and draft.authority_key_id is None
    return draft.issuer == issuer.certificate.subject and draft.authority_key_id == bytes.fromhex(issuer.id)


def _within_issuer(draft: Draft, issuer: Slot | None) -> bool:
    return issuer is None or (
        draft.not_before >= issuer.certificate.not_valid_before_utc and draft.not_after <= issuer.not_after
    )


def _same_trust_domain(draft: Draft, issuer: Slot | None) -> bool:
    """The issuer's own URI SAN says whose it is."""
    if issuer is None:
        return True
    names = issuer.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.UniformResourceIdentifier) == [str(draft.spiffe_id.trust_domain.id)]


COMMON: tuple[tuple[str, Rule], ...] = (
    ("ID-20: the SPIFFE ID is longer than 2048 bytes", lambda d, _: len(str(d.spiffe_id)) <= MAX_ID_BYTES),
    (
        "X5-06: the SAN is critical if and only if the Subject is empty",
        lambda d, _: d.profile.san_critical == (len(d.subject) == 0),
    ),
    ("X5-10: the issuer is of another trust domain", _same_trust_domain),
    ("X5-19: KeyUsage is not critical", lambda d, _: d.profile.key_usage_critical),
    ("X5-30: BasicConstraints is not critical", lambda d, _: d.profile.basic_constraints_critical),
    ("X5-30: it ends before it starts", lambda d, _: d.not_before < d.not_after),
    ("X5-30: it is not valid within the issuer's time", _within_issuer),
    ("X5-30: it does not name its issuer", _names_issuer),
    (
        "X5-30: the serial is not 64 to 159 bits",
        lambda d, _: SHORTEST_SERIAL_BITS <= d.serial.bit_length() <= LONGEST_SERIAL_BITS,
    ),
    ("X5-30: the subject key identifier is not the key's", lambda d, _: d.subject_key_id == _key_id(d)),
    ("X5-30: the key is weak or of a kind that verifiers refuse", lambda d, _: _strong(d)),
)

LEAF: tuple[tuple[str, Rule], ...] = (
    ("X5-04: a leaf's ID has a path", lambda d, _: d.spiffe_id.is_workload),
    ("X5-15: a leaf's path length is none", lambda d, _: d.path_length is None),
    ("X5-22: digitalSignature is not set", lambda d, _: "digital_signature" in _usage(d)),
    ("X5-24: keyCertSign is set", lambda d, _: "key_cert_sign" not in _usage(d)),
    ("X5-25: cRLSign is set", lambda d, _: "crl_sign" not in _usage(d)),
    ("X5-27: ExtendedKeyUsage is critical", lambda d, _: not d.profile.extended_key_usage_critical),
    (
        "X5-28: ExtendedKeyUsage is not serverAuth and clientAuth",
        lambda d, _: (
            set(d.profile.extended_key_usage) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
        ),
    ),
    ("X5-13: a leaf needs an issuer", lambda _, issuer: issuer is not None),
)

SIGNING: tuple[tuple[str, Rule], ...] = (
    ("X5-09: a signing certificate's ID has no path", lambda d, _: not d.spiffe_id.is_workload),
    ("X5-20: keyCertSign is not set", lambda d, _: "key_cert_sign" in _usage(d)),
    (
        "X5-45: a signing certificate has bits that belong to leaves",
        lambda d, _: _usage(d) <= {"key_cert_sign", "crl_sign"},
    ),
    ("X5-29: a signing certificate has ExtendedKeyUsage", lambda d, _: not d.profile.extended_key_usage),
    ("X5-03: a signing certificate has DNS names", lambda d, _: not d.dns_names),
    ("RFC 5280 4.1.2.6: a signing certificate has no Subject", lambda d, _: len(d.subject) > 0),
    (
        "X5-13: an intermediate is for leaves only: path length 0",
        lambda d, issuer: (d.path_length == 0) == (issuer is not None),
    ),
)


def _key_id(draft: Draft) -> bytes:
    return x509.SubjectKeyIdentifier.from_public_key(draft.public_key).digest
