from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from hashlib import sha256

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from meshca.authority.draft import Draft, draft_intermediate, draft_leaf, draft_root, draft_self_test, hash_of
from meshca.authority.issue import new_serial
from meshca.errors import IssuanceRefused
from meshca.model import Kind, Slot
from spiffe.id import MAX_ID_BYTES, SpiffeID, TrustDomain
from tests.support.clock import START
from tests.support.pki import CA
from tests.support.values import HOUR, OURS, entry, slot

KEY = ec.generate_private_key(ec.SECP256R1()).public_key()
SECOND = timedelta(seconds=1)


def issuer(not_before: datetime = START - HOUR, not_after: datetime = START + 24 * HOUR) -> Slot:
    made = CA.create().intermediate(not_before=not_before, not_after=not_after)
    return slot(made.certificate, kind=Kind.INTERMEDIATE, issuer_id="ab" * 20)


ISSUER = issuer()


def leaf(below: Slot = ISSUER, now: datetime = START, ttl: timedelta = HOUR, shorten: float = 0.0) -> Draft:
    return draft_leaf(entry("web"), below, KEY, serial=7, now=now, ttl=ttl, shorten=shorten)


def extensions(draft: Draft) -> dict[type, tuple[x509.ExtensionType, bool]]:
    return {type(each.value): (each.value, each.critical) for each in draft.extensions}


def test_the_routers_leaf_has_the_names_that_are_reserved_for_it_and_no_other_leaf_has():
    router = replace(entry("web"), spiffe_id=SpiffeID(OURS, "/meshca/router"))
    draft = draft_leaf(router, ISSUER, KEY, serial=7, now=START, ttl=HOUR, shorten=0.0)
    names = extensions(draft)[x509.SubjectAlternativeName][0]
    assert isinstance(names, x509.SubjectAlternativeName)
    assert names.get_values_for_type(x509.DNSName) == [
        "router.example.org.meshca.internal",
        "router.example.org.meshca.localhost",
    ]
    assert entry("web").certified_names == ()


def test_a_leaf_says_what_its_entry_grants_and_nothing_of_its_own():
    granted = entry("web", dns_names=("web.example.org", "www.example.org"))
    draft = draft_leaf(granted, ISSUER, KEY, serial=7, now=START, ttl=HOUR, shorten=0.0)
    names = x509.SubjectAlternativeName(
        [
            x509.UniformResourceIdentifier("spiffe://example.org/web"),
            x509.DNSName("web.example.org"),
            x509.DNSName("www.example.org"),
        ]
    )
    assert (draft.serial, draft.subject, draft.issuer) == (7, x509.Name([]), ISSUER.certificate.subject)
    assert (draft.public_key, draft.spiffe_id) == (KEY, granted.spiffe_id)
    assert (draft.not_before, draft.not_after) == (START - 10 * SECOND, START + HOUR)
    said = extensions(draft)
    assert said[x509.BasicConstraints] == (x509.BasicConstraints(ca=False, path_length=None), True)
    assert said[x509.ExtendedKeyUsage] == (
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
        False,
    )
    assert said[x509.SubjectAlternativeName] == (names, True)
    key = sha256(KEY.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
    assert said[x509.SubjectKeyIdentifier] == (x509.SubjectKeyIdentifier(key), False)
    assert draft.key_hash == hash_of(KEY) == key
    assert said[x509.AuthorityKeyIdentifier] == (
        x509.AuthorityKeyIdentifier(bytes.fromhex(ISSUER.id), None, None),
        False,
    )
    assert len(said) == len(draft.extensions) == 6


@pytest.mark.parametrize(
    ("below", "now", "ttl", "shorten", "not_before", "lasts"),
    [
        (issuer(), START, HOUR, 0.0, -10 * SECOND, HOUR),
        (issuer(), START, HOUR, 0.1, -10 * SECOND, HOUR * 0.9),
        (issuer(), START, 11 * SECOND, 0.1, -10 * SECOND, 10 * SECOND),
        (issuer(), START, 10 * SECOND, 0.1, -10 * SECOND, 10 * SECOND),
        (issuer(not_before=START - 3 * SECOND), START, HOUR, 0.0, -3 * SECOND, HOUR),
        (issuer(not_after=START + 20 * SECOND), START, HOUR, 0.0, -10 * SECOND, 20 * SECOND),
        (issuer(not_after=START + 10 * SECOND), START, HOUR, 0.0, -10 * SECOND, 10 * SECOND),
        (issuer(), START + SECOND / 2, HOUR, 0.0, -10 * SECOND, HOUR + SECOND),
        (issuer(), START + SECOND / 2, 10 * SECOND, 0.1, -10 * SECOND, 11 * SECOND),
    ],
    ids=[
        "as asked",
        "shortened",
        "shortened, but never below the minimum",
        "the minimum",
        "not before its issuer",
        "not longer than its issuer",
        "the minimum below an issuer that ends",
        "whole seconds, rounded outwards",
        "the minimum counts from now",
    ],
)
def test_the_life_of_a_leaf(
    *, below: Slot, now: datetime, ttl: timedelta, shorten: float, not_before: timedelta, lasts: timedelta
):
    draft = leaf(below, now, ttl, shorten)
    assert (draft.not_before - START, draft.not_after - START) == (not_before, lasts)


@given(
    at=st.integers(-1800, 100_000),
    micro=st.integers(0, 999_999),
    ttl=st.integers(10, 90_000),
    shorten=st.floats(0, 0.1),
)
def test_no_leaf_starts_before_its_issuer_or_ends_after_it_or_lives_less_than_the_minimum(
    at: int, micro: int, ttl: int, shorten: float
):
    now = START + timedelta(seconds=at, microseconds=micro)
    try:
        draft = leaf(ISSUER, now, timedelta(seconds=ttl), shorten)
    except IssuanceRefused:
        assert ISSUER.not_after - now < 10 * SECOND
    else:
        assert ISSUER.certificate.not_valid_before_utc <= draft.not_before <= now
        assert now + 10 * SECOND <= draft.not_after <= ISSUER.not_after
        assert draft.not_after < now + timedelta(seconds=ttl + 1)
        assert draft.not_before.microsecond == draft.not_after.microsecond == 0


@pytest.mark.parametrize(
    ("below", "reason", "text"),
    [
        (issuer(not_after=START + 9 * SECOND), "issuer_expiring", "ends at 2030-01-01T00:00:09Z, too soon for a leaf"),
        (issuer(not_after=START - SECOND), "issuer_expiring", "ends at 2029-12-31T23:59:59Z"),
        (issuer(not_before=START + SECOND), "clock", "it is 2030-01-01T00:00:00Z, before intermediate .* is valid"),
    ],
    ids=["ends too soon", "has ended", "clock set back"],
)
def test_no_leaf_is_made_below_an_issuer_that_does_not_hold_long_enough(below: Slot, reason: str, text: str):
    with pytest.raises(IssuanceRefused, match=text) as refusal:
        leaf(below)
    assert refusal.value.reason == reason


def test_a_root_is_its_own_issuer_and_an_svid_of_the_trust_domain():
    draft = draft_root(OURS, KEY, serial=9, now=START, lifetime=365 * 24 * HOUR)
    said = extensions(draft)
    assert draft.subject == draft.issuer
    assert (draft.not_before, draft.not_after) == (START - 10 * SECOND, START + 365 * 24 * HOUR)
    assert said[x509.BasicConstraints] == (x509.BasicConstraints(ca=True, path_length=None), True)
    assert said[x509.SubjectAlternativeName] == (
        x509.SubjectAlternativeName([x509.UniformResourceIdentifier("spiffe://example.org")]),
        False,
    )
    assert x509.AuthorityKeyIdentifier not in said
    assert x509.ExtendedKeyUsage not in said


@pytest.mark.parametrize(
    ("lifetime", "not_after"), [(HOUR, START + HOUR), (48 * HOUR, START + 24 * HOUR)], ids=["shorter", "longer"]
)
def test_an_intermediate_signs_leaves_only_and_never_outlives_its_root(lifetime: timedelta, not_after: datetime):
    draft = draft_intermediate(ISSUER, OURS, KEY, serial=9, now=START, lifetime=lifetime)
    said = extensions(draft)
    assert draft.issuer == ISSUER.certificate.subject
    assert draft.not_after == not_after
    assert said[x509.BasicConstraints] == (x509.BasicConstraints(ca=True, path_length=0), True)
    assert said[x509.AuthorityKeyIdentifier][0] == x509.AuthorityKeyIdentifier(bytes.fromhex(ISSUER.id), None, None)


def test_an_authority_is_named_after_its_trust_domain_its_kind_and_its_key():
    key_id = x509.SubjectKeyIdentifier.from_public_key(KEY).digest.hex()
    long = TrustDomain("a" * 200)
    root = draft_root(long, KEY, serial=9, now=START, lifetime=HOUR).subject
    below = draft_intermediate(ISSUER, OURS, KEY, serial=9, now=START, lifetime=HOUR).subject
    assert root.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)[0].value == "a" * 64
    assert root.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == f"root {key_id[:16]}"
    assert below.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == f"intermediate {key_id[:16]}"


def test_a_self_test_has_expired_before_it_is_signed():
    draft = draft_self_test(OURS, ISSUER, KEY, serial=1, now=START)
    assert str(draft.spiffe_id) == "spiffe://example.org/meshca/self-test"
    assert draft.not_before < draft.not_after < START


@pytest.mark.parametrize(
    "make",
    [
        lambda: ec.generate_private_key(ec.SECP384R1()),
        lambda: rsa.generate_private_key(65537, 2048),
    ],
    ids=["P-384", "RSA 2048"],
)
def test_the_builder_says_what_the_draft_says(make: Callable[[], ec.EllipticCurvePrivateKey]):
    longest = SpiffeID(OURS, "/" + "a" * (MAX_ID_BYTES - len("spiffe://example.org/")))
    granted = replace(entry("web"), spiffe_id=longest)
    draft = draft_leaf(granted, ISSUER, KEY, serial=new_serial(START), now=START, ttl=HOUR, shorten=0.05)
    signed = draft.builder().sign(make(), hashes.SHA256())
    assert signed.serial_number == draft.serial
    assert tuple(signed.extensions) == draft.extensions


def test_serials_are_positive_never_the_same_and_have_127_bits():
    serials = {new_serial(START) for _ in range(100)}
    assert len(serials) == 100
    assert {serial.bit_length() for serial in serials} == {127}
