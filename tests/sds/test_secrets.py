from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from envoy.extensions.transport_sockets.tls.v3.tls_spiffe_validator_config_pb2 import SPIFFECertValidatorConfig
from google.protobuf.any_pb2 import Any as AnyMessage

from sds.errors import UnusableSecret
from sds.provider import Grants, Proof
from sds.secrets import Flavor, flavor_of, render, select
from sds.xds.resource import Node, Resource
from spiffe.bundle import Bundle, BundleSet
from spiffe.id import TrustDomain
from tests.support.grants import TRUST_DOMAIN, bundle_of, identity
from tests.support.pki import CA, NOW

OURS, PARTNER = CA.create("example.org"), CA.create("partner.test")
ISSUER = OURS.intermediate()
WEB, DB = identity(ISSUER, "/web"), identity(ISSUER, "/db")


def grants(**changes: Any) -> Grants:
    bundles = BundleSet([bundle_of(OURS), bundle_of(PARTNER)])
    return Grants(**{"trust_domain": TRUST_DOMAIN, "identities": (WEB, DB), "bundles": bundles, **changes})


def resource(name: str, given: Grants | None = None, flavor: Flavor = Flavor.SPIFFE) -> Resource | None:
    selection = select(given or grants(), name, flavor=flavor, now=NOW)
    return None if selection is None else render(selection)


def secret(found: Resource | None) -> Secret:
    assert found is not None
    message = Secret()
    assert AnyMessage.FromString(found.body).Unpack(message)
    assert message.name == found.name
    return message


def trusted(found: Resource | None) -> dict[str, bytes]:
    """Trust domain -> PEM, as Envoy's SPIFFE validator will read it."""
    extension = secret(found).validation_context.custom_validator_config
    assert extension.name == "envoy.tls.cert_validator.spiffe"
    config = SPIFFECertValidatorConfig()
    assert extension.typed_config.Unpack(config)
    return {domain.name: domain.trust_bundle.inline_bytes for domain in config.trust_domains}


@pytest.mark.parametrize(
    ("name", "granted"),
    [("default", WEB), ("spiffe://example.org/web", WEB), ("spiffe://example.org/db", DB)],
)
def test_a_certificate_is_sent_leaf_first_with_its_key_and_proven_by_its_serial(name: str, granted: Any):
    found = resource(name)
    certificate = secret(found).tls_certificate
    chain = x509.load_pem_x509_certificates(certificate.certificate_chain.inline_bytes)
    assert tuple(chain) == granted.svid.chain
    assert certificate.private_key.inline_bytes == granted.svid.key_pem()
    assert found.proof == Proof(serials=frozenset({granted.svid.serial}))
    assert b"PRIVATE KEY" not in repr(found).encode()


@pytest.mark.parametrize(
    ("name", "domains", "proven"),
    [
        ("ROOTCA", {"example.org": OURS.pem}, bundle_of(OURS).digest),
        ("spiffe://example.org", {"example.org": OURS.pem}, bundle_of(OURS).digest),
        ("spiffe://partner.test", {"partner.test": PARTNER.pem}, ""),
        ("ALL", {"example.org": OURS.pem, "partner.test": PARTNER.pem}, bundle_of(OURS).digest),
    ],
    ids=["ROOTCA", "ours by name", "a partner", "ALL"],
)
def test_a_bundle_is_sent_per_trust_domain_and_proven_by_our_digest(name: str, domains: dict, proven: str):
    found = resource(name)
    assert trusted(found) == domains
    assert found.proof == Proof(bundle=proven)


@pytest.mark.parametrize(
    "name",
    [
        "Default",
        "rootca",
        "all",
        "",
        "*",
        "spiffe://example.org/other",
        "spiffe://example.org/web/",
        "spiffe://example.org/",
        "spiffe://other.test",
        "spiffe://EXAMPLE.org/web",
        "example.org",
        " default",
    ],
)
def test_any_other_name_is_met_with_silence(name: str):
    assert resource(name) is None


@pytest.mark.parametrize("name", ["default", "ROOTCA", "ALL", "spiffe://example.org/web", "spiffe://example.org"])
def test_who_is_denied_or_still_pending_gets_silence(name: str):
    assert resource(name, grants(denied="no entry")) is None
    assert resource(name, grants(pending=True)) is None
    assert resource(name, grants(identities=(), bundles=BundleSet())) is None


@pytest.mark.parametrize("name", ["ROOTCA", "ALL", "spiffe://example.org", "spiffe://partner.test"])
def test_who_is_cut_off_is_told_to_trust_nobody_and_gets_no_certificate(name: str):
    cut_off = grants(cut_off=True, denied="entry deleted")
    assert trusted(resource(name, cut_off)) == {}
    plain = secret(resource(name, cut_off, Flavor.PLAIN)).validation_context
    assert list(plain.verify_certificate_hash) == ["00" * 32]
    assert not plain.HasField("trusted_ca")
    assert resource(name, cut_off).proof == Proof()
    assert resource("default", cut_off) is resource("spiffe://example.org/web", cut_off) is None


def test_a_client_without_the_validator_gets_one_trust_domain_as_a_plain_list_and_never_all():
    for name, expected in (("ROOTCA", OURS.pem), ("spiffe://partner.test", PARTNER.pem)):
        context = secret(resource(name, flavor=Flavor.PLAIN)).validation_context
        assert context.trusted_ca.inline_bytes == expected
        assert not context.HasField("custom_validator_config")
    with pytest.raises(UnusableSecret, match="pool trust domains"):
        resource("ALL", flavor=Flavor.PLAIN)


@pytest.mark.parametrize(
    ("node", "flavor"),
    [
        (Node(), Flavor.SPIFFE),
        (Node(user_agent="envoy", version=(1, 40, 0)), Flavor.SPIFFE),
        (Node(user_agent="envoy", version=(1, 18, 0)), Flavor.SPIFFE),
        (Node(user_agent="envoy", version=(1, 17, 4)), Flavor.PLAIN),
        (Node(user_agent="gRPC", version=(1, 2, 0)), Flavor.SPIFFE),
        (Node(flags=frozenset({"disable_spiffe_cert_validation"})), Flavor.PLAIN),
    ],
)
def test_the_flavor_follows_from_what_the_node_says(node: Node, flavor: Flavor):
    assert flavor_of(node) is flavor


def test_an_expired_chain_is_not_sent_whichever_of_its_certificates_it_is():
    short = OURS.intermediate(not_after=NOW)
    for expired in (identity(ISSUER, "/web", not_after=NOW), identity(short, "/web")):
        with pytest.raises(UnusableSecret, match=r"spiffe://example.org/web ended at 2026-01-01T00:00:00Z"):
            resource("default", grants(identities=(expired,)))
    alive = identity(ISSUER, "/web", not_after=NOW + timedelta(seconds=1))
    assert resource("default", grants(identities=(alive,)))


def test_only_self_signed_roots_are_sent_and_a_bundle_without_any_is_not():
    mixed = Bundle(trust_domain=TRUST_DOMAIN, x509_authorities=(ISSUER.certificate, OURS.certificate))
    assert trusted(resource("ROOTCA", grants(bundles=BundleSet([mixed])))) == {"example.org": OURS.pem}
    rootless = Bundle(trust_domain=TrustDomain("partner.test"), x509_authorities=(PARTNER.intermediate().certificate,))
    with pytest.raises(UnusableSecret, match=r"partner\.test has no self-signed root"):
        resource("spiffe://partner.test", grants(bundles=BundleSet([bundle_of(OURS), rootless])))
    with pytest.raises(UnusableSecret, match=r"example\.org has no self-signed root"):
        resource("ALL", grants(bundles=BundleSet([Bundle(trust_domain=TRUST_DOMAIN, x509_authorities=())])))


def test_all_leaves_out_a_trust_domain_that_would_spoil_the_rest():
    empty = Bundle(trust_domain=TrustDomain("empty.test"), x509_authorities=())
    rootless = Bundle(trust_domain=TrustDomain("partner.test"), x509_authorities=(PARTNER.intermediate().certificate,))
    assert trusted(resource("ALL", grants(bundles=BundleSet([bundle_of(OURS), empty, rootless])))) == {
        "example.org": OURS.pem
    }
    assert resource("ALL", grants(bundles=BundleSet([bundle_of(PARTNER)]))) is None


def test_versions_follow_content_and_equal_bundles_are_rendered_once():
    again = BundleSet([Bundle(trust_domain=TRUST_DOMAIN, x509_authorities=(OURS.certificate,), sequence=7)])
    first, second = resource("ROOTCA"), resource("ROOTCA", grants(bundles=again))
    assert first is second
    widened = resource("ROOTCA", grants(bundles=BundleSet([bundle_of(OURS, CA.create("example.org"))])))
    assert widened.version != first.version
    assert resource("default").version == resource("default").version != resource("spiffe://example.org/db").version
