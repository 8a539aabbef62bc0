"""A CA for tests that makes good and deliberately bad certificates, straight from `cryptography`.

Rules:
- Nothing here goes through our own builder or profile table, so that a mistake there cannot hide in the tests.
- Every default is legal; every argument can make it illegal. `None` leaves an extension out.
- No clock: all certificates hold from 2020 to 2049 unless told otherwise, which suits real TLS and `NOW` alike.

    root = CA.create("example.org")
    issuer = root.intermediate()
    chain, key = issuer.leaf(uris=["spiffe://example.org/web"])             # a legal X.509-SVID, leaf first
    bad = issuer.leaf(key_usage={"digital_signature", "crl_sign"}).chain     # an illegal one (X5-33)
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NOT_BEFORE = datetime(2020, 1, 1, tzinfo=UTC)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
NOT_AFTER = datetime(2049, 1, 1, tzinfo=UTC)

CA_USAGE = frozenset({"key_cert_sign", "crl_sign"})
LEAF_USAGE = frozenset({"digital_signature"})
SERVER_AND_CLIENT = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)

_ALL_USAGES = (
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
CURVES: dict[str, type[ec.EllipticCurve]] = {
    "p256": ec.SECP256R1,
    "p384": ec.SECP384R1,
    "p521": ec.SECP521R1,
    "k256": ec.SECP256K1,
}


PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
SignatureHash = hashes.SHA224 | hashes.SHA256 | hashes.SHA384 | hashes.SHA512
Extensions = Iterable[tuple[x509.ExtensionType, bool]]  # an extension and whether it is critical


class Issued(NamedTuple):
    """A chain, leaf first and without the root, and the leaf's private key."""

    chain: tuple[x509.Certificate, ...]
    key: PrivateKey

    @property
    def certificate(self) -> x509.Certificate:
        """The leaf."""
        return self.chain[0]

    @property
    def chain_pem(self) -> bytes:
        """The chain as PEM, leaf first."""
        return pem(*self.chain)

    @property
    def key_pem(self) -> bytes:
        """The key as unencrypted PKCS#8 PEM."""
        return key_pem(self.key)


@dataclass(frozen=True, slots=True, kw_only=True)
class CA:
    """A root or an intermediate: a certificate, its key, and what a leaf's chain carries between leaf and root."""

    trust_domain: str
    certificate: x509.Certificate
    key: PrivateKey
    intermediates: tuple[x509.Certificate, ...] = ()

    @classmethod
    def create(
        cls,
        trust_domain: str = "example.org",
        *,
        key_type: str = "p256",
        key: PrivateKey | None = None,
        spiffe_id: str | None = "",
        subject: str = "root",
        **changes: Any,
    ) -> Self:
        """A self-signed root. `changes`: see certificate().

        `spiffe_id` "" means `spiffe://<trust_domain>`, None means no SAN.
        """
        key = key or new_key(key_type)
        made = certificate(
            key=key,
            issuer=None,
            subject=subject,
            uris=_signing_uris(spiffe_id, trust_domain),
            **_signing_defaults(changes),
        )
        return cls(trust_domain=trust_domain, certificate=made, key=key)

    def intermediate(
        self,
        *,
        key_type: str = "p256",
        key: PrivateKey | None = None,
        spiffe_id: str | None = "",
        subject: str = "intermediate",
        **changes: Any,
    ) -> Self:
        """An authority signed by this one, of the same trust domain. Arguments as for create()."""
        key = key or new_key(key_type)
        made = certificate(
            key=key,
            issuer=self,
            subject=subject,
            uris=_signing_uris(spiffe_id, self.trust_domain),
            **_signing_defaults(changes),
        )
        chain = (made, *self.intermediates)
        return type(self)(trust_domain=self.trust_domain, certificate=made, key=key, intermediates=chain)

    def leaf(
        self,
        *,
        uris: Sequence[str] | None = None,
        key_type: str = "p256",
        key: PrivateKey | None = None,
        **changes: Any,
    ) -> Issued:
        """A leaf for `uris` (default: one, `spiffe://<trust_domain>/web`). `changes`: see certificate()."""
        key = key or new_key(key_type)
        if uris is None:
            uris = [f"spiffe://{self.trust_domain}/web"]
        made = certificate(key=key, issuer=self, uris=uris, **changes)
        return Issued((made, *self.intermediates), key)

    @property
    def pem(self) -> bytes:
        """The authority's own certificate as PEM."""
        return pem(self.certificate)

    @property
    def der(self) -> bytes:
        """The authority's own certificate as DER."""
        return self.certificate.public_bytes(serialization.Encoding.DER)


def certificate(
    *,
    key: PrivateKey,
    issuer: CA | None,
    subject: str = "",
    uris: Sequence[str] = (),
    dns: Sequence[str] = (),
    san_critical: bool | None = None,
    is_ca: bool | None = False,
    basic_constraints_critical: bool = True,
    path_length: int | None = None,
    key_usage: Iterable[str] | None = LEAF_USAGE,
    key_usage_critical: bool = True,
    eku: Sequence[x509.ObjectIdentifier] | None = SERVER_AND_CLIENT,
    eku_critical: bool = False,
    not_before: datetime = NOT_BEFORE,
    not_after: datetime = NOT_AFTER,
    serial: int | None = None,
    issuer_name: str | None = None,
    signing_key: PrivateKey | None = None,
    key_identifiers: bool = True,
    extensions: Extensions = (),
    algorithm: SignatureHash | None = None,
) -> x509.Certificate:
    """One certificate for `key`, signed by `issuer`, or by itself when there is none.

    `subject` and `issuer_name` are common names, "" is the empty name. `san_critical` None means: iff the subject is
    empty. `is_ca` None leaves BasicConstraints out. `signing_key` signs in place of the issuer's key: a forgery.
    """
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_issuer_name(issuer, issuer_name, subject))
        .public_key(key.public_key())
        .serial_number(serial or x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_after)
    )
    made: list[tuple[x509.ExtensionType, bool]] = []
    if is_ca is not None:
        made.append((x509.BasicConstraints(ca=is_ca, path_length=path_length), basic_constraints_critical))
    if key_usage is not None:
        made.append((usage(*key_usage), key_usage_critical))
    if eku is not None:
        made.append((x509.ExtendedKeyUsage(eku), eku_critical))
    if uris or dns:
        made.append((_names(uris, dns), not subject if san_critical is None else san_critical))
    if key_identifiers:
        issuing = issuer.key.public_key() if issuer else key.public_key()
        made.append((x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False))
        made.append((x509.AuthorityKeyIdentifier.from_issuer_public_key(issuing), False))
    for extension, critical in [*made, *extensions]:
        builder = builder.add_extension(extension, critical=critical)
    signer = signing_key or (issuer.key if issuer else key)
    if isinstance(signer, ed25519.Ed25519PrivateKey):
        return builder.sign(signer, None)
    deterministic = isinstance(signer, ec.EllipticCurvePrivateKey)  # so that golden files stay as they are
    return builder.sign(signer, algorithm or hashes.SHA256(), ecdsa_deterministic=deterministic or None)


def new_key(key_type: str = "p256") -> PrivateKey:
    """A fresh key: p256, p384, p521, k256, ed25519, rsa1024, rsa2048, rsa3072 or rsa4096."""
    if key_type == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    if key_type in CURVES:
        return ec.generate_private_key(CURVES[key_type]())
    return rsa.generate_private_key(65537, int(key_type.removeprefix("rsa")))


def x25519_key() -> x25519.X25519PrivateKey:
    """A key that cannot sign."""
    return x25519.X25519PrivateKey.generate()


def usage(*names: str) -> x509.KeyUsage:
    """A KeyUsage extension with exactly the named bits."""
    return x509.KeyUsage(**{name: name in names for name in _ALL_USAGES})


def permitted(*constraints: str) -> x509.NameConstraints:
    """URI name constraints that permit these hosts only."""
    return x509.NameConstraints([x509.UniformResourceIdentifier(c) for c in constraints], None)


def unknown_extension() -> x509.UnrecognizedExtension:
    """An extension that nobody knows."""
    return x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00")


def pem(*certificates: x509.Certificate) -> bytes:
    """The certificates as concatenated PEM."""
    return b"".join(c.public_bytes(serialization.Encoding.PEM) for c in certificates)


def der(*certificates: x509.Certificate) -> bytes:
    """The certificates as concatenated DER."""
    return b"".join(c.public_bytes(serialization.Encoding.DER) for c in certificates)


def key_pem(key: PrivateKey | x25519.X25519PrivateKey) -> bytes:
    """The key as unencrypted PKCS#8 PEM."""
    return _private_bytes(key, serialization.Encoding.PEM)


def key_der(key: PrivateKey | x25519.X25519PrivateKey) -> bytes:
    """The key as unencrypted PKCS#8 DER."""
    return _private_bytes(key, serialization.Encoding.DER)


def _private_bytes(key: PrivateKey | x25519.X25519PrivateKey, encoding: serialization.Encoding) -> bytes:
    return key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _signing_defaults(changes: dict[str, Any]) -> dict[str, Any]:
    return {"is_ca": True, "key_usage": CA_USAGE, "eku": None, **changes}


def _signing_uris(spiffe_id: str | None, trust_domain: str) -> list[str]:
    return [] if spiffe_id is None else [spiffe_id or f"spiffe://{trust_domain}"]


def _names(uris: Sequence[str], dns: Sequence[str]) -> x509.SubjectAlternativeName:
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris]
    return x509.SubjectAlternativeName([*names, *(x509.DNSName(name) for name in dns)])


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else [])


def _issuer_name(issuer: CA | None, given: str | None, subject: str) -> x509.Name:
    if given is not None:
        return _name(given)
    return issuer.certificate.subject if issuer else _name(subject)
