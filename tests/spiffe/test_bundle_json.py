import json
from base64 import b64encode, urlsafe_b64encode
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spiffe import Bundle, InvalidBundle, TrustDomain, bundle_json
from spiffe.bundle_json import MAX_DOCUMENT_BYTES, parse, render
from tests.support import pki
from tests.support.pki import CA

OURS = TrustDomain("example.org")
ROOT, NEXT = CA.create(subject="root 1"), CA.create(subject="root 2")
AUTHORITIES = [ROOT, NEXT, *(CA.create(key_type=kind) for kind in ("p384", "p521", "rsa2048", "ed25519"))]
JWT_KEY = {"use": "jwt-svid", "kid": "k1", "kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}
WIT_KEY = {**JWT_KEY, "use": "wit-svid"}

bundles = st.builds(
    Bundle,
    trust_domain=st.just(OURS),
    x509_authorities=st.lists(st.sampled_from([ca.certificate for ca in AUTHORITIES]), unique=True).map(tuple),
    sequence=st.none() | st.integers(0, 2**64 - 1),
    refresh_hint=st.none() | st.integers(0, 366 * 86400).map(lambda seconds: timedelta(seconds=seconds)),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=12,
)


def entry(authority: CA = ROOT, **changes: Any) -> dict[str, Any]:
    """The JWK of an authority as our own writer makes it, with changes; None removes a member."""
    bundle = Bundle(trust_domain=OURS, x509_authorities=(authority.certificate,))
    members = {**json.loads(render(bundle))["keys"][0], **changes}
    return {name: value for name, value in members.items() if value is not None}


def base64(certificate: bytes) -> list[str]:
    return [b64encode(certificate).decode()]


def document(*keys: Any, **members: Any) -> str:
    return json.dumps({"keys": list(keys), **members})


@given(bundles)
def test_every_bundle_goes_through_its_document_unchanged(bundle: Bundle):
    written = render(bundle)

    assert parse(OURS, written) == bundle
    assert render(parse(OURS, written.decode())) == written


def test_a_written_document_has_what_the_standard_wants_and_nothing_else():
    """X5-36 to X5-41, TB-04, TB-08, TB-15 to TB-17."""
    authorities = tuple(ca.certificate for ca in AUTHORITIES)
    bundle = Bundle(
        trust_domain=OURS, x509_authorities=authorities, sequence=2**63, refresh_hint=timedelta(seconds=300)
    )
    members = json.loads(render(bundle))

    assert members.keys() == {"keys", "spiffe_sequence", "spiffe_refresh_hint"}
    assert (members["spiffe_sequence"], members["spiffe_refresh_hint"]) == (2**63, 300)
    assert [key["x5c"] for key in members["keys"]] == [[b64encode(ca.der).decode()] for ca in AUTHORITIES]
    assert {key["use"] for key in members["keys"]} == {"x509-svid"}
    of_key = {"EC": {"crv", "x", "y"}, "RSA": {"n", "e"}, "OKP": {"crv", "x"}}
    assert all(key.keys() == {"use", "kty", "x5c", *of_key[key["kty"]]} for key in members["keys"])


def test_coordinates_are_padded_to_the_size_of_the_curve():
    """RFC 7518 6.2.1.2: 32, 48 and 66 bytes."""
    small = CA.create(key=pki.ec.derive_private_key(_scalar_with_a_short_x(), pki.ec.SECP256R1()))

    assert [len(key["x"]) for key in (entry(small), entry(AUTHORITIES[2]), entry(AUTHORITIES[3]))] == [43, 64, 88]


def _scalar_with_a_short_x() -> int:
    """The first private key whose public x has a leading zero byte."""
    scalars = iter(range(1, 10_000))
    return next(
        s for s in scalars if pki.ec.derive_private_key(s, pki.ec.SECP256R1()).public_key().public_numbers().x < 2**248
    )


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(document(entry()), id="TB-03 minimal"),
        pytest.param(document(entry(), extra={"a": [1]}), id="TB-02 TB-03 unknown member"),
        pytest.param(document(entry(), entry()), id="an authority twice"),
        pytest.param(document(entry(alg="ES256", kid="x")), id="X5-38 TB-15 members that should not be there"),
        pytest.param(document(JWT_KEY, WIT_KEY, entry()), id="TB-12 keys of other uses"),
        pytest.param(document({**JWT_KEY, "x5c": entry(NEXT)["x5c"]}, entry()), id="TB-12 x5c for another use"),
        pytest.param(document(entry(NEXT, kty="PQC"), entry()), id="TB-12 unknown kty"),
        pytest.param(document(entry(NEXT, kty=["EC"]), entry()), id="TB-12 kty is no string"),
        pytest.param(document(entry(NEXT, kty=None), entry()), id="TB-16 kty missing"),
        pytest.param(document(entry(NEXT, use="tls"), entry()), id="TB-12 unknown use"),
        pytest.param(document(entry(NEXT, use="X509-SVID"), entry()), id="TB-17 use keeps case"),
        pytest.param(document(entry(NEXT, use=None), entry()), id="TB-18 use missing"),
        pytest.param(document({}, entry()), id="TB-18 an empty key"),
        pytest.param(document(entry(NEXT, x5c=None), entry()), id="X5-42 no x5c"),
        pytest.param(document(entry(NEXT, x5c=[]), entry()), id="X5-42 empty x5c"),
        pytest.param(document(entry(x5c=[*entry()["x5c"], *entry(NEXT)["x5c"]])), id="X5-40 X5-43 second certificate"),
    ],
)
def test_what_is_unknown_is_skipped_and_the_rest_is_kept(text: str):
    assert parse(OURS, text).x509_authorities == (ROOT.certificate,)


@pytest.mark.parametrize(
    "keys",
    [pytest.param([], id="TB-13 X5-44 empty"), pytest.param([JWT_KEY], id="TB-14 X5-44 no key for X.509")],
)
def test_a_document_without_x509_keys_trusts_nobody(keys: list[Any]):
    assert parse(OURS, document(*keys)) == Bundle(trust_domain=OURS, x509_authorities=())


@pytest.mark.parametrize("sequence", [0, 1, 2**63 - 1, 2**63, 2**64 - 1])
def test_a_sequence_has_64_bits(sequence: int):
    """TB-07."""
    assert parse(OURS, document(spiffe_sequence=sequence)).sequence == sequence


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param("", "not JSON", id="empty"),
        pytest.param("\ufeff{}", "not JSON", id="byte order mark"),
        pytest.param(b"\xff\xfe{\x00}\x00", "not JSON", id="not UTF-8"),
        pytest.param("[" * 100_000, "not JSON", id="deep"),
        pytest.param('{"keys":[],"a":' + "9" * 5000 + "}", "not JSON", id="endless number"),
        pytest.param('{"keys":[],"a":NaN}', "NaN is not JSON", id="NaN"),
        pytest.param("[]", "not an object but an array", id="an array"),
        pytest.param("null", "not an object but None", id="null"),
        pytest.param("{}", r"keys is not an array but None \(TB-11\)", id="TB-11 missing keys"),
        pytest.param('{"keys":null}', "TB-11", id="TB-11 null"),
        pytest.param('{"keys":{}}', r"but an object \(TB-11\)", id="TB-11 object"),
        pytest.param('{"keys":[1]}', r"keys\[0\] is not an object but 1", id="a key that is none"),
        pytest.param('{"keys":[],"keys":[]}', r"member 'keys' is there twice \(TB-27\)", id="TB-27 top"),
        pytest.param('{"keys":[{"use":"a","use":"x509-svid"}]}', "TB-27", id="TB-27 in a key"),
        pytest.param(document(spiffe_sequence=-1), "TB-07", id="TB-05 negative"),
        pytest.param(document(spiffe_sequence=2**64), "TB-07", id="TB-07 65 bits"),
        pytest.param(document(spiffe_sequence=1.0), r"integer but 1\.0", id="TB-05 float"),
        pytest.param(document(spiffe_sequence="1"), "integer but '1'", id="TB-05 text"),
        pytest.param(document(spiffe_sequence=True), "integer but True", id="TB-05 boolean"),
        pytest.param(document(spiffe_sequence=None), "integer but None", id="TB-05 null"),
        pytest.param(document(spiffe_refresh_hint=1.5), "TB-09", id="TB-09 half a second"),
        pytest.param(document(spiffe_refresh_hint=-1), "TB-09", id="TB-09 negative"),
        pytest.param(document(spiffe_refresh_hint=10**9), "TB-09", id="TB-09 years"),
        pytest.param(document(spiffe_refresh_hint=10**99), "out of range", id="TB-09 endless"),
        pytest.param(document(entry(x5c="MII")), r"keys\[0\]\.x5c is not an array", id="X5-39 x5c is text"),
        pytest.param(document(entry(x5c=[5])), "not an array of strings", id="X5-39 x5c of numbers"),
        pytest.param(document(entry(x5c=["M*I"])), "standard base64", id="X5-39 no base64"),
        pytest.param(document(entry(x5c=["\u00e4"])), "standard base64", id="X5-39 not ASCII"),
        pytest.param(document(entry(x5c=["MAA="])), "not a certificate", id="X5-39 no certificate"),
        pytest.param(document(entry(x5c=["-_8=" + entry()["x5c"][0]])), "standard base64", id="X5-39 base64url"),
        pytest.param(document(entry(x5c=base64(NEXT.der))), "7517", id="another key"),
        pytest.param(document(entry(x=entry(NEXT)["x"])), r"keys\[0\]\.x is '.*RFC 7517 4\.7", id="x of another key"),
        pytest.param(document(JWT_KEY, entry(y=None)), r"keys\[1\]\.y is None", id="no y"),
        pytest.param(document(entry(kty="RSA")), r"\.kty is 'RSA', its certificate says 'EC'", id="kty of another key"),
        pytest.param(document(entry(crv="P-" + "3" * 999)), "P-333.*…, its", id="a flood is cut"),
        pytest.param(
            document(entry(x5c=base64(CA.create(key=ROOT.key, is_ca=False).der))),
            "X5-14",
            id="X5-14",
        ),
        pytest.param(" " * (MAX_DOCUMENT_BYTES + 1), "the limit is", id="too large"),
    ],
)
def test_a_document_that_cannot_be_read_whole_is_refused(text: str | bytes, reason: str):
    with pytest.raises(InvalidBundle, match=reason) as refusal:
        parse(OURS, text)
    assert str(refusal.value).startswith("bundle document of example.org: ")


def test_base64url_is_not_taken_for_standard_base64():
    """X5-39: for a certificate whose two encodings differ."""
    authority = next(ca for ca in iter(CA.create, None) if {*b"+/"} & {*b64encode(ca.der)})
    url = urlsafe_b64encode(authority.der).decode()

    with pytest.raises(InvalidBundle, match="standard base64"):
        parse(OURS, document(entry(authority, x5c=[url])))


@given(json_values)
def test_any_json_is_a_bundle_or_is_refused(value: Any):
    parses_or_refuses(json.dumps(value))


@given(
    st.lists(st.dictionaries(st.sampled_from(sorted({"use", *entry()})), json_values, max_size=5), max_size=3),
    json_values,
)
def test_any_keys_are_a_bundle_or_are_refused(keys: list[dict[str, Any]], sequence: Any):
    parses_or_refuses(document(*({**entry(), **key} for key in keys), spiffe_sequence=sequence))


@given(st.binary() | st.text())
def test_any_bytes_are_a_bundle_or_are_refused(anything: bytes | str):
    parses_or_refuses(anything)


def parses_or_refuses(anything: bytes | str) -> None:
    try:
        bundle = bundle_json.parse(OURS, anything)
    except InvalidBundle:
        return
    assert bundle.trust_domain == OURS
