"""ServiceEntry, WorkloadEntry and DestinationRule: what good ones become."""

from datetime import timedelta
from typing import Any

import pytest

from meshca.router.mesh.objects import (
    ClientTLS,
    DestinationRule,
    LoadBalancer,
    Origin,
    OutlierDetection,
    Protocol,
    Resolution,
    RetryBudget,
    ServiceEntry,
    ServicePort,
    Subset,
    TLSMode,
    TrafficPolicy,
    WorkloadEndpoint,
    WorkloadEntry,
)
from spiffe.id import SpiffeID
from tests.support.documents import istio, only, warnings

PORTS = "ports: [{number: 80, name: http, protocol: HTTP}]"
HTTP = ServicePort(number=80, name="http", protocol=Protocol.HTTP)
REVIEWS = SpiffeID.parse("spiffe://example.org/ns/default/sa/reviews")


def origin(kind: str, namespace: str = "default") -> Origin:
    return Origin("1.yaml", 1, kind, namespace, "a")


def endpoint(address: str, number: int = 0, **fields: Any) -> WorkloadEndpoint:
    return WorkloadEndpoint(address=address, line=5, where=f"spec.endpoints[{number}]", **fields)


def entry(**fields: Any) -> ServiceEntry:
    usual = {"hosts": ("a",), "ports": (HTTP,), "resolution": Resolution.STATIC, "external": True}
    return ServiceEntry(origin=origin("ServiceEntry"), **(usual | fields))


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (
            f"{{hosts: [a], {PORTS}, resolution: STATIC, endpoints: [{{address: 10.0.0.1}}, {{address: '2001:DB8::0'}}]}}",
            entry(endpoints=(endpoint("10.0.0.1"), endpoint("2001:db8::", 1))),
        ),
        (
            ("{hosts: [A, '*.b'], ports: [{number: 443, name: s, protocol: https, targetPort: 8443}, {number: 9, name: g, protocol: grpc}],"
            " resolution: STATIC, endpoints: [{address: 10.0.0.1, ports: {s: 8444}}], addresses: [10.9.0.1], exportTo: ['*']}"),
            entry(
                hosts=("a", "*.b"),
                ports=(
                    ServicePort(number=443, name="s", protocol=Protocol.TLS, target_port=8443),
                    ServicePort(number=9, name="g", protocol=Protocol.GRPC),
                ),
                addresses=("10.9.0.1",),
                endpoints=(endpoint("10.0.0.1", ports={"s": 8444}),),
            ),
        ),
        (f"{{hosts: [a.example], {PORTS}, resolution: DNS}}", entry(hosts=("a.example",), resolution=Resolution.DNS)),
        (
            f"{{hosts: ['*.a'], {PORTS}, resolution: DNS, endpoints: [{{address: B.example}}, {{address: '::1'}}]}}",
            entry(hosts=("*.a",), resolution=Resolution.DNS, endpoints=(endpoint("b.example"), endpoint("::1", 1))),
        ),
        (
            f"{{hosts: [a], {PORTS}, resolution: STATIC, location: MESH_INTERNAL, workloadSelector: {{labels: {{app: a}}}}}}",
            entry(external=False, workload_selector={"app": "a"}),
        ),
        (
            (f"{{hosts: [a], {PORTS}, resolution: STATIC, location: MESH_INTERNAL, subject_alt_names: ['spiffe://b.example/x'],"
            " endpoints: [{address: 10.0.0.1, labels: {version: v1, a.b/c: ''}, weight: 3, service_account: reviews}]}"),
            entry(
                external=False,
                subject_alt_names=("spiffe://b.example/x",),
                endpoints=(
                    endpoint("10.0.0.1", labels={"version": "v1", "a.b/c": ""}, weight=3, spiffe_id=REVIEWS),
                ),
            ),
        ),
        (
            (f"{{hosts: [a], {PORTS}, resolution: STATIC, location: MESH_EXTERNAL, subjectAltNames: [a.example],"
            " endpoints: [{address: 10.0.0.1}]}"),
            entry(subject_alt_names=("a.example",), endpoints=(endpoint("10.0.0.1"),)),
        ),
    ],
)  # fmt: skip
def test_a_service_entry_is_read(spec: str, expected: ServiceEntry):
    assert only(istio("ServiceEntry", spec)) == expected


def test_a_service_with_identities_but_no_location_is_odd_since_it_is_outside_of_the_mesh():
    spec = f"{{hosts: [a], {PORTS}, resolution: STATIC, endpoints: [{{address: 10.0.0.1, serviceAccount: b}}]}}"
    assert warnings(istio("ServiceEntry", spec)) == [
        (
            "1.yaml:4: ServiceEntry default/a: spec.location: "
            "without it a service is MESH_EXTERNAL, although identities are named: say which it is"
        )
    ]


def workload(**fields: Any) -> WorkloadEntry:
    found = WorkloadEndpoint(line=4, where="spec", **fields)
    return WorkloadEntry(origin=origin("WorkloadEntry"), endpoint=found)


@pytest.mark.parametrize(
    ("spec", "metadata", "expected"),
    [
        ("{address: 10.0.0.1}", "name: a", workload(address="10.0.0.1")),
        (
            "{address: vm.example, ports: {http: 8080}, weight: 2, serviceAccount: reviews, labels: {app: a, version: v1}}",
            "name: a, labels: {version: v2}",
            workload(
                address="vm.example",
                ports={"http": 8080},
                weight=2,
                spiffe_id=REVIEWS,
                labels={"app": "a", "version": "v2"},
            ),
        ),
        (
            "{address: 10.0.0.1}",
            "name: a, annotations: {meshca.dev/spiffe-id: spiffe://b.example/x}",
            workload(address="10.0.0.1", spiffe_id=SpiffeID.parse("spiffe://b.example/x")),
        ),
        (
            "{address: 10.0.0.1, serviceAccount: reviews}",
            f"name: a, annotations: {{meshca.dev/spiffe-id: '{REVIEWS}'}}",
            workload(address="10.0.0.1", spiffe_id=REVIEWS),
        ),
    ],
)  # fmt: skip
def test_a_workload_entry_is_read(spec: str, metadata: str, expected: WorkloadEntry):
    assert only(istio("WorkloadEntry", spec, metadata=metadata)) == expected


def test_a_service_account_is_one_of_the_object_s_own_namespace():
    found = only(istio("WorkloadEntry", "{address: 10.0.0.1, serviceAccount: b}", metadata="name: a, namespace: shop"))
    assert isinstance(found, WorkloadEntry)
    assert str(found.endpoint.spiffe_id) == "spiffe://example.org/ns/shop/sa/b"


EVERYTHING = """
    loadBalancer: {simple: ROUND_ROBIN}
    connectionPool:
      tcp: {maxConnections: 1, connectTimeout: 2s}
      http:
        http1MaxPendingRequests: 3
        http2_max_requests: 4
        maxRetries: 5
        maxRequestsPerConnection: 6
        maxConcurrentStreams: 7
        idleTimeout: 1h
    outlierDetection:
      consecutive_5xx_errors: 8
      consecutiveGatewayErrors: 0
      interval: 9s
      baseEjectionTime: 10s
      maxEjectionPercent: 11
      minHealthPercent: 12
    tls: {mode: SIMPLE, sni: A.example, subjectAltNames: [a.example], caCertificates: /ca.pem}
    retryBudget: {percent: 12.5, minRetryConcurrency: 0}
"""
POLICY = TrafficPolicy(
    load_balancer=LoadBalancer.ROUND_ROBIN,
    connect_timeout=timedelta(seconds=2),
    max_connections=1,
    max_pending_requests=3,
    max_requests=4,
    max_retries=5,
    max_requests_per_connection=6,
    max_concurrent_streams=7,
    idle_timeout=timedelta(hours=1),
    outlier_detection=OutlierDetection(
        consecutive_5xx=8,
        consecutive_gateway_errors=0,
        interval=timedelta(seconds=9),
        base_ejection_time=timedelta(seconds=10),
        max_ejection_percent=11,
        min_health_percent=12,
    ),
    tls=ClientTLS(
        mode=TLSMode.SIMPLE, subject_alt_names=("a.example",), sni="a.example", ca_certificates="/ca.pem"
    ),
    retry_budget=RetryBudget(percent=12.5, min_retry_concurrency=0),
)  # fmt: skip


def destination_rule(**fields: Any) -> DestinationRule:
    return DestinationRule(origin=origin("DestinationRule"), host="a", **fields)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("host: a", destination_rule()),
        (f"host: A\n  trafficPolicy: {EVERYTHING}", destination_rule(policy=POLICY)),
        (
            "host: a\n  trafficPolicy: {loadBalancer: {simple: LEAST_CONN}, tls: {mode: DISABLE}, outlierDetection: {}, retryBudget: {}}",
            destination_rule(
                policy=TrafficPolicy(
                    load_balancer=LoadBalancer.LEAST_REQUEST,
                    tls=ClientTLS(mode=TLSMode.DISABLE),
                    outlier_detection=OutlierDetection(),
                    retry_budget=RetryBudget(),
                )
            ),
        ),
        (
            ("host: a\n  trafficPolicy:\n    {loadBalancer: {simple: UNSPECIFIED}"
            ", connectionPool: {http: {maxRequestsPerConnection: 0, idle_timeout: 0s}}}"),
            destination_rule(policy=TrafficPolicy(idle_timeout=timedelta(0))),
        ),
        (
            "host: a\n  traffic_policy: {tls: {mode: ISTIO_MUTUAL, subjectAltNames: ['spiffe://b.example/x']}}",
            destination_rule(
                policy=TrafficPolicy(tls=ClientTLS(mode=TLSMode.ISTIO_MUTUAL, subject_alt_names=("spiffe://b.example/x",)))
            ),
        ),
        (
            "host: a\n  trafficPolicy: {portLevelSettings: [{port: {number: 80}, loadBalancer: {simple: RANDOM}}]}",
            destination_rule(port_policies={80: TrafficPolicy(load_balancer=LoadBalancer.RANDOM)}),
        ),
        (
            ("host: a\n  exportTo: ['*']\n  workloadSelector: {matchLabels: {app: web}}\n  subsets:\n"
            "  - {name: v1, labels: {version: '1'}}\n"
            "  - name: all\n    trafficPolicy: {connectionPool: {tcp: {maxConnections: 1}}, portLevelSettings: [{port: {number: 80}}]}"),
            destination_rule(
                workload_selector={"app": "web"},
                subsets=(
                    Subset(name="v1", labels={"version": "1"}, line=9),
                    Subset(
                        name="all",
                        labels={},
                        policy=TrafficPolicy(max_connections=1),
                        port_policies={80: TrafficPolicy()},
                        line=10,
                    ),
                ),
            ),
        ),
    ],
)  # fmt: skip
def test_a_destination_rule_is_read(spec: str, expected: DestinationRule):
    assert only(istio("DestinationRule", spec)) == expected
