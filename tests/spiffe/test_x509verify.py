from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from spiffe import Bundle, BundleSet, SpiffeID, TrustDomain, VerificationFailed, verify
from tests.support import pki
from tests.support.pki import CA, NOW

OURS = TrustDomain("example.org")
WEB = SpiffeID.parse("spiffe://example.org/web")
ROOT = CA.create("example.org")
ISSUER = ROOT.intermediate()
FOREIGN = CA.create("other.org")

PAST = {"not_after": NOW - timedelta(seconds=1)}
FUTURE = {"not_before": NOW + timedelta(seconds=1)}
UNKNOWN = [(pki.unknown_extension(), True)]
Chain = tuple[x509.Certificate, ...]


def bundle(*authorities: CA, trust_domain: TrustDomain = OURS) -> Bundle:
    return Bundle(trust_domain=trust_domain, x509_authorities=tuple(ca.certificate for ca in authorities))


BUNDLES = BundleSet([bundle(ROOT), bundle(FOREIGN, trust_domain=TrustDomain("other.org"))])


def constrained(*trees: x509.GeneralName, excluded: bool = False) -> Any:
    subtrees = list(trees)
    names = x509.NameConstraints(None, subtrees) if excluded else x509.NameConstraints(subtrees, None)
    return {"extensions": [(names, True)]}


def uri(name: str) -> x509.GeneralName:
    return x509.UniformResourceIdentifier(name)


@pytest.mark.parametrize(
    ("changes", "proven"),
    [
        pytest.param({}, "spiffe://example.org/web", id="ID-30: a plain leaf"),
        pytest.param({"dns": ["a.test", "b.test"]}, "spiffe://example.org/web", id="X5-03 ID-29 other names"),
        pytest.param({"subject": "web"}, "spiffe://example.org/web", id="X5-06 Subject, SAN not critical"),
        pytest.param({"subject": "web", "san_critical": True}, "spiffe://example.org/web", id="X5-06 both"),
        pytest.param({"key_usage": {"digital_signature", "key_encipherment"}}, "spiffe://example.org/web", id="X5-23"),
        pytest.param({"key_usage": {"digital_signature", "key_agreement"}}, "spiffe://example.org/web", id="X5-23 KA"),
        pytest.param({"eku": None}, "spiffe://example.org/web", id="X5-26 only SHOULD"),
        pytest.param({"eku_critical": True}, "spiffe://example.org/web", id="X5-27"),
        pytest.param({"uris": ["spiffe://example.org/A"]}, "spiffe://example.org/A", id="ID-22 case is kept"),
        pytest.param(
            {"uris": ["spiffe://example.org/" + "a" * 2027]}, "spiffe://example.org/" + "a" * 2027, id="ID-19"
        ),
        pytest.param({"key_type": "ed25519"}, "spiffe://example.org/web", id="Ed25519"),
        pytest.param({"key_type": "rsa2048"}, "spiffe://example.org/web", id="RSA"),
        pytest.param(
            {"extensions": [(pki.unknown_extension(), False)]}, "spiffe://example.org/web", id="X5-30 harmless"
        ),
        pytest.param({"not_after": NOW, "not_before": NOW}, "spiffe://example.org/web", id="X5-30 dates are inclusive"),
    ],
)
def test_a_legal_leaf_proves_its_id(changes: dict[str, Any], proven: str):
    assert str(verify(ISSUER.leaf(**changes).chain, BUNDLES, NOW)) == proven


@pytest.mark.parametrize(
    ("rule", "changes"),
    [
        pytest.param("X5-01", {"uris": [], "dns": ["a.test"]}, id="X5-01 no URI SAN"),
        pytest.param("X5-01", {"uris": []}, id="X5-01 no SAN"),
        pytest.param("X5-02", {"uris": ["spiffe://example.org/a", "spiffe://example.org/b"]}, id="X5-02"),
        pytest.param("X5-02", {"uris": ["spiffe://example.org/a", "https://a.test/"]}, id="X5-02 and https"),
        pytest.param("X5-34", {"uris": ["https://example.org/web"]}, id="X5-34"),
        pytest.param("X5-34", {"uris": ["SPIFFE://example.org/web"]}, id="X5-34 uppercase"),
        pytest.param("X5-34", {"uris": ["spiffe://EXAMPLE.org/web"]}, id="X5-34 ID-08"),
        pytest.param("X5-34", {"uris": ["spiffe://example.org/a/../b"]}, id="X5-34 ID-15"),
        pytest.param("X5-34", {"uris": ["spiffe://example.org/a?b"]}, id="X5-34 ID-03"),
        pytest.param("X5-34", {"uris": ["spiffe://example.org/a\n"]}, id="X5-34 ID-17"),
        pytest.param("X5-35", {"uris": ["spiffe://example.org"]}, id="X5-35"),
        pytest.param("X5-34", {"uris": ["spiffe://example.org/"]}, id="X5-35 ID-16 slash (D-02)"),
        pytest.param("X5-31", {"is_ca": True, "key_usage": pki.CA_USAGE}, id="X5-12 X5-31"),
        pytest.param("X5-31", {"is_ca": True}, id="X5-31 cA only"),
        pytest.param("X5-31", {"is_ca": None}, id="X5-15 X5-31 no BasicConstraints"),
        pytest.param("X5-18", {"key_usage": None}, id="X5-18"),
        pytest.param("X5-19", {"key_usage_critical": False}, id="X5-19"),
        pytest.param("X5-22", {"key_usage": {"key_encipherment"}}, id="X5-22"),
        pytest.param("X5-32", {"key_usage": {"digital_signature", "key_cert_sign"}}, id="X5-24 X5-32"),
        pytest.param("X5-33", {"key_usage": {"digital_signature", "crl_sign"}}, id="X5-25 X5-33"),
        pytest.param("X5-28", {"eku": [ExtendedKeyUsageOID.SERVER_AUTH]}, id="X5-28 server only"),
        pytest.param("X5-28", {"eku": [ExtendedKeyUsageOID.CLIENT_AUTH]}, id="X5-28 client only"),
        pytest.param("X5-28", {"eku": [ExtendedKeyUsageOID.CODE_SIGNING]}, id="X5-28 neither"),
        pytest.param("X5-06", {"san_critical": False}, id="X5-06"),
        pytest.param("X5-30", PAST, id="X5-30 expired"),
        pytest.param("X5-30", FUTURE, id="X5-30 not yet valid"),
        pytest.param("X5-30", {"signing_key": pki.new_key()}, id="X5-30 forged signature"),
        pytest.param("X5-30", {"issuer_name": "nobody"}, id="X5-30 name chaining"),
        pytest.param("X5-30", {"extensions": UNKNOWN}, id="X5-30 unknown critical extension"),
        pytest.param("X5-30", {"key_type": "rsa1024"}, id="X5-30 short RSA key"),
        pytest.param("X5-30", {"key_type": "k256"}, id="X5-30 curve outside the profile"),
        pytest.param("X5-30", {"algorithm": hashes.SHA224()}, id="X5-30 weak hash"),
    ],
)
def test_an_illegal_leaf_is_refused_with_the_row_it_breaks(rule: str, changes: dict[str, Any]):
    with pytest.raises(VerificationFailed) as refusal:
        verify(ISSUER.leaf(**changes).chain, BUNDLES, NOW)
    assert refusal.value.rule == rule


def tower(height: int, **top: Any) -> CA:
    """An authority with `height` intermediates above it, the highest made with `top`."""
    authority = ROOT.intermediate(**top)
    for level in range(1, height):
        authority = authority.intermediate(subject=f"intermediate {level}")
    return authority


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: ROOT.leaf().chain, id="no intermediate"),
        pytest.param(lambda: tower(9).leaf().chain, id="X5-11 nine intermediates"),
        pytest.param(lambda: (*ISSUER.leaf().chain, ROOT.certificate), id="the root comes along"),
        pytest.param(
            lambda: (*ISSUER.leaf().chain, FOREIGN.certificate), id="what is above an anchor is not looked at"
        ),
        pytest.param(lambda: ROOT.intermediate(path_length=0).leaf().chain, id="X5-13 just long enough"),
        pytest.param(lambda: ROOT.intermediate(path_length=0, subject="root").leaf().chain, id="X5-13 self-issued"),
        pytest.param(lambda: ROOT.intermediate(key_usage={"key_cert_sign"}).leaf().chain, id="X5-21 no cRLSign"),
        pytest.param(lambda: ROOT.intermediate(spiffe_id=None).leaf().chain, id="X5-08 no URI SAN (D-03)"),
        pytest.param(
            lambda: ROOT.intermediate(key_usage={"key_cert_sign", "digital_signature"}).leaf().chain,
            id="X5-45 digitalSignature on an upstream CA (D-04)",
        ),
        pytest.param(lambda: ROOT.intermediate(eku=pki.SERVER_AND_CLIENT).leaf().chain, id="X5-29 EKU for both ends"),
        pytest.param(lambda: ROOT.intermediate(key_type="p384").leaf().chain, id="P-384"),
        pytest.param(lambda: ROOT.intermediate(key_type="ed25519").leaf().chain, id="Ed25519"),
        pytest.param(lambda: ROOT.intermediate(key_type="rsa2048").leaf().chain, id="RSA"),
        pytest.param(lambda: ROOT.intermediate(**constrained(uri("example.org"))).leaf().chain, id="X5-17 host"),
        pytest.param(lambda: ROOT.intermediate(**constrained(uri(".org"))).leaf().chain, id="X5-17 subdomain"),
        pytest.param(
            lambda: ROOT.intermediate(**constrained(uri("other.org"), excluded=True)).leaf().chain, id="X5-17 excluded"
        ),
        pytest.param(
            lambda: ROOT.intermediate(**constrained(x509.DNSName("a.test"))).leaf().chain, id="X5-17 no such name below"
        ),
    ],
)
def test_a_legal_path_leads_to_an_authority(make: Callable[[], Chain]):
    assert verify(make(), BUNDLES, NOW) == WEB


@pytest.mark.parametrize(
    ("rule", "make"),
    [
        pytest.param("X5-30", lambda: (), id="X5-30 nothing"),
        pytest.param("X5-30", lambda: tower(16).leaf().chain, id="X5-30 too long"),
        pytest.param("X5-35", lambda: (ISSUER.certificate,), id="X5-05 X5-12 X5-35 a signing certificate as peer"),
        pytest.param("X5-35", lambda: ISSUER.leaf().chain[::-1], id="X5-05 leaf last"),
        pytest.param("X5-30", lambda: ISSUER.leaf().chain[:1], id="X5-30 the intermediate is missing"),
        pytest.param("X5-30", lambda: CA.create("example.org").leaf().chain, id="X5-30 same name, another key"),
        pytest.param(
            "X5-30", lambda: (*ROOT.intermediate(signing_key=pki.new_key()).leaf().chain,), id="X5-30 forged CA"
        ),
        pytest.param("X5-30", lambda: ROOT.intermediate(**PAST).leaf().chain, id="X5-30 expired CA"),
        pytest.param("X5-30", lambda: ROOT.intermediate(**FUTURE).leaf().chain, id="X5-30 CA not yet valid"),
        pytest.param("X5-30", lambda: ROOT.intermediate(extensions=UNKNOWN).leaf().chain, id="X5-30 unknown on CA"),
        pytest.param("X5-30", lambda: ROOT.intermediate(subject="").leaf().chain, id="X5-30 a CA without a name"),
        pytest.param("X5-14", lambda: ROOT.intermediate(is_ca=False).leaf().chain, id="X5-07 X5-14"),
        pytest.param("X5-14", lambda: ROOT.intermediate(is_ca=None).leaf().chain, id="X5-14 no BasicConstraints"),
        pytest.param("X5-18", lambda: ROOT.intermediate(key_usage=None).leaf().chain, id="X5-18 on a CA"),
        pytest.param("X5-19", lambda: ROOT.intermediate(key_usage_critical=False).leaf().chain, id="X5-19 on a CA"),
        pytest.param("X5-20", lambda: ROOT.intermediate(key_usage={"crl_sign"}).leaf().chain, id="X5-07 X5-20"),
        pytest.param(
            "X5-28",
            lambda: ROOT.intermediate(eku=[ExtendedKeyUsageOID.CODE_SIGNING]).leaf().chain,
            id="X5-29 other EKU",
        ),
        pytest.param("X5-13", lambda: tower(2, path_length=0).leaf().chain, id="X5-13 sub-CA below 0"),
        pytest.param("X5-13", lambda: tower(3, path_length=1).leaf().chain, id="X5-13 two below 1"),
        pytest.param(
            "X5-16", lambda: ROOT.intermediate(**constrained(uri("other.org"))).leaf().chain, id="X5-16 not permitted"
        ),
        pytest.param(
            "X5-16", lambda: ROOT.intermediate(**constrained(uri(".example.org"))).leaf().chain, id="X5-16 only below"
        ),
        pytest.param(
            "X5-16",
            lambda: ROOT.intermediate(**constrained(uri("example.org"), excluded=True)).leaf().chain,
            id="X5-16 excluded",
        ),
        pytest.param(
            "X5-16", lambda: tower(3, **constrained(uri("other.org"))).leaf().chain, id="X5-16 from further above"
        ),
        pytest.param(
            "X5-16",
            lambda: ROOT.intermediate(**constrained(x509.DNSName("a.test"))).leaf(dns=["b.test"]).chain,
            id="X5-16 DNS is not supported",
        ),
        pytest.param(
            "X5-16",
            lambda: ROOT.intermediate(**constrained(x509.DirectoryName(x509.Name([])))).leaf(subject="web").chain,
            id="X5-16 directory name is not supported",
        ),
        pytest.param(
            "X5-16",
            lambda: ROOT.intermediate(**constrained(uri("example.org"))).intermediate(spiffe_id="urn:x").leaf().chain,
            id="X5-16 a CA below with another URI",
        ),
    ],
)
def test_an_illegal_path_is_refused_with_the_row_it_breaks(rule: str, make: Callable[[], Chain]):
    with pytest.raises(VerificationFailed) as refusal:
        verify(make(), BUNDLES, NOW)
    assert refusal.value.rule == rule


def test_a_workload_cannot_issue_for_another_one():
    """X5-05, X5-14: its own certificate is no signing certificate, whatever it signs."""
    leaf = ISSUER.leaf(subject="web")
    workload = CA(trust_domain="example.org", certificate=leaf.certificate, key=leaf.key, intermediates=leaf.chain)

    with pytest.raises(VerificationFailed, match="X5-14: signing certificate has cA false"):
        verify(workload.leaf(uris=["spiffe://example.org/admin"]).chain, BUNDLES, NOW)


def test_a_trust_domain_cannot_speak_for_another():
    """TB-01, ID-25: the bundle is that of the ID, not the one that happens to fit."""
    forged = FOREIGN.leaf(uris=["spiffe://example.org/web"])

    with pytest.raises(VerificationFailed, match=r"leads to no authority of example\.org"):
        verify(forged.chain, BUNDLES, NOW)
    assert verify(FOREIGN.leaf().chain, BUNDLES, NOW).trust_domain == TrustDomain("other.org")


@pytest.mark.parametrize(
    ("rule", "bundles"),
    [
        pytest.param("TB-01", BundleSet(), id="TB-01 no bundle at all"),
        pytest.param("TB-01", BUNDLES.without(OURS), id="TB-01 only others"),
        pytest.param("TB-14", BUNDLES.with_bundle(bundle()), id="TB-13 TB-14 X5-44 no authorities"),
    ],
)
def test_without_authorities_of_its_trust_domain_nobody_is_trusted(rule: str, bundles: BundleSet):
    with pytest.raises(VerificationFailed) as refusal:
        verify(ISSUER.leaf().chain, bundles, NOW)
    assert refusal.value.rule == rule


@pytest.mark.parametrize(
    "authorities",
    [
        pytest.param([ROOT, CA.create("example.org")], id="another root of the same name"),
        pytest.param([CA.create("example.org"), ROOT], id="the same, other order"),
        pytest.param([CA.create("example.org", key=ROOT.key, **PAST), ROOT], id="its expired twin"),
        pytest.param([ISSUER], id="X5-41 an intermediate as the only anchor"),
    ],
)
def test_any_authority_of_the_bundle_is_an_anchor(authorities: list[CA]):
    assert verify(ISSUER.leaf().chain, BundleSet([bundle(*authorities)]), NOW) == WEB


def test_an_expired_authority_is_no_anchor():
    expired = CA.create("example.org", **PAST)

    with pytest.raises(VerificationFailed, match="X5-30: certificate is not valid after 2025"):
        verify(expired.leaf().chain, BundleSet([bundle(expired)]), NOW)


def test_the_signature_covers_the_id_and_the_key():
    """ID-27, ID-28: swap either for another of the same length, and nothing is proven."""
    leaf, issuer = ISSUER.leaf().chain
    point = leaf.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    other = pki.new_key().public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    for signed, changed in [(b"example.org/web", b"example.org/adm"), (point, other)]:
        forged = x509.load_der_x509_certificate(pki.der(leaf).replace(signed, changed))
        with pytest.raises(VerificationFailed, match="signature is not by CN=intermediate"):
            verify((forged, issuer), BUNDLES, NOW)


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_a_certificate_without_a_positive_serial_number_is_refused():
    leaf = pki.der(ISSUER.leaf(serial=0x11223344).certificate)
    negative = x509.load_der_x509_certificate(leaf.replace(b"\x11\x22\x33\x44", b"\x91\x22\x33\x44"))

    with pytest.raises(VerificationFailed, match="X5-30: certificate cannot be used: serial number is -"):
        verify((negative, ISSUER.certificate), BUNDLES, NOW)
