from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from meshca.router.identity import Credentials, identify
from sds.errors import NotAuthorized
from sds.provider import Identity
from sds.workload_client import X509Context
from spiffe.bundle import Bundle, BundleSet
from spiffe.id import SpiffeID, TrustDomain
from spiffe.x509svid import X509SVID
from tests.support.pki import CA, NOT_AFTER, NOW, Issued

OURS = TrustDomain("mesh.local")
ROOT = CA.create("mesh.local")
SIGNER = ROOT.intermediate()
BUNDLES = BundleSet([Bundle(trust_domain=OURS, x509_authorities=(ROOT.certificate,))])


def context(path: str, bundles: BundleSet = BUNDLES) -> X509Context:
    leaf = SIGNER.leaf(uris=[f"spiffe://mesh.local{path}"])
    return X509Context(identities=(Identity(svid=X509SVID.from_pem(leaf.chain_pem, leaf.key_pem)),), bundles=bundles)


def evidence(issued: Issued) -> dict[str, list[bytes]]:
    leaf, *others = (each.public_bytes(Encoding.PEM) for each in issued.chain)
    return {"x509_pem_cert": [leaf], "x509_pem_cert_chain": [b"".join(others)] if others else []}


def credentials() -> Credentials:
    made = Credentials.of(context("/meshca/router"))
    assert made is not None
    return made


def test_the_router_is_who_the_workload_api_says_that_it_is():
    assert credentials().own == OURS
    assert "PRIVATE" not in repr(credentials())


@pytest.mark.parametrize(
    "given",
    [X509Context(denied="no entry"), context("/web"), context("/meshca/router", BundleSet())],
    ids=["denied", "another", "no bundle"],
)
def test_without_a_routers_identity_and_its_bundle_there_are_no_credentials(given: X509Context):
    assert Credentials.of(given) is None


def test_a_client_is_who_its_chain_proves():
    web = SIGNER.leaf(uris=["spiffe://mesh.local/web"])
    peer = identify(evidence(web), credentials(), NOW)
    assert peer.spiffe_id == SpiffeID(OURS, "/web")
    assert peer.not_after == web.certificate.not_valid_after_utc


PARTNER = CA.create("partner.example")


@pytest.mark.parametrize(
    ("shown", "later", "why"),
    [
        (evidence(SIGNER.leaf(uris=["spiffe://mesh.local/web"])), NOT_AFTER - NOW + timedelta(seconds=1), "X5-30"),
        (evidence(PARTNER.leaf(uris=["spiffe://mesh.local/web"])), timedelta(), "leads to no authority"),
        (evidence(PARTNER.leaf(uris=["spiffe://partner.example/web"])), timedelta(), "no bundle of the trust domain"),
        (evidence(SIGNER.leaf(uris=["spiffe://mesh.local/a", "spiffe://mesh.local/b"])), timedelta(), "X5-02"),
        ({}, timedelta(), "x509_pem_cert"),
        ({"x509_pem_cert": [b"junk"]}, timedelta(), "PEM"),
    ],
    ids=["expired", "another CA as us", "a partner", "two names", "nothing", "junk"],
)
def test_a_client_that_proves_no_identity_of_ours_is_refused(shown: dict[str, Any], later: timedelta, why: str):
    with pytest.raises(NotAuthorized, match=why):
        identify(shown, credentials(), NOW + later)
