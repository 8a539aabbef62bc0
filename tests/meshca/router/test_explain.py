from dataclasses import replace
from typing import Any

import pytest

from meshca.router.explain import Explanation, explain
from meshca.router.mesh.objects import (
    Action,
    AuthorizationPolicy,
    ClientTLS,
    DirectResponse,
    HTTPMatch,
    MatchKind,
    Object,
    Redirect,
    StringMatch,
    TLSMode,
    TrafficPolicy,
)
from meshca.router.mesh.table import build
from meshca.router.request import Asked, holds
from meshca.router.resources.world import Rules, World
from spiffe.id import SpiffeID
from tests.support.routing import (
    OURS,
    account,
    destination_rule,
    endpoint,
    origin,
    rule,
    service,
    subset,
    tcp,
    to,
    virtual,
)

FRONTEND = account("frontend")
V1, V2 = endpoint("10.0.0.1", version="v1"), endpoint("10.0.0.2", version="v2")
API = service("api", V1, V2)
POLICY = AuthorizationPolicy(
    origin=origin("AuthorizationPolicy", "readers"), action=Action.ALLOW, rules=(), selector={"version": "v2"}
)


def explained(*objects: Object, rules: Rules | None = None, **asked: Any) -> Explanation:
    world = World(own=OURS, table=build(objects), rules=rules or Rules())
    return explain(world, [POLICY], Asked(**{"caller": FRONTEND, "host": "api"} | asked))


def test_a_canary_is_told_with_shares_endpoints_and_the_policies_that_hold_there():
    found = explained(API, virtual("api", rule(to("api", "v1", 95), to("api", "v2", 5))))
    assert found.verdict == "goes to outbound|80|v1|api (95 %), outbound|80|v2|api (5 %)"
    assert found.steps == (
        "api is api:80, ServiceEntry default/api (mesh.yaml:1)",
        "its rules: VirtualService default/api (mesh.yaml:5)",
        "spec.http[0] (line 8) matches",
    )
    first, second = found.parts
    assert ([each.address for each in first.endpoints], first.policies) == (["10.0.0.1"], ())
    assert ([each.address for each in second.endpoints], second.policies) == (["10.0.0.2"], (POLICY.origin,))


@pytest.mark.parametrize(("mode", "how"), [(TLSMode.DISABLE, "in plaintext"), (TLSMode.SIMPLE, "by one-sided TLS")])
def test_a_destination_rule_that_gives_up_identities_is_told(mode: TLSMode, how: str):
    found = explained(API, destination_rule("api", policy=TrafficPolicy(tls=ClientTLS(mode=mode))))
    assert found.steps[-1].startswith(f"outbound|80||api is called {how}: ")


EMPTY = destination_rule("api", subset("v3", {"version": "v3"}))
SPECIAL = rule(to("api", "v2"), source_principals=(account("other"),), where="spec.http[0]")


@pytest.mark.parametrize(
    ("objects", "asked", "verdict"),
    [
        ([API], {}, "goes to outbound|80||api (100 %)"),
        ([API], {"host": "nobody"}, "502: no service is called nobody"),
        ([API], {"port": 81}, "502: api has no HTTP port 81, only 80"),
        ([API, virtual("api", rule(to("api")))], {"port": 81}, "502: api has no HTTP port 81, only 80"),
        ([replace(API, ports=(tcp(80),))], {}, "502: api has no HTTP port"),
        ([API, EMPTY, virtual("api", rule(to("api", "v3")))], {}, "503 where nobody is (outbound|80|v3|api)"),
        ([API, virtual("api", SPECIAL, rule(to("api", "v1")))], {}, "goes to outbound|80|v1|api (100 %)"),
        ([API, virtual("api", SPECIAL)], {}, "404: no rule matches"),
        ([API, virtual("api", rule(redirect=Redirect(uri="/x")))], {}, "301: redirected by spec.http[0]"),
        ([API, virtual("api", rule(direct_response=DirectResponse(status=418)))], {}, "418: answered by spec.http[0]"),
        (
            [
                API,
                virtual("www", rule(to("api"))),
            ],
            {"host": "www.default.svc.cluster.local"},
            "goes to outbound|80||api (100 %)",
        ),
    ],
    ids=[
        "plain",
        "unknown",
        "port",
        "port with rules",
        "TCP",
        "empty",
        "for others",
        "no rule",
        "redirect",
        "direct",
        "mere name",
    ],
)
def test_what_becomes_of_a_request_is_said_in_a_sentence(objects: list[Object], asked: dict[str, Any], verdict: str):
    assert explained(*objects, **asked).verdict.startswith(verdict)


def test_who_could_not_be_let_in_is_told_so():
    found = explained(API, rules=Rules(may_call=lambda _caller, _callee: False))
    assert found.verdict == (
        "502: spiffe://mesh.local/ns/default/sa/frontend is not told of api, where no policy could let it in"
    )


def said(kind: MatchKind, value: str) -> StringMatch:
    return StringMatch(kind, value)


@pytest.mark.parametrize(
    ("match", "asked", "expected"),
    [
        (HTTPMatch(), {}, True),
        (HTTPMatch(uri=said(MatchKind.EXACT, "/a")), {"path": "/a?x=1"}, True),
        (HTTPMatch(uri=said(MatchKind.EXACT, "/A")), {"path": "/a"}, False),
        (HTTPMatch(uri=said(MatchKind.PREFIX, "/A"), ignore_uri_case=True), {"path": "/aB"}, True),
        (HTTPMatch(uri=said(MatchKind.PATH_PREFIX, "/a")), {"path": "/ab"}, False),
        (HTTPMatch(uri=said(MatchKind.PATH_PREFIX, "/a/")), {"path": "/a"}, True),
        (HTTPMatch(uri=said(MatchKind.REGEX, "/a+")), {"path": "/aaab"}, False),
        (HTTPMatch(method=said(MatchKind.EXACT, "POST")), {}, False),
        (HTTPMatch(authority=said(MatchKind.SUFFIX, "i")), {}, True),
        (HTTPMatch(scheme=said(MatchKind.EXACT, "https")), {}, False),
        (HTTPMatch(headers=(("X-A", said(MatchKind.PRESENT, "")),)), {"headers": {"x-a": "1"}}, True),
        (HTTPMatch(headers=(("x-a", said(MatchKind.PRESENT, "")),)), {}, False),
        (HTTPMatch(without_headers=(("x-a", said(MatchKind.PRESENT, "")),)), {"headers": {"x-a": "1"}}, False),
        (HTTPMatch(query_params=(("q", said(MatchKind.EXACT, "a b")),)), {"path": "/?q=a%20b"}, True),
        (HTTPMatch(port=81), {}, False),
        (HTTPMatch(source_namespace="prod"), {}, False),
        (HTTPMatch(source_namespace="prod"), {"caller": account("x", "prod")}, True),
        (HTTPMatch(source_namespace="prod"), {"caller": SpiffeID(OURS, "/x")}, False),
    ],
)
def test_conditions_hold_as_they_would_in_envoy(match: HTTPMatch, asked: dict[str, Any], *, expected: bool):
    assert holds(match, Asked(**{"caller": FRONTEND, "host": "api"} | asked), 80) is expected


def test_a_redirected_connection_is_told_by_the_address_that_it_was_going_to():
    db = service("db", V1, ports=(tcp(5432),), addresses=("10.99.0.2",), line=2)
    for host in ("10.99.0.2", "10.0.0.1"):
        found = explained(API, db, host=host, port=5432)
        assert found.verdict == "goes to outbound|5432||db (100 %)"
        assert (
            found.steps[0] == f"redirected to its proxy, {host}:5432 is db:5432, ServiceEntry default/db (mesh.yaml:2)"
        )


def test_what_nobody_is_called_is_refused_and_it_is_told_who_would_pass_it_on():
    found = explained(API, host="10.99.0.2", port=5432)
    assert found.verdict == "502: no service is called 10.99.0.2"
    assert found.steps[-1].startswith(
        "a proxy made with --transparent --pass-unknown sends it on as it is, in plaintext"
    )
