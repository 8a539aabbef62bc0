"""PeerAuthentication, AuthorizationPolicy and Telemetry: what good ones become."""

from typing import Any

import pytest

from meshca.router.mesh.objects import (
    MILLION,
    Action,
    AuthorizationPolicy,
    MTLSMode,
    Object,
    Operation,
    Origin,
    PeerAuthentication,
    PolicyRule,
    Source,
    Telemetry,
)
from tests.support.documents import istio, only, read, warnings

SELECTOR = "selector: {matchLabels: {app: a}}"
APP = {"app": "a"}


def peer(**fields: Any) -> PeerAuthentication:
    return PeerAuthentication(origin=Origin("1.yaml", 1, "PeerAuthentication", "default", "a"), **fields)


def policy(*rules: PolicyRule, action: Action = Action.ALLOW, **fields: Any) -> AuthorizationPolicy:
    place = Origin("1.yaml", 1, "AuthorizationPolicy", "default", "a")
    return AuthorizationPolicy(origin=place, action=action, rules=rules, **fields)


def telemetry(**fields: Any) -> Telemetry:
    return Telemetry(origin=Origin("1.yaml", 1, "Telemetry", "default", "a"), **fields)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("{}", peer()),
        ("{mtls: {mode: STRICT}}", peer(mode=MTLSMode.STRICT)),
        ("{mtls: {mode: UNSET}}", peer()),
        ("{mtls: {}}", peer()),
        (
            f"{{{SELECTOR}, mtls: {{mode: PERMISSIVE}}, portLevelMtls: {{8080: {{mode: DISABLE}}, '9090': {{mode: UNSET}}}}}}",
            peer(selector=APP, mode=MTLSMode.PERMISSIVE, port_modes={8080: MTLSMode.DISABLE}),
        ),
        (
            "\n    selector:\n      match_labels: {app: a}\n    port_level_mtls:\n      8080:\n        mode: STRICT",
            peer(selector=APP, port_modes={8080: MTLSMode.STRICT}),
        ),
    ],
)
def test_a_peer_authentication_is_read(spec: str, expected: Object):
    assert only(istio("PeerAuthentication", spec)) == expected


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("{}", policy()),
        ("{action: ALLOW, rules: []}", policy()),
        ("{action: DENY, rules: [{}]}", policy(PolicyRule(), action=Action.DENY)),
        (f"{{{SELECTOR}, rules: [{{}}]}}", policy(PolicyRule(), selector=APP)),
        (
            "{rules: [{from: [{source: {principals: ['*', 'a.b/ns/c/sa/d', 'spiffe://a.b/x', 'spiffe://a.b/*', '*/sa/e']}}]}]}",
            policy(
                PolicyRule(
                    sources=(
                        Source(principals=("*", "a.b/ns/c/sa/d", "spiffe://a.b/x", "spiffe://a.b/*", "*/sa/e")),
                    )
                )
            ),
        ),
        (
            ("{rules: [{from: [{source: {notPrincipals: [a/b], namespaces: [a, 'b*'], not_namespaces: ['*c'], serviceAccounts: [d, e/f],"
            " notServiceAccounts: [g], trustDomains: [h.i], notTrustDomains: ['*.j']}}, {source: {namespaces: [k]}}]}]}"),
            policy(
                PolicyRule(
                    sources=(
                        Source(
                            not_principals=("a/b",),
                            namespaces=("a", "b*"),
                            not_namespaces=("*c",),
                            service_accounts=("d", "e/f"),
                            not_service_accounts=("g",),
                            trust_domains=("h.i",),
                            not_trust_domains=("*.j",),
                        ),
                        Source(namespaces=("k",)),
                    )
                )
            ),
        ),
        (
            ("{rules: [{to: [{operation: {hosts: ['*.a'], notHosts: [b], ports: ['80'], notPorts: ['65535'], methods: [GET, 'P*', '*'],"
            " not_methods: [PUT], paths: [/a, '/b*', '*c', '*', '/d/{*}/e/{**}'], notPaths: [/f]}}]}]}"),
            policy(
                PolicyRule(
                    operations=(
                        Operation(
                            hosts=("*.a",),
                            not_hosts=("b",),
                            ports=(80,),
                            not_ports=(65535,),
                            methods=("GET", "P*", "*"),
                            not_methods=("PUT",),
                            paths=("/a", "/b*", "*c", "*", "/d/{*}/e/{**}"),
                            not_paths=("/f",),
                        ),
                    )
                )
            ),
        ),
        (
            "{rules: [{from: [{source: {namespaces: [a]}}], to: [{operation: {methods: [GET]}}]}, {to: [{operation: {ports: ['1']}}]}]}",
            policy(
                PolicyRule(sources=(Source(namespaces=("a",)),), operations=(Operation(methods=("GET",)),)),
                PolicyRule(operations=(Operation(ports=(1,)),)),
            ),
        ),
    ],
)  # fmt: skip
def test_an_authorization_policy_is_read(spec: str, expected: Object):
    assert only(istio("AuthorizationPolicy", spec)) == expected


@pytest.mark.parametrize(("written", "dry_run"), [("true", True), ("false", False)])
def test_a_dry_run_is_an_annotation(written: str, dry_run: bool):
    metadata = f"name: a, annotations: {{istio.io/dry-run: '{written}'}}"
    assert only(istio("AuthorizationPolicy", "{}", metadata=metadata)) == policy(dry_run=dry_run)


@pytest.mark.parametrize("field", ["principals", "notPrincipals"])
def test_a_principal_of_istio_s_usual_trust_domain_is_odd_here(field: str):
    spec = f"{{rules: [{{from: [{{source: {{{field}: [cluster.local/ns/a/sa/b]}}}}]}}]}}"
    assert warnings(istio("AuthorizationPolicy", spec)) == [
        (
            f"1.yaml:5: AuthorizationPolicy default/a: spec.rules[0].from[0].source.{field}: "
            "cluster.local is a trust domain like any other here; ours is example.org"
        )
    ]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("{}", telemetry()),
        (
            f"{{{SELECTOR}, tracing: [{{randomSamplingPercentage: 1}}]}}",
            telemetry(selector=APP, sampling=MILLION // 100),
        ),
        ("{tracing: [{random_sampling_percentage: 100.0}]}", telemetry(sampling=MILLION)),
        ("{tracing: [{randomSamplingPercentage: 0}]}", telemetry(sampling=0)),
        ("{tracing: [{disableSpanReporting: true}]}", telemetry(tracing=False)),
        ("{tracing: [{disableSpanReporting: false}]}", telemetry(tracing=True)),
        (
            "{tracing: [{customTags: {b: {literal: {value: c}}, a: {literal: {value: '1'}}}}]}",
            telemetry(tags=(("b", "c"), ("a", "1"))),
        ),
        (
            "{tracing: [{customTags: {a: {header: {name: X-A}}, b: {formatter: {value: '%ROUTE_NAME%'}}, c: {literal: {value: 5%}}}}]}",
            telemetry(tags=(("a", "%REQ(x-a)%"), ("b", "%ROUTE_NAME%"), ("c", "5%%"))),
        ),
        ("{tracing: [{providers: [{name: Otel}]}]}", telemetry(collector="otel")),
        ("{tracing: [{providers: [{name: 'otel.ops:4317'}]}]}", telemetry(collector="otel.ops", collector_port=4317)),
        ("{accessLogging: [{}]}", telemetry(client_log=True, server_log=True)),
        ("{accessLogging: [{providers: [{name: envoy}]}]}", telemetry(client_log=True, server_log=True)),
        ("{accessLogging: [{disabled: true}]}", telemetry(client_log=False, server_log=False)),
        ("{accessLogging: [{match: {mode: SERVER}}]}", telemetry(server_log=True)),
        (
            "{accessLogging: [{match: {mode: CLIENT}, disabled: true}, {match: {mode: SERVER}}]}",
            telemetry(client_log=False, server_log=True),
        ),
        ("{metrics: [{}]}", telemetry(metrics=True)),
        ("{metrics: [{providers: [{name: prometheus}], overrides: [{disabled: true}]}]}", telemetry(metrics=False)),
    ],
)
def test_a_telemetry_is_read(spec: str, expected: Object):
    assert only(istio("Telemetry", spec)) == expected


@pytest.mark.parametrize(
    "value",
    ["%REQ(:PATH)%", "%PATH%", "%QUERY_PARAM(access_token)%", "%REQ(x-api-key)%", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"],
)
def test_what_may_hold_a_token_is_no_tag_of_a_span(value: str):
    (problem,) = read(
        istio("Telemetry", f"{{tracing: [{{customTags: {{a: {{formatter: {{value: '{value}'}}}}}}}}]}}")
    ).problems
    assert "no place in a trace" in problem.text
