from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from spiffe import X509SVID, InvalidSVID, SpiffeID, spiffe_id_of
from spiffe.x509svid import MAX_CERTIFICATE_BYTES, MAX_CERTIFICATES, parse_der_chain, parse_pem_chain
from tests.support import pki
from tests.support.pki import CA, Issued

WEB = SpiffeID.parse("spiffe://example.org/web")
ROOT = CA.create("example.org")
ISSUER = ROOT.intermediate()
GOOD = ISSUER.leaf(serial=77)
PEM, DER = GOOD.chain_pem, pki.der(*GOOD.chain)


def svid_of(issued: Issued) -> X509SVID:
    return X509SVID.from_pem(issued.chain_pem, issued.key_pem)


@pytest.mark.parametrize("key_type", ["p256", "p384", "p521", "ed25519", "rsa2048"])
def test_an_svid_goes_through_pem_and_der_unchanged(key_type: str):
    """WA-18 to WA-21: leaf first, concatenated, PKCS#8."""
    issued = ISSUER.leaf(key_type=key_type)
    svid = X509SVID(spiffe_id=WEB, chain=issued.chain, private_key=issued.key)

    assert svid.chain_pem() == issued.chain_pem
    assert svid.chain_der() == pki.der(*issued.chain)
    assert svid.key_pem() == pki.key_pem(issued.key)
    assert svid.key_der() == pki.key_der(issued.key)
    assert X509SVID.from_pem(svid.chain_pem(), svid.key_pem()) == svid
    assert X509SVID.from_der(svid.chain_der(), svid.key_der()) == svid


def test_an_svid_tells_what_its_leaf_says():
    svid = svid_of(GOOD)

    assert svid.leaf == GOOD.certificate
    assert (svid.spiffe_id, svid.serial) == (WEB, 77)
    assert (svid.not_before, svid.not_after) == (pki.NOT_BEFORE, pki.NOT_AFTER)


def test_the_private_key_is_in_no_repr():
    svid = svid_of(GOOD)

    assert "chain=" in repr(svid)
    assert "rivate" not in repr(svid)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        pytest.param({"uris": []}, "X5-01", id="X5-01"),
        pytest.param({"uris": ["spiffe://td/a", "spiffe://td/b"]}, "X5-02", id="X5-02"),
        pytest.param({"uris": ["https://td/a"]}, "X5-34", id="X5-34"),
        pytest.param({"uris": ["spiffe://td"]}, "X5-35", id="X5-04 X5-35"),
        pytest.param({"san_critical": False}, "X5-06", id="X5-06"),
        pytest.param({"is_ca": True}, "X5-31", id="X5-15 X5-31"),
        pytest.param({"key_usage": None}, "X5-18", id="X5-18"),
        pytest.param({"key_usage_critical": False}, "X5-19", id="X5-19"),
        pytest.param({"key_usage": {"key_agreement"}}, "X5-22", id="X5-22"),
        pytest.param({"key_usage": {"digital_signature", "key_cert_sign"}}, "X5-32", id="X5-24"),
        pytest.param({"key_usage": {"digital_signature", "crl_sign"}}, "X5-33", id="X5-25"),
        pytest.param({"eku": [pki.ExtendedKeyUsageOID.SERVER_AUTH]}, "X5-28", id="X5-28"),
    ],
)
def test_a_leaf_outside_the_profile_makes_no_svid(changes: dict[str, Any], reason: str):
    with pytest.raises(InvalidSVID, match=reason):
        svid_of(ISSUER.leaf(**changes))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        pytest.param(
            lambda: X509SVID(spiffe_id=WEB, chain=(), private_key=GOOD.key), "chain has 0 certificates", id="empty"
        ),
        pytest.param(
            lambda: X509SVID(spiffe_id=WEB.trust_domain.id, chain=GOOD.chain, private_key=GOOD.key),
            "leaf names spiffe://example.org/web, not spiffe://example.org",
            id="another ID",
        ),
        pytest.param(
            lambda: svid_of(GOOD._replace(key=pki.new_key())), "key is not that of the leaf", id="another key"
        ),
        pytest.param(lambda: svid_of(GOOD._replace(chain=GOOD.chain[::-1])), "X5-35", id="WA-18 leaf last"),
        pytest.param(
            lambda: svid_of(GOOD._replace(chain=(GOOD.certificate, CA.create().certificate))),
            "X5-30: certificate is not issued by CN=root",
            id="WA-19 a stranger in the chain",
        ),
        pytest.param(
            lambda: svid_of(GOOD._replace(chain=(GOOD.certificate, CA.create(subject="intermediate").certificate))),
            "X5-30: signature is not by CN=intermediate",
            id="WA-19 an impostor in the chain",
        ),
        pytest.param(lambda: svid_of(ROOT.intermediate(is_ca=False).leaf()), "X5-14", id="X5-14 the issuer is no CA"),
    ],
)
def test_parts_that_do_not_fit_make_no_svid(make: Callable[[], X509SVID], reason: str):
    with pytest.raises(InvalidSVID, match=reason):
        make()


def encrypted(encoding: Encoding) -> bytes:
    return GOOD.key.private_bytes(encoding, PrivateFormat.PKCS8, BestAvailableEncryption(b"passphrase"))


@pytest.mark.parametrize(
    "read",
    [
        pytest.param(lambda: X509SVID.from_pem(PEM, b""), id="PEM empty"),
        pytest.param(lambda: X509SVID.from_pem(PEM, pki.key_der(GOOD.key)), id="PEM is DER"),
        pytest.param(lambda: X509SVID.from_pem(PEM, encrypted(Encoding.PEM)), id="PEM encrypted"),
        pytest.param(lambda: X509SVID.from_der(DER, b""), id="DER empty"),
        pytest.param(lambda: X509SVID.from_der(DER, GOOD.key_pem), id="WA-21 DER is PEM"),
        pytest.param(lambda: X509SVID.from_der(DER, encrypted(Encoding.DER)), id="WA-20 DER encrypted"),
        pytest.param(lambda: X509SVID.from_der(DER, pki.key_der(pki.x25519_key())), id="a key that cannot sign"),
    ],
)
def test_a_key_that_is_not_a_plain_pkcs8_key_is_refused_and_not_shown(read: Callable[[], X509SVID]):
    with pytest.raises(InvalidSVID, match="private key is ") as refusal:
        read()
    assert refusal.value.__cause__ is None


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        pytest.param(b"", "no certificate", id="empty"),
        pytest.param(b"ey.J.hb", "no certificate", id="ID-30 a token"),
        pytest.param(DER, "no certificate", id="DER"),
        pytest.param(PEM.replace(b"MII", b"MI\n", 1), "cannot be read", id="broken base64"),
        pytest.param(PEM[:-30], "only 1 of 2", id="cut off at the end"),
        pytest.param(PEM * 9, f"more than {MAX_CERTIFICATES}", id="too many"),
        pytest.param(PEM + b"#" * MAX_CERTIFICATES * MAX_CERTIFICATE_BYTES, "the limit is", id="too large"),
    ],
)
def test_a_pem_chain_that_is_not_whole_is_refused(document: bytes, reason: str):
    with pytest.raises(InvalidSVID, match=reason):
        parse_pem_chain(document)


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        pytest.param(b"", "no certificate", id="empty"),
        pytest.param(PEM, "does not start with a SEQUENCE but with 2d2d", id="WA-21 PEM"),
        pytest.param(b"\x30", "does not start with a SEQUENCE but with 30", id="one byte"),
        pytest.param(b"\x30\x80", "length of 0 bytes", id="indefinite length"),
        pytest.param(b"\x30\x84\xff\xff\xff\xff", "length of 4 bytes", id="huge length"),
        pytest.param(b"\x30\x03\x01\x01\xff", "cannot be read", id="some other SEQUENCE"),
        pytest.param(DER[:-1], "DER certificate 2 is cut off: 1 bytes are missing", id="cut off at the end"),
        pytest.param(DER + b"\x00", "does not start with a SEQUENCE but with 00", id="one byte too many"),
        pytest.param(DER * 9, f"more than {MAX_CERTIFICATES}", id="too many"),
        pytest.param(b"\x30\x83\x10\x00\x00" + bytes(2**20), "the limit is", id="too large"),
    ],
)
def test_a_der_chain_that_is_not_whole_is_refused(document: bytes, reason: str):
    with pytest.raises(InvalidSVID, match=reason):
        parse_der_chain(document)


def test_text_between_pem_blocks_is_skipped():
    assert parse_pem_chain(b"web:\n" + GOOD.key_pem + PEM + b"\n# end\n") == GOOD.chain


def test_the_id_of_a_certificate_is_read_strictly():
    assert spiffe_id_of(GOOD.certificate) == WEB
    with pytest.raises(InvalidSVID, match="X5-35"):
        spiffe_id_of(ISSUER.certificate)


def test_a_certificate_with_unreadable_extensions_is_refused():
    twice = GOOD.certificate.public_bytes(Encoding.DER).replace(
        bytes.fromhex("0603551d0e"), bytes.fromhex("0603551d23")
    )
    (certificate,) = parse_der_chain(twice)

    with pytest.raises(InvalidSVID, match="X5-30: certificate cannot be used: Duplicate"):
        spiffe_id_of(certificate)
