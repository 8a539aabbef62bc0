from collections.abc import Callable
from contextlib import suppress

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from meshca.csr import MAX_CSR_BYTES, make_csr, read_csr
from meshca.errors import IssuanceRefused

KEY = ec.generate_private_key(ec.SECP256R1())
CSR = make_csr(KEY)
UNSIGNED = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))


@pytest.mark.parametrize(
    "make",
    [
        lambda: ec.generate_private_key(ec.SECP256R1()),
        lambda: ec.generate_private_key(ec.SECP384R1()),
        lambda: rsa.generate_private_key(65537, 2048),
        lambda: rsa.generate_private_key(65537, 3072),
    ],
    ids=["P-256", "P-384", "RSA 2048", "RSA 3072"],
)
def test_a_csr_gives_the_key_that_made_it(make: Callable[[], ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey]):
    key = make()
    assert read_csr(make_csr(key)) == key.public_key()


@pytest.mark.parametrize(
    ("key", "named"),
    [
        (ec.generate_private_key(ec.SECP521R1()), "EC secp521r1"),
        (ec.generate_private_key(ec.SECP256K1()), "EC secp256k1"),
        (rsa.generate_private_key(65537, 1024), "RSA 1024"),
        (dsa.generate_private_key(2048), "DSAPublicKey"),
        (ed25519.Ed25519PrivateKey.generate(), "Ed25519PublicKey"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_key_that_some_common_verifier_refuses_is_refused_by_name(key: object, named: str):
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, algorithm)  # type: ignore[arg-type]
    with pytest.raises(IssuanceRefused, match=named) as refusal:
        read_csr(csr.public_bytes(Encoding.DER))
    assert refusal.value.reason == "csr"


def test_a_csr_without_proof_of_possession_is_refused():
    point = KEY.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    stolen = CSR.replace(point, other.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint))
    with pytest.raises(IssuanceRefused, match="does not prove possession"):
        read_csr(stolen)


def test_a_csr_that_an_rsa_key_signed_by_pss_proves_possession():
    key = rsa.generate_private_key(65537, 2048)
    scheme = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)
    csr = UNSIGNED.sign(key, hashes.SHA256(), rsa_padding=scheme).public_bytes(Encoding.DER)
    assert read_csr(csr) == key.public_key()
    with pytest.raises(IssuanceRefused, match="does not prove possession"):
        read_csr(csr[:-1] + bytes([csr[-1] ^ 1]))


def test_a_proof_by_a_weak_hash_is_refused():
    csr = UNSIGNED.sign(KEY, hashes.SHA224()).public_bytes(Encoding.DER)
    with pytest.raises(IssuanceRefused, match="signed with sha224, not SHA-256, SHA-384 or SHA-512"):
        read_csr(csr)


def test_a_proof_of_another_kind_than_the_key_is_refused():
    rsa_csr = UNSIGNED.sign(rsa.generate_private_key(65537, 2048), hashes.SHA256())
    algorithm_and_signature = rsa_csr.public_bytes(Encoding.DER).removeprefix(
        rsa_csr.public_bytes(Encoding.DER)[:4] + rsa_csr.tbs_certrequest_bytes
    )
    content = x509.load_der_x509_csr(CSR).tbs_certrequest_bytes + algorithm_and_signature
    with pytest.raises(IssuanceRefused, match="signature is of another kind than its key"):
        read_csr(b"\x30\x82" + len(content).to_bytes(2) + content)


def test_everything_else_in_a_csr_is_ignored():
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier("spiffe://example.org/admin")])
    csr = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "root")]))
        .add_extension(names, critical=True)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(KEY, hashes.SHA384())
    )
    assert read_csr(csr.public_bytes(Encoding.DER)) == KEY.public_key()


@pytest.mark.parametrize(
    ("document", "text"),
    [
        (b"", "cannot be read"),
        (b"\x30\x03\x02\x01\x00", "cannot be read"),
        (CSR[:-1], "cannot be read"),
        (CSR + b"\0", "cannot be read"),
        (CSR.replace(b"\x02\x01\x00", b"\x02\x01\x01", 1), "not a valid CSR version"),
        (b"\x30" * (MAX_CSR_BYTES + 1), f"{MAX_CSR_BYTES + 1} bytes, the limit is {MAX_CSR_BYTES}"),
        (CSR.replace(b"\x2a\x86\x48\xce\x3d\x03\x01\x07", b"\x2a\x86\x48\xce\x3d\x03\x01\x63"), "cannot be read"),
        (CSR.replace(b"\x2a\x86\x48\xce\x3d\x02\x01", b"\x2a\x86\x48\xce\x3d\x02\x63"), "cannot be read"),
    ],
    ids=["empty", "not a CSR", "cut", "longer", "of another version", "too long", "unknown curve", "unknown algorithm"],
)
def test_what_is_no_csr_is_refused_with_a_reason(document: bytes, text: str):
    with pytest.raises(IssuanceRefused, match=text) as refusal:
        read_csr(document)
    assert refusal.value.reason == "csr"


@given(st.binary(max_size=64), st.integers(0, len(CSR) - 1))
def test_a_damaged_csr_is_refused_or_proves_the_same_key(garbage: bytes, at: int):
    with suppress(IssuanceRefused):
        assert read_csr(CSR[:at] + garbage + CSR[at + len(garbage) :]) == KEY.public_key()
