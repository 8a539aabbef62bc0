"""What every key manager does alike: make a key of a type, and name it by its public half.

Rules: a key is named by its public half alone, so that a name never tells anything of the private one.
"""

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from meshca.model import AuthorityKey, KeyType

_CURVES: dict[KeyType, type[ec.EllipticCurve]] = {KeyType.EC_P256: ec.SECP256R1, KeyType.EC_P384: ec.SECP384R1}
_RSA_BITS = {KeyType.RSA_2048: 2048, KeyType.RSA_3072: 3072, KeyType.RSA_4096: 4096}
_RSA_EXPONENT = 65537


def new_key(key_type: KeyType) -> AuthorityKey:
    """A fresh key. RSA of 4096 bits may take seconds: call it in a thread."""
    if key_type in _CURVES:
        return ec.generate_private_key(_CURVES[key_type]())
    return rsa.generate_private_key(_RSA_EXPONENT, _RSA_BITS[key_type])


def key_id(key: AuthorityKey) -> str:
    """The SHA-1 subject key identifier (RFC 5280 4.2.1.2) in lower-case hex."""
    return x509.SubjectKeyIdentifier.from_public_key(key.public_key()).digest.hex()
