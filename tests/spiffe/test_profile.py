import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from spiffe import LEAF, SIGNING, Profile, SpiffeID
from spiffe.profile import basic_constraints, extended_key_usage, key_usage, subject_alternative_name
from tests.support.pki import usage


@pytest.mark.parametrize(
    ("profile", "ca", "bits", "eku", "san_critical"),
    [
        pytest.param(LEAF, False, ["digital_signature"], ["SERVER_AUTH", "CLIENT_AUTH"], True, id="X5-15,22,26,28,06"),
        pytest.param(SIGNING, True, ["key_cert_sign"], None, False, id="X5-14,20,29,45"),
    ],
)
def test_the_table_makes_the_extensions_of_the_standard(
    profile: Profile, ca: bool, bits: list[str], eku: list[str] | None, san_critical: bool
):
    expected = x509.ExtendedKeyUsage([getattr(ExtendedKeyUsageOID, name) for name in eku]) if eku else None

    assert basic_constraints(profile) == x509.BasicConstraints(ca=ca, path_length=None)
    assert key_usage(profile) == usage(*bits)
    assert extended_key_usage(profile) == expected
    assert profile.key_usage_critical  # X5-19
    assert not profile.extended_key_usage_critical  # X5-27
    assert profile.san_critical is san_critical


def test_a_path_length_is_for_signing_certificates():
    assert basic_constraints(SIGNING, path_length=0) == x509.BasicConstraints(ca=True, path_length=0)  # X5-13


def test_allowed_bits_can_be_asked_for_and_others_cannot():
    assert key_usage(LEAF, "key_encipherment") == usage("digital_signature", "key_encipherment")  # X5-23
    assert key_usage(SIGNING, "crl_sign") == usage("key_cert_sign", "crl_sign")  # X5-21
    for profile, bit in [(LEAF, "crl_sign"), (LEAF, "key_cert_sign"), (SIGNING, "digital_signature")]:
        with pytest.raises(ValueError, match=bit):
            key_usage(profile, bit)


def test_the_san_has_one_uri_and_dns_names_behind_it():
    san = subject_alternative_name(SpiffeID.parse("spiffe://td/web"), ["a.test", "b.test"])

    assert san.get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://td/web"]  # X5-01
    assert san.get_values_for_type(x509.DNSName) == ["a.test", "b.test"]  # X5-03
