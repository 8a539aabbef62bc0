"""HTTPRoute and GRPCRoute with a Service as parent: what good ones become."""

from datetime import timedelta
from typing import Any

import pytest

from meshca.router.mesh.objects import (
    MILLION,
    Destination,
    DirectResponse,
    HeaderOperations,
    HTTPMatch,
    HTTPRule,
    MatchKind,
    Mirror,
    Origin,
    Redirect,
    Retries,
    Rewrite,
    StringMatch,
    VirtualService,
    WeightedDestination,
)
from spiffe.id import SpiffeID
from tests.support.documents import gateway, only

PARENT = "parentRefs: [{kind: Service, group: '', name: a}]"
BACKEND = "backendRefs: [{name: b, port: 80}]"
B = Destination(host="b", port=80)
EXACT, PREFIX, REGEX, PATH_PREFIX = MatchKind.EXACT, MatchKind.PREFIX, MatchKind.REGEX, MatchKind.PATH_PREFIX


def rules(
    fields: str, *, kind: str = "HTTPRoute", parent: str = PARENT, metadata: str = "name: a"
) -> tuple[HTTPRule, ...]:
    found = only(gateway(kind, f"{{{parent}, rules: [{fields}]}}", metadata=metadata))
    assert isinstance(found, VirtualService)
    return found.http


def matches(fields: str, **how: str) -> list[HTTPMatch]:
    """Return the one match of each rule, in order."""
    return [match for rule in rules(f"{{{fields}, {BACKEND}}}", **how) for match in rule.matches]


def to_b(**fields: Any) -> HTTPRule:
    share = WeightedDestination(destination=B, weight=1, line=5, where="spec.rules[0].backendRefs[0]")
    return HTTPRule(line=5, where="spec.rules[0]", route=(share,), **fields)


@pytest.mark.parametrize(
    ("kind", "version"), [("HTTPRoute", "v1"), ("HTTPRoute", "v1beta1"), ("GRPCRoute", "v1alpha2")]
)
def test_a_route_of_a_service_becomes_a_virtual_service_of_that_host(kind: str, version: str):
    parents = (
        "parentRefs: [{kind: Service, group: '', name: a}, {kind: Service, group: core, name: c, namespace: default}]"
    )
    text = gateway(kind, f"{{{parents}, rules: [{{{BACKEND}}}]}}").replace("k8s.io/v1", f"k8s.io/{version}")
    assert only(text) == VirtualService(
        origin=Origin("1.yaml", 1, kind, "default", "a"), hosts=("a", "c"), http=(to_b(),)
    )


def test_an_annotation_limits_these_rules_to_callers_too():
    metadata = "name: a, annotations: {meshca.dev/source-principals: spiffe://example.org/a}"
    (rule,) = rules(f"{{{BACKEND}}}", metadata=metadata)
    assert rule.source_principals == (SpiffeID.parse("spiffe://example.org/a"),)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("{path: {type: Exact, value: /a}}", HTTPMatch(uri=StringMatch(EXACT, "/a"))),
        ("{path: {type: PathPrefix, value: /a/}}", HTTPMatch(uri=StringMatch(PATH_PREFIX, "/a"))),
        ("{path: {type: RegularExpression, value: '/a.*'}}", HTTPMatch(uri=StringMatch(REGEX, "/a.*"))),
        ("{path: {value: /a}}", HTTPMatch(uri=StringMatch(PATH_PREFIX, "/a"))),
        ("{path: {value: /}, method: GET}", HTTPMatch(method=StringMatch(EXACT, "GET"))),
        ("{headers: [{name: X-A, value: b}]}", HTTPMatch(headers=(("x-a", StringMatch(EXACT, "b")),))),
        (
            "{headers: [{name: a, type: RegularExpression, value: b+}]}",
            HTTPMatch(headers=(("a", StringMatch(REGEX, "b+")),)),
        ),
        ("{queryParams: [{name: Q, value: b}]}", HTTPMatch(query_params=(("Q", StringMatch(EXACT, "b")),))),
    ],
)
def test_a_match_of_an_http_route_is_read(written: str, expected: HTTPMatch):
    assert matches(f"matches: [{written}]") == [expected]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("{method: {service: a.B, method: C}}", HTTPMatch(uri=StringMatch(EXACT, "/a.B/C"))),
        ("{method: {service: a.B}}", HTTPMatch(uri=StringMatch(PREFIX, "/a.B/"))),
        ("{method: {method: C}}", HTTPMatch(uri=StringMatch(REGEX, "/[^/]+/C"))),
        (
            "{method: {type: RegularExpression, service: 'a|b', method: C.*}}",
            HTTPMatch(uri=StringMatch(REGEX, "/(?:a|b)/(?:C.*)")),
        ),
        ("{method: {type: RegularExpression, service: a}}", HTTPMatch(uri=StringMatch(REGEX, "/(?:a)/[^/]+"))),
        ("{headers: [{name: a, value: b}]}", HTTPMatch(headers=(("a", StringMatch(EXACT, "b")),))),
    ],
)
def test_a_match_of_a_grpc_route_is_read(written: str, expected: HTTPMatch):
    assert matches(f"matches: [{written}]", kind="GRPCRoute") == [expected]


def test_matches_of_an_http_route_are_tried_in_the_order_of_the_specification():
    in_order = [
        "{path: {type: Exact, value: /long}}",
        "{path: {type: Exact, value: /a}, method: GET}",
        "{path: {type: Exact, value: /a}}",
        "{path: {type: RegularExpression, value: /}}",
        "{path: {value: /a/b}}",
        "{path: {value: /a}, method: GET}",
        "{path: {value: /a}, headers: [{name: a, value: b}, {name: c, value: d}]}",
        "{path: {value: /a}, headers: [{name: a, value: b}], queryParams: [{name: a, value: b}]}",
        "{path: {value: /a}, headers: [{name: a, value: b}]}",
        "{path: {value: /a}, queryParams: [{name: a, value: b}, {name: b, value: b}]}",
        "{path: {value: /b}}",
        "{method: GET}",
    ]
    backwards = ", ".join(reversed(in_order))
    assert matches(f"matches: [{backwards}]") == [match for each in in_order for match in matches(f"matches: [{each}]")]


def test_matches_of_a_grpc_route_are_tried_in_the_order_of_the_specification():
    in_order = [
        "{method: {service: abc, method: D}}",
        "{method: {service: abc}}",
        "{method: {service: ab, method: De}}",
        "{method: {service: ab, method: D}, headers: [{name: a, value: b}]}",
        "{method: {service: ab, method: D}}",
        "{method: {method: Def}}",
        "{headers: [{name: a, value: b}]}",
    ]
    backwards = ", ".join(reversed(in_order))
    each = [match for one in in_order for match in matches(f"matches: [{one}]", kind="GRPCRoute")]
    assert matches(f"matches: [{backwards}]", kind="GRPCRoute") == each


def test_equal_matches_stay_in_the_order_in_which_they_are_written():
    found = rules(
        f"{{name: first, {BACKEND}}}, {{name: second, {BACKEND}, matches: [{{path: {{value: /}}}}]}}, {{name: third, {BACKEND}}}"
    )
    assert [rule.name for rule in found] == ["first", "second", "third"]


def test_ports_of_parents_become_matches():
    parent = (
        "parentRefs: [{kind: Service, group: '', name: a, port: 80}, {kind: Service, group: '', name: a, port: 81}]"
    )
    assert matches("matches: [{method: GET}]", parent=parent) == [
        HTTPMatch(method=StringMatch(EXACT, "GET"), port=80),
        HTTPMatch(method=StringMatch(EXACT, "GET"), port=81),
    ]
    assert matches("matches: []", parent=parent) == [HTTPMatch(port=80), HTTPMatch(port=81)]


def test_backends_have_weights_and_headers_of_their_own():
    filters = "filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-A, value: 50%}], remove: [x-b]}}]"
    (rule,) = rules(
        f"{{backendRefs: [{{name: b, port: 80, weight: 3, {filters}}}, {{name: c, port: 81, weight: 0, kind: Service, group: ''}}]}}"
    )
    assert rule.route == (
        WeightedDestination(
            destination=B,
            weight=3,
            request_headers=HeaderOperations(set=(("x-a", "50%%"),), remove=("x-b",)),
            line=5,
            where="spec.rules[0].backendRefs[0]",
        ),
        WeightedDestination(
            destination=Destination(host="c", port=81), weight=0, line=5, where="spec.rules[0].backendRefs[1]"
        ),
    )


@pytest.mark.parametrize(
    "written",
    ["name: x", "backendRefs: []", "backendRefs: [{name: b, port: 80, weight: 0}]"],
    ids=["absent", "none", "zero"],
)
@pytest.mark.parametrize("kind", ["HTTPRoute", "GRPCRoute"])
def test_without_anywhere_to_go_the_answer_is_500(written: str, kind: str):
    (rule,) = rules(f"{{{written}}}", kind=kind)
    assert (rule.route, rule.direct_response) == ((), DirectResponse(status=500))


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("timeouts: {request: 10s}", to_b(timeout=timedelta(seconds=10))),
        (
            "timeouts: {request: 0s, backendRequest: 2s}",
            to_b(timeout=timedelta(0), retries=Retries(attempts=2, per_try_timeout=timedelta(seconds=2))),
        ),
        ("timeouts: {backendRequest: 0s}", to_b()),
        (
            "retry: {codes: [500, 503], attempts: 3, backoff: 100ms}, timeouts: {request: 2s, backendRequest: 2s}",
            to_b(
                timeout=timedelta(seconds=2),
                retries=Retries(
                    attempts=3,
                    per_try_timeout=timedelta(seconds=2),
                    retry_on=("connect-failure", "refused-stream", "unavailable", "cancelled", "500", "503"),
                    backoff=timedelta(milliseconds=100),
                ),
            ),
        ),
        (
            "retry: {}",
            to_b(retries=Retries(attempts=2, retry_on=("connect-failure", "refused-stream", "unavailable", "cancelled"))),
        ),
        (
            ("filters: [{type: RequestHeaderModifier, requestHeaderModifier: {add: [{name: a, value: b}]}},"
            " {type: ResponseHeaderModifier, responseHeaderModifier: {remove: [c]}}]"),
            to_b(request_headers=HeaderOperations(add=(("a", "b"),)), response_headers=HeaderOperations(remove=("c",))),
        ),
        ("filters: [{type: URLRewrite, urlRewrite: {hostname: c.example}}]", to_b(rewrite=Rewrite(authority="c.example"))),
        (
            "filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /c}}}]",
            to_b(rewrite=Rewrite(full_path="/c")),
        ),
        (
            ("filters: [{type: RequestMirror, requestMirror: {backendRef: {name: c, port: 1}}},"
            " {type: RequestMirror, requestMirror: {backendRef: {name: d, port: 2}, percent: 5}},"
            " {type: RequestMirror, requestMirror: {backendRef: {name: e, port: 3}, fraction: {numerator: 1}}},"
            " {type: RequestMirror, requestMirror: {backendRef: {name: f, port: 4}, fraction: {numerator: 1, denominator: 3}}}]"),
            to_b(
                mirrors=tuple(
                    Mirror(
                        destination=Destination(host=host, port=number + 1),
                        share=share,
                        line=5,
                        where=f"spec.rules[0].filters[{number}].requestMirror",
                    )
                    for number, (host, share) in enumerate(
                        [("c", MILLION), ("d", MILLION // 20), ("e", MILLION // 100), ("f", MILLION // 3)]
                    )
                )
            ),
        ),
    ],
)  # fmt: skip
def test_a_rule_says_what_happens_on_the_way(written: str, expected: HTTPRule):
    assert rules(f"{{{BACKEND}, {written}}}") == (expected,)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("{scheme: https}", Redirect(scheme="https", code=302)),
        ("{hostname: b.example, statusCode: 301}", Redirect(authority="b.example", keep_port=True)),
        ("{port: 8443}", Redirect(port=8443, code=302)),
        ("{path: {type: ReplaceFullPath, replaceFullPath: /b}}", Redirect(uri="/b", keep_port=True, code=302)),
        (
            "{path: {type: ReplacePrefixMatch, replacePrefixMatch: /b}}",
            Redirect(prefix="/b/", keep_port=True, code=302),
        ),
    ],
)
def test_a_rule_may_redirect(written: str, expected: Redirect):
    (rule,) = rules(f"{{filters: [{{type: RequestRedirect, requestRedirect: {written}}}]}}")
    assert (rule.redirect, rule.route, rule.direct_response) == (expected, (), None)


def replaced(prefix: str, replacement: str) -> list[tuple[StringMatch | None, Rewrite | None]]:
    """Return what the rules match, and what they do to it."""
    path = f"{{type: ReplacePrefixMatch, replacePrefixMatch: '{replacement}'}}"
    found = rules(
        f"{{{BACKEND}, matches: [{{path: {{value: {prefix}}}}}], filters: [{{type: URLRewrite, urlRewrite: {{path: {path}}}}}]}}"
    )
    return [(rule.matches[0].uri if rule.matches else None, rule.rewrite) for rule in found]


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_matched_prefix_is_replaced_with_regard_to_slashes(slash: str):
    foo = StringMatch(PATH_PREFIX, "/foo")
    assert replaced(f"/foo{slash}", f"/xyz{slash}") == [(foo, Rewrite(uri="/xyz"))]
    assert replaced(f"/foo{slash}", slash) == [
        (StringMatch(EXACT, "/foo"), Rewrite(full_path="/")),
        (StringMatch(PREFIX, "/foo/"), Rewrite(uri="/")),
    ]
    assert replaced("/", f"/xyz{slash}") == [(None, Rewrite(uri="/xyz/"))]
    assert replaced("/", slash) == [(None, None)]
