from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from meshca.authority.draft import Draft, draft_intermediate, draft_leaf, draft_root, hash_of
from meshca.authority.issue import new_serial
from meshca.authority.lint import COMMON, LEAF, SIGNING, compare, lint
from meshca.errors import IssuanceRefused
from meshca.model import Kind, Slot
from spiffe.id import SpiffeID
from tests.support.clock import START
from tests.support.pki import CA, unknown_extension, usage
from tests.support.values import HOUR, OURS, entry, slot

DAY = 24 * HOUR
TIMES: dict[str, Any] = {"not_before": START - DAY, "not_after": START + DAY}
ROOT_CA = CA.create(**TIMES)
ROOT = slot(ROOT_CA.certificate)
ISSUER_CA = ROOT_CA.intermediate(**TIMES)
ISSUER = slot(ISSUER_CA.certificate, kind=Kind.INTERMEDIATE, issuer_id=ROOT.id)
FOREIGN = slot(CA.create("example.com", **TIMES).certificate)
KEY = ec.generate_private_key(ec.SECP256R1())
OTHER = ec.generate_private_key(ec.SECP256R1()).public_key()

_SERIAL: dict[str, Any] = {"serial": new_serial(START), "now": START}
LEAF_DRAFT = draft_leaf(entry("web"), ISSUER, KEY.public_key(), ttl=HOUR, shorten=0.0, **_SERIAL)
ROOT_DRAFT = draft_root(OURS, KEY.public_key(), lifetime=DAY, **_SERIAL)
INTERMEDIATE_DRAFT = draft_intermediate(ROOT, OURS, KEY.public_key(), lifetime=HOUR, **_SERIAL)

BOTH = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])


def said(draft: Draft, *changed: tuple[x509.ExtensionType, bool]) -> Draft:
    """The draft with extensions added, or changed where it has one of that type."""
    others = {type(each.value): each for each in draft.extensions}
    others |= {type(each): x509.Extension(each.oid, critical, each) for each, critical in changed}
    return replace(draft, extensions=tuple(others.values()))


def unsaid(draft: Draft, kind: type[x509.ExtensionType]) -> Draft:
    return replace(draft, extensions=tuple(each for each in draft.extensions if not isinstance(each.value, kind)))


def san(*uris: str, dns: tuple[str, ...] = ()) -> x509.SubjectAlternativeName:
    names = [x509.UniformResourceIdentifier(uri) for uri in uris]
    return x509.SubjectAlternativeName([*names, *map(x509.DNSName, dns)])


def with_id(draft: Draft, text: str) -> Draft:
    """The draft for another ID, in its SAN too."""
    trust_domain, slash, path = text.removeprefix("spiffe://").partition("/")
    made = SpiffeID(type(OURS)(trust_domain), slash + path)
    return said(replace(draft, spiffe_id=made), (san(text), draft is LEAF_DRAFT))


def too_long(draft: Draft) -> Draft:
    """Such an ID can not be made; the rule stands anyway."""
    made = SpiffeID(OURS, "/web")
    object.__setattr__(made, "path", "/" + "a" * 2048)
    return said(replace(draft, spiffe_id=made), (san(str(made)), True))


def rule(start: str) -> str:
    """The one rule that starts so."""
    (text,) = {text for text, _ in (*LEAF, *SIGNING) if text.startswith(start)}
    return text


NAME = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "web")])
CA_BITS, LEAF_BITS = ("key_cert_sign",), ("digital_signature",)
CONSTRAINTS = x509.BasicConstraints

BAD: list[tuple[Draft, Slot | None, str]] = [
    (too_long(LEAF_DRAFT), ISSUER, "ID-20"),
    (said(LEAF_DRAFT, (san("spiffe://example.org/web", "spiffe://example.org/db"), True)), ISSUER, "X5-01"),
    (said(LEAF_DRAFT, (san("spiffe://example.org/db"), True)), ISSUER, "X5-01"),
    (said(LEAF_DRAFT, (san(dns=("web.example.org",)), True)), ISSUER, "X5-01"),
    (said(LEAF_DRAFT, (san("spiffe://example.org/web"), False)), ISSUER, "X5-06"),
    (replace(LEAF_DRAFT, subject=NAME), ISSUER, "X5-06"),
    (said(ROOT_DRAFT, (san("spiffe://example.org"), True)), None, "X5-06"),
    (with_id(LEAF_DRAFT, "spiffe://example.com/web"), ISSUER, "X5-10"),
    (said(LEAF_DRAFT, (usage(*LEAF_BITS), False)), ISSUER, "X5-19"),
    (said(LEAF_DRAFT, (CONSTRAINTS(ca=False, path_length=None), False)), ISSUER, "X5-30: BasicConstraints"),
    (replace(LEAF_DRAFT, not_after=LEAF_DRAFT.not_before), ISSUER, "X5-30: it ends"),
    (replace(LEAF_DRAFT, not_before=START - 2 * DAY), ISSUER, "X5-30: it is not valid within"),
    (replace(LEAF_DRAFT, not_after=START + 2 * DAY), ISSUER, "X5-30: it is not valid within"),
    (replace(LEAF_DRAFT, issuer=ROOT_DRAFT.subject), ISSUER, "X5-30: it does not name"),
    (
        said(LEAF_DRAFT, (x509.AuthorityKeyIdentifier(b"x" * 20, None, None), False)),
        ISSUER,
        "X5-30: it does not name",
    ),
    (unsaid(LEAF_DRAFT, x509.AuthorityKeyIdentifier), ISSUER, "X5-30: it does not name"),
    (replace(ROOT_DRAFT, issuer=LEAF_DRAFT.issuer), None, "X5-30: it does not name"),
    (
        said(ROOT_DRAFT, (x509.AuthorityKeyIdentifier(b"x" * 20, None, None), False)),
        None,
        "X5-30: it does not name",
    ),
    (replace(LEAF_DRAFT, serial=2**63 - 1), ISSUER, "X5-30: the serial"),
    (replace(LEAF_DRAFT, serial=2**159), ISSUER, "X5-30: the serial"),
    (replace(LEAF_DRAFT, public_key=OTHER), ISSUER, "X5-30: the subject key"),
    (replace(INTERMEDIATE_DRAFT, key_hash=b"x" * 32), ROOT, "X5-30: the subject key"),
    (unsaid(LEAF_DRAFT, x509.SubjectKeyIdentifier), ISSUER, "X5-30: the subject key"),
    (
        said(LEAF_DRAFT, (x509.SubjectKeyIdentifier.from_public_key(KEY.public_key()), False)),
        ISSUER,
        "X5-30: the subject key",
    ),
    (
        said(INTERMEDIATE_DRAFT, (x509.SubjectKeyIdentifier(hash_of(KEY.public_key())), False)),
        ROOT,
        "X5-30: the subject key",
    ),
    (said(LEAF_DRAFT, (unknown_extension(), False)), ISSUER, "X5-30: an extension"),
    (
        replace(LEAF_DRAFT, extensions=(*LEAF_DRAFT.extensions, x509.Extension(BOTH.oid, False, BOTH))),
        ISSUER,
        "X5-30: an extension",
    ),
    (with_id(LEAF_DRAFT, "spiffe://example.org"), ISSUER, "X5-04"),
    (said(LEAF_DRAFT, (CONSTRAINTS(ca=True, path_length=None), True)), ISSUER, "X5-15"),
    (said(LEAF_DRAFT, (CONSTRAINTS(ca=True, path_length=0), True)), ISSUER, "X5-15"),
    (said(LEAF_DRAFT, (usage(), True)), ISSUER, "X5-22"),
    (said(LEAF_DRAFT, (usage(*LEAF_BITS, "key_cert_sign"), True)), ISSUER, "X5-24"),
    (said(LEAF_DRAFT, (usage(*LEAF_BITS, "crl_sign"), True)), ISSUER, "X5-25"),
    (said(LEAF_DRAFT, (usage(*LEAF_BITS, "content_commitment"), True)), ISSUER, "X5-23"),
    (said(LEAF_DRAFT, (BOTH, True)), ISSUER, "X5-27"),
    (said(LEAF_DRAFT, (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)), ISSUER, "X5-28"),
    (unsaid(LEAF_DRAFT, x509.ExtendedKeyUsage), ISSUER, "X5-28"),
    (with_id(INTERMEDIATE_DRAFT, "spiffe://example.org/ca"), ROOT, "X5-09"),
    (said(INTERMEDIATE_DRAFT, (CONSTRAINTS(ca=True, path_length=1), True)), ROOT, "X5-14"),
    (said(INTERMEDIATE_DRAFT, (CONSTRAINTS(ca=True, path_length=None), True)), ROOT, "X5-14"),
    (said(ROOT_DRAFT, (CONSTRAINTS(ca=True, path_length=0), True)), None, "X5-14"),
    (said(ROOT_DRAFT, (CONSTRAINTS(ca=False, path_length=None), True)), None, "X5-14"),
    (said(ROOT_DRAFT, (usage("crl_sign"), True)), None, "X5-20"),
    (said(ROOT_DRAFT, (usage(*CA_BITS, "digital_signature"), True)), None, "X5-45"),
    (said(ROOT_DRAFT, (BOTH, False)), None, "X5-29"),
    (said(ROOT_DRAFT, (san("spiffe://example.org", dns=("ca.example.org",)), False)), None, "X5-03"),
]


@pytest.mark.parametrize(("draft", "issuer", "start"), BAD, ids=[start for _, _, start in BAD])
def test_each_rule_refuses_the_draft_that_breaks_it_and_no_other_rule_is_in_the_way(
    draft: Draft, issuer: Slot | None, start: str
):
    with pytest.raises(IssuanceRefused) as refusal:
        lint(draft, issuer)
    assert refusal.value.reason == "lint"
    assert str(refusal.value) == f"certificate for {draft.spiffe_id} would be wrong: {rule(start)}"


@pytest.mark.parametrize(
    ("draft", "issuer"),
    [(LEAF_DRAFT, ISSUER), (INTERMEDIATE_DRAFT, ROOT), (ROOT_DRAFT, None)],
    ids=["leaf", "intermediate", "root"],
)
def test_what_the_template_makes_passes(draft: Draft, issuer: Slot | None):
    lint(draft, issuer)


@pytest.mark.parametrize(
    ("draft", "issuer", "starts"),
    [
        (replace(LEAF_DRAFT, extensions=()), ISSUER, ["X5-01", "X5-06", "X5-15", "X5-19", "X5-22", "X5-28"]),
        (LEAF_DRAFT, None, ["X5-13", "X5-30: it does not name"]),
        (replace(ROOT_DRAFT, subject=x509.Name([]), issuer=x509.Name([])), None, ["RFC 5280", "X5-06"]),
        (replace(INTERMEDIATE_DRAFT, profile=LEAF_DRAFT.profile), ROOT, ["X5-04", "X5-15", "X5-22", "X5-24", "X5-28"]),
        (INTERMEDIATE_DRAFT, FOREIGN, ["X5-10", "X5-30: it does not name"]),
    ],
    ids=["no extensions", "no issuer", "no subject", "a CA for a leaf", "a foreign issuer"],
)
def test_all_broken_rules_are_told_at_once(draft: Draft, issuer: Slot | None, starts: list[str]):
    with pytest.raises(IssuanceRefused) as refusal:
        lint(draft, issuer)
    for start in starts:
        assert rule(start) in str(refusal.value)


@pytest.mark.parametrize(
    ("key", "is_strong"),
    [
        (ec.generate_private_key(ec.SECP384R1()), True),
        (rsa.generate_private_key(65537, 2048), True),
        (rsa.generate_private_key(65537, 1024), False),
        (ec.generate_private_key(ec.SECP256K1()), False),
        (ed25519.Ed25519PrivateKey.generate(), False),
    ],
    ids=["P-384", "RSA 2048", "RSA 1024", "secp256k1", "Ed25519"],
)
def test_only_keys_that_every_verifier_takes_are_certified(key: Any, *, is_strong: bool):
    identifier = x509.SubjectKeyIdentifier(hash_of(key.public_key()))
    draft = replace(LEAF_DRAFT, public_key=key.public_key(), key_hash=identifier.digest)
    draft = said(draft, (identifier, False))
    if is_strong:
        lint(draft, ISSUER)
    else:
        with pytest.raises(IssuanceRefused, match=rule("X5-30: the key is weak")):
            lint(draft, ISSUER)


def test_every_rule_has_a_draft_that_breaks_it():
    broken = {rule(start) for _, _, start in BAD}
    together = {rule(start) for start in ("X5-13", "RFC 5280", "X5-30: the key is weak")}
    assert {text for text, _ in (*COMMON, *LEAF, *SIGNING)} == broken | together


SIGNED = LEAF_DRAFT.builder().sign(KEY, hashes.SHA256())
UNCRITICAL = x509.Extension(LEAF_DRAFT.extensions[0].oid, False, LEAF_DRAFT.extensions[0].value)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"serial": 5}, "serial"),
        ({"subject": NAME}, "subject"),
        ({"issuer": NAME}, "issuer"),
        ({"not_before": START}, "not before"),
        ({"not_after": START + timedelta(seconds=1)}, "not after"),
        ({"public_key": OTHER}, "public key"),
        ({"extensions": LEAF_DRAFT.extensions[:-1]}, "extensions"),
        ({"extensions": LEAF_DRAFT.extensions[::-1]}, "extensions"),
        ({"extensions": (UNCRITICAL, *LEAF_DRAFT.extensions[1:])}, "extensions"),
        ({"serial": 5, "issuer": NAME}, "serial, issuer"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_certificate_that_says_anything_but_its_draft_never_leaves(change: dict[str, Any], field: str):
    compare(LEAF_DRAFT, SIGNED)
    with pytest.raises(IssuanceRefused, match=f"differs from its draft in {field}$") as refusal:
        compare(replace(LEAF_DRAFT, **change), SIGNED)
    assert refusal.value.reason == "mismatch"
