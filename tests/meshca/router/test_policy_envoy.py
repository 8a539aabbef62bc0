"""AuthorizationPolicies as a real Envoy enforces them. One Envoy, one filter chain for each set of policies."""

import re
from collections.abc import Iterator

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtensionOID

from meshca.router.mesh.objects import AuthorizationPolicy, Operation, PolicyRule, Source
from meshca.router.security.rbac import (
    http_allowing,
    http_filters,
    http_rules,
    network_filters,
    proxyless_filters,
)
from tests.support.pki import CA, Issued
from tests.support.policies import OURS, allow, deny, rule
from tests.support.rbac_envoy import Judge, running_judge

pytestmark = pytest.mark.envoy

PARTNER = "spiffe://partner.example/ns/shop/sa/web"
OTHER = "spiffe://other.example/ns/shop/sa/web"
WEB = "spiffe://example.org/ns/shop/sa/web"

Policies = tuple[AuthorizationPolicy, ...]


def names(*uris: bytes, dns: tuple[bytes, ...] = ()) -> x509.UnrecognizedExtension:
    """A SAN extension byte by byte, as only a CA that cheats would sign it."""
    tagged = [(0x86, uri) for uri in uris] + [(0x82, name) for name in dns]
    body = b"".join(bytes([tag, len(value)]) + value for tag, value in tagged)
    return x509.UnrecognizedExtension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, bytes([0x30, len(body)]) + body)


def peers(ours: CA, partner: CA, other: CA) -> dict[str, Issued]:
    def named(*raw: bytes) -> Issued:
        return partner.leaf(uris=[], extensions=[(names(*raw), True)])

    return {
        "web": ours.leaf(uris=[WEB]),
        "web2": ours.leaf(uris=[f"{WEB}2"]),
        "batch": ours.leaf(uris=["spiffe://example.org/ns/jobs/sa/batch"]),
        "api": ours.leaf(uris=["spiffe://example.org/api"]),
        "deep": ours.leaf(uris=["spiffe://example.org/x/ns/shop/sa/web"]),
        "hosted": ours.leaf(uris=[WEB], dns=["web.example.org"]),
        "long": ours.leaf(uris=[f"spiffe://example.org/ns/{LONG_NAMESPACE}/sa/{LONG_ACCOUNT}"]),
        "long2": ours.leaf(uris=[f"spiffe://example.org/ns/{LONG_NAMESPACE}/sa/{LONG_ACCOUNT}2"]),
        "partner": partner.leaf(uris=[PARTNER]),
        "other": other.leaf(uris=[OTHER]),
        "partner as us second": partner.leaf(uris=[PARTNER, WEB]),
        "partner as us first": partner.leaf(uris=[WEB, PARTNER]),
        "partner as us by DNS": partner.leaf(uris=[PARTNER], dns=[WEB]),
        "partner as us by subject": partner.leaf(uris=[PARTNER], subject=WEB),
        "partner as shop by subject": partner.leaf(
            uris=["spiffe://partner.example/x"], subject="x/ns/shop/sa/web", dns=["a.example"]
        ),
        "partner as us after a line end": named(PARTNER.encode() + b"\n", WEB.encode()),
        "partner as us after a broken byte": named(PARTNER.encode() + b"\xff", WEB.encode()),
        "partner as us after a NUL": named(PARTNER.encode() + b"\0", WEB.encode()),
        "partner as other second": partner.leaf(uris=[PARTNER, OTHER]),
        "partner as other by DNS": partner.leaf(uris=[PARTNER], dns=[OTHER]),
        "partner as other after a broken byte": named(PARTNER.encode() + b"\xff", OTHER.encode()),
        "partner as other by a broken DNS name": partner.leaf(
            uris=[], extensions=[(names(PARTNER.encode(), dns=(b"\xff", OTHER.encode())), True)]
        ),
    }


def sources(**fields: tuple[str, ...]) -> PolicyRule:
    return rule(Source(**fields))


def operations(**fields: tuple[str | int, ...]) -> PolicyRule:
    return rule(Operation(**fields))  # type: ignore[arg-type] # each field has its own type


WEB_ACCOUNT = "example.org/ns/shop/sa/web"

HTTP: dict[str, Policies] = {
    "none": (),
    "allow-nothing": (allow(),),
    "deny-nothing": (deny(),),
    "allow-all": (allow(rule()),),
    "deny-all": (deny(rule()),),
    "empty-parts": (allow(rule(Source(), Operation())),),
    "exact": (allow(sources(principals=(WEB_ACCOUNT,))),),
    "whole-id": (allow(sources(principals=(WEB, "spiffe://example.org/api"))),),
    "anyone": (allow(sources(principals=("*",))),),
    "prefix": (allow(sources(principals=("example.org/ns/shop/*",))),),
    "id-prefix": (allow(sources(principals=("spiffe://example.org/*",))),),
    "suffix": (allow(sources(principals=("*/sa/web",))),),
    "not": (allow(sources(principals=("example.org/*",), not_principals=(WEB_ACCOUNT,))),),
    "namespace": (allow(sources(namespaces=("shop",))),),
    "namespace-ends": (allow(sources(namespaces=("sh*", "*obs"))),),
    "namespace-any": (allow(sources(namespaces=("*",))),),
    "namespace-dot": (allow(sources(namespaces=("s.op",))),),
    "not-namespace": (allow(sources(not_namespaces=("shop",))),),
    "account": (allow(sources(service_accounts=("web",))),),
    "account-elsewhere": (allow(sources(service_accounts=("jobs/batch",))),),
    "account-ends": (allow(sources(service_accounts=("w*",), not_service_accounts=("*2",))),),
    "trust-domain": (allow(sources(trust_domains=("example.org",))),),
    "trust-domain-ends": (allow(sources(trust_domains=("*.example",), not_trust_domains=("other.*",))),),
    "and": (allow(sources(namespaces=("shop",), principals=("*2", "*/batch"))),),
    "or": (allow(rule(Source(namespaces=("jobs",)), Source(principals=("*/api",)))),),
    "from-and-to": (allow(rule(Source(namespaces=("shop",)), Operation(methods=("GET",)))),),
    "deny-first": (allow(rule()), deny(sources(principals=(WEB_ACCOUNT,)), name="q")),
    "two-allow": (allow(sources(namespaces=("jobs",))), allow(operations(methods=("POST",)), name="q")),
    "two-rules": (allow(sources(namespaces=("jobs",)), operations(methods=("POST",))),),
    "host": (allow(operations(hosts=("api.example",))),),
    "host-port": (allow(operations(hosts=("api.example:8080",))),),
    "host-ends": (allow(operations(hosts=("*.example", "a*"))),),
    "host-any": (allow(operations(hosts=("*",))),),
    "not-host": (deny(operations(not_hosts=("api.example",))),),
    "method": (allow(operations(methods=("GET", "P*", "*ETE"))),),
    "not-method": (allow(operations(not_methods=("GET",))),),
    "path": (allow(operations(paths=("/a", "/b/*", "*.html"))),),
    "path-any": (allow(operations(paths=("*",))),),
    "not-path": (allow(operations(paths=("/*",), not_paths=("/admin*",))),),
    "template": (allow(operations(paths=("/users/{*}/pets", "/files.x/{**}"))),),
    "port": (allow(operations(ports=(8080, 8081))),),
    "not-port": (allow(operations(not_ports=(8080,))),),
    "all-of-operation": (allow(operations(ports=(8080,), methods=("GET",), paths=("/a",), hosts=("api",))),),
    "two-operations": (allow(rule(Operation(methods=("POST",)), Operation(paths=("/a",)))),),
}
SHADOW: dict[str, Policies] = {
    "dry-allow": (allow(sources(namespaces=("jobs",)), dry_run=True),),
    "dry-deny": (deny(sources(namespaces=("jobs",)), dry_run=True),),
    "dry-both": (
        allow(rule(), name="q"),
        allow(sources(namespaces=("jobs",)), dry_run=True),
        deny(rule(), dry_run=True, name="r"),
    ),
}
GUARDED: dict[str, Policies] = {
    "guard": (allow(sources(principals=(WEB_ACCOUNT, OTHER, "*/ns/shop/sa/web"))),),
    "guard-open": (),
}
LONG_NAMESPACE, LONG_ACCOUNT, LONG_PATH = "n" * 63, "a" * 63, "p" * 85
ODD = "()[]{}?*+-|^$\\.&~#%\"'\t\n é\0"
LONG: dict[str, Policies] = {
    "long-namespace": (allow(sources(namespaces=(LONG_NAMESPACE,))),),
    "long-account": (allow(sources(service_accounts=(f"{LONG_NAMESPACE}/{LONG_ACCOUNT}",))),),
    "long-suffix": (allow(sources(principals=(f"*{LONG_NAMESPACE}/sa/{LONG_ACCOUNT}",))),),
    "long-ends": (allow(sources(service_accounts=(f"{LONG_NAMESPACE}/*{LONG_ACCOUNT[:50]}*",))),),
    "long-not": (allow(sources(not_service_accounts=(f"{LONG_NAMESPACE}/{LONG_ACCOUNT}",))),),
    "odd": (
        allow(
            rule(
                Source(principals=(f"*{ODD}", ODD, f"{ODD}*"), service_accounts=(f"{ODD}*",), namespaces=(ODD, "")),
                Operation(hosts=(ODD, f"*{ODD}", ""), methods=(ODD, ""), paths=(ODD, f"{{*}}{ODD}", "", "**", "/*/*")),
            )
        ),
    ),
    # The longest whose expression is one: Envoy must take it.
    "limit-namespace": (allow(sources(namespaces=("n" * 74,))),),
    "limit-account": (allow(sources(service_accounts=("n/*" + "a" * 70,))),),
    "limit-suffix": (allow(sources(principals=("*" + "n" * 83,))),),
    "limit-trust-domain": (allow(sources(trust_domains=("*" + "n" * 78,))),),
    "limit-path": (allow(operations(paths=("/{*}/" + LONG_PATH + "/{**}",))),),
}
PROXYLESS = {"proxyless": GUARDED["guard"], "proxyless-open": ()}
TCP: dict[str, Policies] = {
    "tcp-none": (),
    "tcp-guard": GUARDED["guard"],
    "tcp-source": (allow(sources(namespaces=("shop",))),),
    "tcp-deny": (allow(rule()), deny(sources(namespaces=("shop",)), name="q")),
    "tcp-port": (allow(operations(ports=(5432,))),),
    "tcp-allow-method": (allow(operations(ports=(5432,), methods=("GET",))),),
    "tcp-allow-mixed": (allow(rule(Operation(ports=(5432,)), Operation(methods=("GET",)))),),
    "tcp-allow-other-rule": (allow(operations(methods=("GET",)), sources(namespaces=("shop",))),),
    "tcp-deny-method": (deny(rule(Source(namespaces=("shop",)), Operation(methods=("GET",)))),),
    "tcp-deny-port-and-path": (deny(operations(ports=(5432,), paths=("/a",))),),
    "tcp-dry": (deny(sources(namespaces=("shop",)), dry_run=True),),
}
PLACES: dict[str, tuple[Policies, ...]] = {
    "places": ((allow(sources(namespaces=("shop",))),), (), (deny(sources(principals=("*/sa/web2",))),)),
    "places-apart": ((allow(sources(namespaces=("shop",))),), (allow(sources(principals=("*/sa/web",)), name="q"),)),
    "places-closed": ((allow(rule()),), ()),
}
"""Of several sorts of callees behind one listener."""
PLAINTEXT: Policies = (
    allow(rule(Source(principals=("*",)))),
    allow(rule(Source(not_principals=("*",)), Operation(paths=("/open",))), name="q"),
)


@pytest.fixture(scope="module")
def cas() -> list[CA]:
    return [CA.create(name) for name in ("example.org", "partner.example", "other.example")]


@pytest.fixture(scope="module")
def known(cas: list[CA]) -> dict[str, Issued]:
    return peers(*cas)


@pytest.fixture(scope="module")
def judge(cas: list[CA], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judge]:
    sorts = {
        **{name: (policies,) for name, policies in {**HTTP, **LONG, **SHADOW, **GUARDED}.items()},
        **PLACES,
        "plaintext": (PLAINTEXT,),
    }
    http = {name: http_filters(http_allowing(each), plaintext=name == "plaintext") for name, each in sorts.items()}
    plaintext = http.pop("plaintext")
    rules = {name: http_rules(each) for name, each in sorts.items() if name != "places-closed"}
    proxyless = {name: proxyless_filters((policies,), OURS) for name, policies in PROXYLESS.items()}
    tcp = {name: network_filters((policies,)) for name, policies in TCP.items()}
    directory = tmp_path_factory.mktemp("judge")
    with running_judge(
        directory, cas, http={**http, **proxyless}, rules=rules, tcp=tcp, plaintext=plaintext
    ) as running:
        yield running


OUR_PEERS = ("web", "web2", "batch", "api", "deep", "partner")


@pytest.mark.parametrize(
    ("case", "passing"),
    [
        ("none", OUR_PEERS),
        ("allow-nothing", ()),
        ("deny-nothing", OUR_PEERS),
        ("allow-all", OUR_PEERS),
        ("deny-all", ()),
        ("empty-parts", OUR_PEERS),
        ("exact", ("web",)),
        ("whole-id", ("web", "api")),
        ("anyone", OUR_PEERS),
        ("prefix", ("web", "web2")),
        ("id-prefix", ("web", "web2", "batch", "api", "deep")),
        ("suffix", ("web", "deep", "partner")),
        ("not", ("web2", "batch", "api", "deep")),
        ("namespace", ("web", "web2", "partner")),
        ("namespace-ends", ("web", "web2", "batch", "partner")),
        ("namespace-any", ("web", "web2", "batch", "partner")),
        ("namespace-dot", ()),
        ("not-namespace", ("batch", "api", "deep")),
        ("account", ("web", "partner")),
        ("account-elsewhere", ("batch",)),
        ("account-ends", ("web", "partner")),
        ("trust-domain", ("web", "web2", "batch", "api", "deep")),
        ("trust-domain-ends", ("partner",)),
        ("and", ("web2",)),
        ("or", ("batch", "api")),
        ("from-and-to", ("web", "web2", "partner")),
        ("deny-first", ("web2", "batch", "api", "deep", "partner")),
        ("two-allow", ("batch",)),
        ("two-rules", ("batch",)),
    ],
)
def test_callers_pass_by_their_identity(judge: Judge, known: dict[str, Issued], case: str, passing: tuple[str, ...]):
    got = {name: judge.http(case, known[name]) for name in OUR_PEERS}
    assert got == {name: 200 if name in passing else 403 for name in OUR_PEERS}


def test_all_sorts_of_callees_must_let_a_caller_in(judge: Judge, known: dict[str, Issued]):
    got = {name: judge.http("places", known[name]) for name in OUR_PEERS}
    assert got == {name: 200 if name in {"web", "partner"} else 403 for name in OUR_PEERS}


def test_what_is_allowed_apart_must_be_allowed_by_all(judge: Judge, known: dict[str, Issued]):
    got = {name for name in OUR_PEERS if judge.http("places-apart", known[name]) == 200}
    assert got == {"web", "partner"}


def test_filters_to_which_the_route_says_nothing_let_nobody_in(judge: Judge, known: dict[str, Issued]):
    assert {judge.http("places-closed", known[name]) for name in OUR_PEERS} == {403}


@pytest.mark.parametrize(
    ("case", "passing"),
    [
        ("long-namespace", ["long", "long2"]),
        ("long-account", ["long"]),
        ("long-suffix", ["long"]),
        ("long-ends", ["long", "long2"]),
        ("long-not", ["long2", "web"]),
        ("odd", []),
        ("limit-namespace", []),
        ("limit-account", []),
        ("limit-suffix", []),
        ("limit-trust-domain", []),
    ],
)
def test_no_value_is_one_that_envoy_would_refuse_the_listener_for(
    judge: Judge, known: dict[str, Issued], case: str, passing: list[str]
):
    got = {name: judge.http(case, known[name]) for name in ("long", "long2", "web")}
    assert got == {name: 200 if name in passing else 403 for name in got}


@pytest.mark.parametrize(
    ("case", "passing", "refused"),
    [
        ("from-and-to", ["GET api /"], ["POST api /"]),
        ("two-allow", ["POST api /"], ["GET api /"]),
        (
            "host",
            ["GET api.example /", "GET API.Example:8080 /", "GET api.example: /"],
            ["GET xapi.example /", "GET api.example.org /"],
        ),
        ("host-port", ["GET api.example:8080 /"], ["GET api.example /", "GET api.example:80 /"]),
        ("host", [], ["GET apixexample /", "GET api.example:x /"]),
        ("host-ends", ["GET x.EXAMPLE:1 /", "GET Abc /"], ["GET example /", "GET b /", "GET x.example.org /"]),
        ("host-any", ["GET whatever /"], []),
        ("not-host", ["GET api.example:80 /"], ["GET other /"]),
        ("method", ["GET api /", "PUT api /", "DELETE api /"], ["HEAD api /", "OPTIONS api /"]),
        ("not-method", ["POST api /"], ["GET api /"]),
        ("path", ["GET api /a", "GET api /a?b=c", "GET api /b/c", "GET api /x.html?y"], ["GET api /A", "GET api /ab"]),
        ("path", [], ["GET api /b", "GET api /x?.html"]),
        ("path-any", ["GET api /"], []),
        ("not-path", ["GET api /a"], ["GET api /admin?x", "GET api /administrator"]),
        ("template", ["GET api /users/1/pets", "GET api /files.x/a/b", "GET api /files.x/"], ["GET api /users//pets"]),
        ("limit-path", [f"GET api /x/{LONG_PATH}/"], [f"GET api /x/{LONG_PATH}"]),
        ("template", [], ["GET api /users/1/2/pets", "GET api /filesyx/a", "GET api /files.x"]),
        ("all-of-operation", [], ["GET api /a"]),
        ("two-operations", ["POST api /b", "GET api /a"], ["GET api /b"]),
    ],
)
def test_requests_pass_by_what_they_ask(
    judge: Judge, known: dict[str, Issued], case: str, passing: list[str], refused: list[str]
):
    got = {request: judge.http(case, known["web"], request) for request in (*passing, *refused)}
    assert got == {**dict.fromkeys(passing, 200), **dict.fromkeys(refused, 403)}


@pytest.mark.parametrize(
    ("case", "passing", "refused"),
    [("port", [8080, 8081], [80, 808]), ("not-port", [80], [8080]), ("all-of-operation", [8080], [8081])],
)
def test_requests_pass_by_the_port_that_they_came_to(
    judge: Judge, known: dict[str, Issued], case: str, passing: list[int], refused: list[int]
):
    got = {port: judge.http(case, known["web"], "GET api /a", port) for port in (*passing, *refused)}
    assert got == {**dict.fromkeys(passing, 200), **dict.fromkeys(refused, 403)}


def test_a_caller_in_plaintext_is_nobody(judge: Judge):
    assert judge.http("plaintext", None) == 403
    assert judge.http("plaintext", None, "GET api /open") == 200


FORGED = [
    "partner as us second",
    "partner as us by DNS",
    "partner as us after a line end",
    "partner as us after a broken byte",
    "partner as us after a NUL",
]
FORGED_OTHER = [
    "partner as other second",
    "partner as other by DNS",
    "partner as other after a broken byte",
    "partner as other by a broken DNS name",
]


@pytest.mark.parametrize("forged", FORGED)
def test_a_partner_can_not_pass_for_one_of_ours(judge: Judge, known: dict[str, Issued], forged: str):
    """Whatever the policies say, and in all filters that we make."""
    got = {case: judge.http(case, known[forged]) for case in (*GUARDED, *PROXYLESS)}
    assert got == dict.fromkeys(got, 403)
    assert not judge.tcp("tcp-guard", known[forged])
    assert not judge.tcp("tcp-none", known[forged])


@pytest.mark.parametrize("forged", FORGED_OTHER)
def test_a_partner_can_not_pass_for_another_partner_where_envoy_judges(
    judge: Judge, known: dict[str, Issued], forged: str
):
    assert [judge.http(case, known[forged]) for case in GUARDED] == [403, 403]
    assert not judge.tcp("tcp-guard", known[forged])


def test_the_chain_is_judged_by_the_first_id(judge: Judge, known: dict[str, Issued]):
    """So a forger has to put its own ID first, and that one is no secret."""
    with pytest.raises((OSError, IndexError)):
        judge.http("none", known["partner as us first"])


def test_a_common_name_is_no_identity(judge: Judge, known: dict[str, Issued]):
    assert judge.http("exact", known["partner as us by subject"]) == 403
    assert judge.http("namespace", known["partner as shop by subject"]) == 403
    assert judge.http("suffix", known["partner as shop by subject"]) == 403


def test_the_guards_let_honest_peers_in(judge: Judge, known: dict[str, Issued]):
    honest = ("web", "hosted", "partner", "other")
    assert {judge.http(case, known[name]) for case in (*GUARDED, *PROXYLESS) for name in honest} == {200}
    assert all(judge.tcp("tcp-guard", known[name]) for name in honest)


@pytest.mark.parametrize(
    ("case", "passing", "refused"),
    [
        ("tcp-none", [("web", 1), ("partner", 1)], []),
        ("tcp-source", [("web", 1)], [("batch", 1), ("api", 1)]),
        ("tcp-deny", [("batch", 1)], [("web", 1)]),
        ("tcp-port", [("web", 5432)], [("web", 80)]),
        ("tcp-allow-method", [], [("web", 5432)]),
        ("tcp-allow-mixed", [], [("web", 5432)]),
        ("tcp-allow-other-rule", [("web", 1)], [("batch", 1)]),
        ("tcp-deny-method", [("batch", 1)], [("web", 1)]),
        ("tcp-deny-port-and-path", [("web", 80)], [("web", 5432)]),
        ("tcp-dry", [("web", 1)], []),
    ],
)
def test_connections_pass_by_identity_and_port_and_never_by_what_they_do_not_have(
    judge: Judge,
    known: dict[str, Issued],
    case: str,
    passing: list[tuple[str, int]],
    refused: list[tuple[str, int]],
):
    got = {(name, port): judge.tcp(case, known[name], port) for name, port in (*passing, *refused)}
    assert got == {**dict.fromkeys(passing, True), **dict.fromkeys(refused, False)}


@pytest.mark.parametrize(
    ("case", "caller", "counted"),
    [
        ("dry-allow", "batch", {"istio_dry_run_allow_.shadow_allowed"}),
        ("dry-allow", "web", {"istio_dry_run_allow_.shadow_denied"}),
        ("dry-deny", "batch", {"istio_dry_run_deny_.shadow_denied"}),
        ("dry-deny", "web", {"istio_dry_run_deny_.shadow_allowed"}),
        ("dry-both", "web", {"istio_dry_run_allow_.shadow_denied", "istio_dry_run_deny_.shadow_denied"}),
    ],
)
def test_a_dry_run_counts_and_stops_nobody(
    judge: Judge, known: dict[str, Issued], case: str, caller: str, counted: set[str]
):
    pattern = rf"^http\.{re.escape(case)}\.rbac\..*shadow"
    before = judge.stats(pattern)
    assert judge.http(case, known[caller]) == 200
    after = judge.stats(pattern)
    grown = {name for name, value in after.items() if value > before.get(name, 0)}
    assert grown == {f"http.{case}.rbac.{name}" for name in counted}
