"""VirtualService: what good rules become."""

from datetime import timedelta
from typing import Any

import pytest

from meshca.router.mesh.objects import (
    MILLION,
    Abort,
    Delay,
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
from tests.support.documents import ROUTE, istio, only, rule, warnings

SAMPLE = """\
apiVersion: networking.istio.io/v1alpha3
kind: VirtualService
metadata:
  name: api-server
spec:
  hosts:
  - api-server
  http:
  - route:
    - destination:
        host: api-server
        subset: v1
      weight: 95
    - destination:
        host: api-server
        subset: v2
      weight: 5
"""

A = Destination(host="a")
EXACT, PREFIX, REGEX, PRESENT = MatchKind.EXACT, MatchKind.PREFIX, MatchKind.REGEX, MatchKind.PRESENT


def http_rule(fields: str) -> HTTPRule:
    found = only(rule(fields))
    assert isinstance(found, VirtualService)
    return found.http[0]


def routed(**fields: Any) -> HTTPRule:
    """Return a rule that goes to `a`, and is what else is said."""
    destination = WeightedDestination(destination=A, line=5, where="spec.http[0].route[0]")
    return HTTPRule(line=5, where="spec.http[0]", route=(destination,), **fields)


def matching(**fields: Any) -> HTTPRule:
    return routed(matches=(HTTPMatch(**fields),))


@pytest.mark.parametrize("version", ["v1alpha3", "v1beta1", "v1"])
def test_the_file_that_everybody_starts_with_is_read_as_it_stands(version: str):
    def share(subset: str, weight: int, line: int, number: int) -> WeightedDestination:
        return WeightedDestination(
            destination=Destination(host="api-server", subset=subset),
            weight=weight,
            line=line,
            where=f"spec.http[0].route[{number}]",
        )

    assert only(SAMPLE.replace("v1alpha3", version)) == VirtualService(
        origin=Origin("1.yaml", 1, "VirtualService", "default", "api-server"),
        hosts=("api-server",),
        http=(HTTPRule(line=9, where="spec.http[0]", route=(share("v1", 95, 10, 0), share("v2", 5, 14, 1))),),
    )


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("[]", routed()),
        ("[{}]", matching()),
        ("[{uri: {exact: /a}}]", matching(uri=StringMatch(EXACT, "/a"))),
        ("[{uri: {prefix: /a}}]", matching(uri=StringMatch(PREFIX, "/a"))),
        ("[{uri: {regex: '/a.*'}}]", matching(uri=StringMatch(REGEX, "/a.*"))),
        ("[{uri: {prefix: /a}, ignoreUriCase: true}]", matching(uri=StringMatch(PREFIX, "/a"), ignore_uri_case=True)),
        ("[{uri: {prefix: /a}, ignore_uri_case: yes}]", matching(uri=StringMatch(PREFIX, "/a"), ignore_uri_case=True)),
        ("[{method: {exact: GET}}]", matching(method=StringMatch(EXACT, "GET"))),
        ("[{method: {regex: GET|PUT}}]", matching(method=StringMatch(REGEX, "GET|PUT"))),
        ("[{authority: {exact: A.b}}]", matching(authority=StringMatch(EXACT, "A.b"))),
        ("[{scheme: {exact: https}}]", matching(scheme=StringMatch(EXACT, "https"))),
        ("[{headers: {X-A: {exact: b}}}]", matching(headers=(("x-a", StringMatch(EXACT, "b")),))),
        ("[{headers: {x-a: {exact: ''}}}]", matching(headers=(("x-a", StringMatch(EXACT, "")),))),
        ("[{headers: {x-a: {}}}]", matching(headers=(("x-a", StringMatch(PRESENT)),))),
        ("[{withoutHeaders: {x-a: {prefix: b}}}]", matching(without_headers=(("x-a", StringMatch(PREFIX, "b")),))),
        ("[{without_headers: {x_a: {}}}]", matching(without_headers=(("x_a", StringMatch(PRESENT)),))),
        ("[{queryParams: {q: {regex: 'a+'}}}]", matching(query_params=(("q", StringMatch(REGEX, "a+")),))),
        ("[{port: 80}]", matching(port=80)),
        ("[{sourceNamespace: shop}]", matching(source_namespace="shop")),
        ("[{gateways: [mesh]}]", matching()),
        (
            "[{method: {exact: GET}}, {port: 80}]",
            routed(matches=(HTTPMatch(method=StringMatch(EXACT, "GET")), HTTPMatch(port=80))),
        ),
    ],
)
def test_a_match_says_which_requests_a_rule_is_for(written: str, expected: HTTPRule):
    assert http_rule(f"match: {written}, {ROUTE}") == expected


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("name: first", routed(name="first")),
        ("timeout: 1.5s", routed(timeout=timedelta(seconds=1.5))),
        ("timeout: 0s", routed(timeout=timedelta(0))),
        ("timeout: 1h1m1s1ms", routed(timeout=timedelta(hours=1, minutes=1, seconds=1, milliseconds=1))),
        ("timeout: 1000000000ns", routed(timeout=timedelta(seconds=1))),
        ("timeout: ~", routed()),
        ("retries: {}", routed(retries=Retries(attempts=0))),
        ("retries: {attempts: 3}", routed(retries=Retries(attempts=3))),
        (
            "retries: {attempts: 3, perTryTimeout: 2s, retryOn: '5xx, 503,cancelled', backoff: 25ms}",
            routed(
                retries=Retries(
                    attempts=3,
                    per_try_timeout=timedelta(seconds=2),
                    retry_on=("5xx", "503", "cancelled"),
                    backoff=timedelta(milliseconds=25),
                )
            ),
        ),
        (
            "retries: {attempts: 1, per_try_timeout: 0s, retryIgnorePreviousHosts: false, retryRemoteLocalities: false}",
            routed(retries=Retries(attempts=1, ignore_previous_hosts=False)),
        ),
        (
            "fault: {delay: {fixedDelay: 5s, percentage: {value: 0.1}}}",
            routed(delay=Delay(fixed=timedelta(seconds=5), share=1000)),
        ),
        (
            "fault: {abort: {httpStatus: 503, percentage: {value: 100}}}",
            routed(abort=Abort(http_status=503, share=MILLION)),
        ),
        (
            "fault: {abort: {grpcStatus: UNAVAILABLE, percentage: {value: 0.0001}}}",
            routed(abort=Abort(grpc_status="UNAVAILABLE", share=1)),
        ),
        ("rewrite: {uri: /b}", routed(rewrite=Rewrite(uri="/b"))),
        ("rewrite: {authority: 'b:80'}", routed(rewrite=Rewrite(authority="b:80"))),
        (
            r"rewrite: {uriRegexRewrite: {match: '^/a/(.*)', rewrite: '/b/\1'}}",
            routed(rewrite=Rewrite(regex="^/a/(.*)", substitution=r"/b/\1")),
        ),
        ("mirror: {host: b}", routed(mirrors=(Mirror(destination=Destination(host="b"), line=5, where="spec.http[0].mirror"),))),
        (
            "mirror: {host: b, subset: v1, port: {number: 80}}, mirrorPercentage: {value: 50}",
            routed(
                mirrors=(
                    Mirror(
                        destination=Destination(host="b", subset="v1", port=80),
                        share=MILLION // 2,
                        line=5,
                        where="spec.http[0].mirror",
                    ),
                )
            ),
        ),
        (
            "mirrors: [{destination: {host: b}}, {destination: {host: c}, percentage: {value: 0}}]",
            routed(
                mirrors=(
                    Mirror(destination=Destination(host="b"), line=5, where="spec.http[0].mirrors[0]"),
                    Mirror(destination=Destination(host="c"), share=0, line=5, where="spec.http[0].mirrors[1]"),
                )
            ),
        ),
        (
            "headers: {request: {set: {X-A: b}, add: {x-c: d}, remove: [X-E]}, response: {remove: [x-f]}}",
            routed(
                request_headers=HeaderOperations(set=(("x-a", "b"),), add=(("x-c", "d"),), remove=("x-e",)),
                response_headers=HeaderOperations(remove=("x-f",)),
            ),
        ),
        ("headers: {request: {set: {Host: b}}}", routed(rewrite=Rewrite(authority="b"))),
        (
            "headers: {request: {set: {':authority': b}}}, rewrite: {uri: /c}",
            routed(rewrite=Rewrite(uri="/c", authority="b")),
        ),
    ],
)  # fmt: skip
def test_a_rule_says_what_happens_on_the_way(written: str, expected: HTTPRule):
    assert http_rule(f"{ROUTE}, {written}") == expected


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("redirect: {uri: '/b?c=d'}", Redirect(uri="/b?c=d")),
        ("redirect: {authority: b.example, redirectCode: 308}", Redirect(authority="b.example", code=308)),
        ("redirect: {scheme: https, port: 8443}", Redirect(scheme="https", port=8443)),
        ("redirect: {authority: b, derivePort: FROM_REQUEST_PORT}", Redirect(authority="b", keep_port=True)),
        ("redirect: {authority: b, derivePort: FROM_PROTOCOL_DEFAULT}", Redirect(authority="b")),
        ("redirect: {prefix_rewrite: /b}", Redirect(prefix="/b")),
        ("directResponse: {status: 503}", DirectResponse(status=503)),
        ("directResponse: {status: 200, body: {string: über}}", DirectResponse(status=200, body="über".encode())),
        ("directResponse: {status: 200, body: {bytes: AAE=}}", DirectResponse(status=200, body=b"\0\1")),
    ],
)
def test_a_rule_may_answer_by_itself(written: str, expected: Redirect | DirectResponse):
    found = http_rule(written)
    assert (found.redirect or found.direct_response, found.route) == (expected, ())


def test_a_share_has_headers_and_an_authority_of_its_own_and_none_is_no_weight():
    found = http_rule(
        "route: [{destination: {host: A.example}, weight: 1, headers: {request: {set: {host: c}}, response: {add: {x-d: e}}}},"
        " {destination: {host: b}, weight: 0}]"
    )
    assert found.route == (
        WeightedDestination(
            destination=Destination(host="a.example"),
            weight=1,
            response_headers=HeaderOperations(add=(("x-d", "e"),)),
            authority="c",
            line=5,
            where="spec.http[0].route[0]",
        ),
        WeightedDestination(destination=Destination(host="b"), weight=0, line=5, where="spec.http[0].route[1]"),
    )


def test_one_share_alone_keeps_its_weight_if_it_has_one():
    assert http_rule("route: [{destination: {host: a}, weight: 7}]").route[0].weight == 7
    assert http_rule(ROUTE).route[0].weight is None


def test_hosts_are_names_or_wildcards_in_lower_case():
    found = only(
        istio("VirtualService", f"{{hosts: [A, b.c, '*.d'], http: [{{{ROUTE}}}], gateways: [mesh], exportTo: ['*']}}")
    )
    assert isinstance(found, VirtualService)
    assert found.hosts == ("a", "b.c", "*.d")


def test_an_annotation_limits_the_rules_to_callers():
    metadata = (
        "name: a, annotations: {meshca.dev/source-principals: 'spiffe://example.org/a, spiffe://b.example/c', x: y}"
    )
    found = only(istio("VirtualService", f"{{hosts: [a], http: [{{{ROUTE}}}]}}", metadata=metadata))
    assert isinstance(found, VirtualService)
    callers = (SpiffeID.parse("spiffe://example.org/a"), SpiffeID.parse("spiffe://b.example/c"))
    assert found.http[0].source_principals == callers


def test_what_a_cluster_adds_to_an_object_changes_nothing():
    metadata = (
        "name: a, namespace: b, uid: x, creationTimestamp: ~, managedFields: [{a: b}], labels: {c: d}, annotations: ~"
    )
    found = only(istio("VirtualService", f"{{hosts: [a], http: [{{{ROUTE}}}]}}\nstatus: {{a: b}}", metadata=metadata))
    assert found.origin == Origin("1.yaml", 1, "VirtualService", "b", "a")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (f"fault: {{delay: {{fixedDelay: 5s}}}}, {ROUTE}", "fault.delay.percentage: without a percentage no request is affected"),
        (f"fault: {{abort: {{httpStatus: 503}}}}, {ROUTE}", "fault.abort.percentage: without a percentage no request is affected"),
        (
            "route: [{destination: {host: a}, weight: 1}, {destination: {host: b}}]",
            "route[1].weight: of several destinations this one has no weight: nothing goes there",
        ),
        (f"match: [{{ignoreUriCase: true}}], {ROUTE}", "match[0].ignoreUriCase: has no effect without an exact or prefix match of the uri"),
        (
            f"match: [{{uri: {{regex: a}}, ignoreUriCase: true}}], {ROUTE}",
            "match[0].ignoreUriCase: has no effect without an exact or prefix match of the uri",
        ),
        ("redirect: {uri: /b}, timeout: 1s", "timeout: has no effect beside redirect"),
        ("directResponse: {status: 503}, retries: {attempts: 1}", "retries: has no effect beside directResponse"),
        (
            f"retries: {{attempts: 1, retryRemoteLocalities: true}}, {ROUTE}",
            "retries.retryRemoteLocalities: has no effect: meshca knows no localities",
        ),
        (
            f"{ROUTE}}}, {{{ROUTE}",
            "match: without a match it takes all requests: the rules below are never reached",
        ),
    ],
)  # fmt: skip
def test_what_is_hardly_meant_so_is_told_but_used(fields: str, expected: str):
    assert warnings(rule(fields)) == [f"1.yaml:5: VirtualService default/a: spec.http[0].{expected}"]
