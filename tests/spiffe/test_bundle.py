from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from spiffe import Bundle, BundleSet, InvalidBundle, TrustDomain
from spiffe.bundle import MAX_AUTHORITIES
from tests.support import pki
from tests.support.pki import CA

OURS, OTHERS = TrustDomain("example.org"), TrustDomain("other.org")
ROOT, NEXT = CA.create(subject="root 1"), CA.create(subject="root 2")


def bundle(*authorities: CA, trust_domain: TrustDomain = OURS, **more: Any) -> Bundle:
    certificates = tuple(authority.certificate for authority in authorities)
    return Bundle(trust_domain=trust_domain, x509_authorities=certificates, **more)


def test_a_bundle_goes_through_pem_and_der_in_order():
    both = bundle(NEXT, ROOT)

    assert both.to_pem() == pki.pem(NEXT.certificate, ROOT.certificate)
    assert both.to_der() == pki.der(NEXT.certificate, ROOT.certificate)
    assert Bundle.from_pem(OURS, both.to_pem()) == both
    assert Bundle.from_der(OURS, both.to_der()) == both


def test_encodings_and_digest_are_made_once():
    both = bundle(ROOT, NEXT)

    assert both.to_pem() is both.to_pem()
    assert both.to_der() is both.to_der()
    assert both.digest is both.digest


def test_the_digest_stands_for_the_content_alone():
    digest = bundle(ROOT, NEXT).digest

    assert bundle(NEXT, ROOT).digest == digest
    assert bundle(ROOT, NEXT, sequence=7, refresh_hint=timedelta(minutes=5)).digest == digest
    others = [bundle(), bundle(ROOT), bundle(ROOT, NEXT, trust_domain=OTHERS), bundle(trust_domain=OTHERS)]
    assert len({digest, *(other.digest for other in others)}) == 5


def test_a_document_may_repeat_an_authority_and_a_bundle_may_not():
    assert Bundle.from_pem(OURS, ROOT.pem * 2) == bundle(ROOT)
    with pytest.raises(InvalidBundle, match=r"bundle of example\.org has an authority twice"):
        bundle(ROOT, ROOT)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        pytest.param(lambda: Bundle.from_pem(OURS, b""), "no certificate", id="PEM empty"),
        pytest.param(lambda: Bundle.from_der(OURS, b""), "no certificate", id="D-16 DER empty"),
        pytest.param(lambda: Bundle.from_der(OURS, ROOT.pem), "SEQUENCE", id="WA-21 DER is PEM"),
        pytest.param(lambda: Bundle.from_pem(OURS, ROOT.leaf().chain_pem), "X5-14", id="X5-07 X5-14 a leaf"),
        pytest.param(lambda: bundle(CA.create(key_usage={"crl_sign"})), "X5-20", id="X5-20 without keyCertSign"),
        pytest.param(lambda: bundle(CA.create(key_usage=None)), "X5-18", id="X5-18 without KeyUsage"),
        pytest.param(lambda: bundle(CA.create(subject="")), "empty Subject", id="X5-30 without a name"),
        pytest.param(lambda: bundle(CA.create(key_type="rsa1024")), "X5-30", id="X5-30 a weak key"),
        pytest.param(lambda: bundle(ROOT, sequence=-1), "TB-07", id="TB-05 sequence below 0"),
        pytest.param(lambda: bundle(ROOT, sequence=2**64), "TB-07", id="TB-07 sequence over 64 bits"),
        pytest.param(lambda: bundle(refresh_hint=timedelta(seconds=1.5)), "TB-09", id="TB-09 half a second"),
        pytest.param(lambda: bundle(refresh_hint=timedelta(seconds=-1)), "TB-09", id="TB-09 in the past"),
        pytest.param(lambda: bundle(refresh_hint=timedelta(days=400)), "TB-09", id="TB-09 beyond a year"),
        pytest.param(lambda: bundle(*[ROOT] * (MAX_AUTHORITIES + 1)), "more than 64", id="too many"),
    ],
)
def test_what_cannot_be_trusted_makes_no_bundle(make: Callable[[], Bundle], reason: str):
    with pytest.raises(InvalidBundle, match=reason):
        make()


@pytest.mark.parametrize(
    "authority",
    [
        pytest.param(CA.create(spiffe_id=None), id="X5-08 D-03 no URI SAN"),
        pytest.param(CA.create(key_usage={"key_cert_sign", "digital_signature"}), id="X5-45 D-04 digitalSignature"),
        pytest.param(ROOT.intermediate(), id="X5-41 not self-signed"),
    ],
)
def test_what_issuers_should_not_do_is_tolerated_in_a_bundle(authority: CA):
    assert bundle(authority).x509_authorities == (authority.certificate,)


def test_a_bundle_without_authorities_is_legal():
    """TB-13."""
    assert bundle().to_pem() == bundle().to_der() == b""


def test_a_set_keeps_bundles_apart_in_the_order_of_their_names():
    ours, others = bundle(ROOT), bundle(NEXT, trust_domain=OTHERS)
    both = BundleSet([others, ours])

    assert list(both) == [OURS, OTHERS]
    assert list(both.values()) == [ours, others]
    assert (both.get(OURS), both[OTHERS], both.get(TrustDomain("none"))) == (ours, others, None)
    assert both == BundleSet([ours, others])
    assert hash(both) == hash(BundleSet([ours, others]))
    assert "other.org" in repr(both)


def test_a_set_is_changed_by_making_another():
    before = BundleSet([bundle(ROOT)])
    after = before.with_bundle(bundle(ROOT, NEXT)).with_bundle(bundle(NEXT, trust_domain=OTHERS))

    assert before[OURS] == bundle(ROOT)
    assert after[OURS] == bundle(ROOT, NEXT)
    assert len(after) == 2
    assert after.without(OURS).without(OTHERS) == BundleSet()
    assert before.without(OTHERS) == before


def test_two_bundles_of_one_trust_domain_are_never_merged():
    """TB-01, TB-22."""
    with pytest.raises(InvalidBundle, match="never merged"):
        BundleSet([bundle(ROOT), bundle(NEXT)])
