"""A CSR is a key and proof of possession, nothing more: whatever else is in it is ignored, never copied."""

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from meshca.errors import IssuanceRefused

MAX_CSR_BYTES = 16 * 1024
RSA_BITS = range(2048, 4096 + 1)

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey


def make_csr(key: PrivateKey) -> bytes:
    """A CSR (DER) with an empty subject: all that a CA of ours reads."""
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.DER)
    )


def read_csr(document: bytes) -> PublicKey:
    """The public key of a CSR (DER) whose signature proves possession of the private one. Raises IssuanceRefused("csr")."""
    if len(document) > MAX_CSR_BYTES:
        raise IssuanceRefused("csr", f"CSR has {len(document)} bytes, the limit is {MAX_CSR_BYTES}")
    try:
        request = x509.load_der_x509_csr(document)
        key = _allowed(request.public_key())
        proven = request.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise IssuanceRefused("csr", f"CSR cannot be read: {error}") from error
    if not proven:
        raise IssuanceRefused("csr", "CSR does not prove possession of its key: the signature is wrong")
    return key


def _allowed(key: object) -> PublicKey:
    """Keys that every common verifier takes (facts/spiffe.md 3.6)."""
    match key:
        case ec.EllipticCurvePublicKey(curve=ec.SECP256R1() | ec.SECP384R1()):
            return key
        case rsa.RSAPublicKey(key_size=bits) if bits in RSA_BITS:
            return key
    raise IssuanceRefused(
        "csr", f"CSR has a key of a kind we do not sign: {_described(key)}; use EC P-256, P-384 or RSA from 2048 bits"
    )


def _described(key: object) -> str:
    if isinstance(key, ec.EllipticCurvePublicKey):
        return f"EC {key.curve.name}"
    return f"RSA {key.key_size}" if isinstance(key, rsa.RSAPublicKey) else type(key).__name__
