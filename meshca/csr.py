"""A CSR is a key and proof of possession, nothing more: whatever else is in it is ignored, never copied."""

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from meshca.errors import IssuanceRefused

MAX_CSR_BYTES = 16 * 1024
RSA_BITS = range(2048, 4096 + 1)
_STRONG = {"sha256", "sha384", "sha512"}

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
        _prove_possession(request, key)
    except InvalidSignature as error:
        raise IssuanceRefused("csr", "CSR does not prove possession of its key: the signature is wrong") from error
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise IssuanceRefused("csr", f"CSR cannot be read: {error}") from error
    return key


def _prove_possession(request: x509.CertificateSigningRequest, key: PublicKey) -> None:
    """Verify with the key at hand: the library's own check loads it once more, a tenth of all that a CSR costs.

    Raises InvalidSignature, and ValueError for a scheme that is not the key's or a weak hash.
    """
    scheme, digest = request.signature_algorithm_parameters, request.signature_hash_algorithm
    if digest is None or digest.name not in _STRONG:
        raise ValueError(f"it is signed with {digest.name if digest else 'no hash'}, not SHA-256, SHA-384 or SHA-512")
    match key, scheme:
        case ec.EllipticCurvePublicKey(), ec.ECDSA():
            key.verify(request.signature, request.tbs_certrequest_bytes, scheme)
        case rsa.RSAPublicKey(), padding.PKCS1v15() | padding.PSS():
            key.verify(request.signature, request.tbs_certrequest_bytes, scheme, digest)
        case _:
            raise ValueError("its signature is of another kind than its key")


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
