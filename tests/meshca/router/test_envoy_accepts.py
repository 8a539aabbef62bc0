"""The real Envoy is asked whether it would take what the builders make, with everything in it that users can write."""

import json
import subprocess
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.json_format import MessageToDict

from meshca.bootstrap_spec import Transparent
from meshca.demo.envoys import envoy_binary
from meshca.router.mesh.objects import (
    Abort,
    ClientTLS,
    Delay,
    Destination,
    DirectResponse,
    HeaderOperations,
    HTTPMatch,
    HTTPRule,
    LoadBalancer,
    MatchKind,
    Mirror,
    MTLSMode,
    OutlierDetection,
    Protocol,
    Redirect,
    Resolution,
    Retries,
    RetryBudget,
    Rewrite,
    ServicePort,
    StringMatch,
    TLSMode,
    TrafficPolicy,
)
from meshca.router.mesh.table import ClusterKey, build
from meshca.router.resources.proxy import Proxy
from meshca.router.resources.telemetry import Telling
from meshca.router.resources.view import View, view
from meshca.router.resources.world import Rules, World
from tests.support.routing import (
    OURS,
    account,
    destination_rule,
    endpoint,
    http,
    rule,
    service,
    subset,
    tcp,
    to,
    virtual,
)

pytestmark = pytest.mark.envoy

SECOND = timedelta(seconds=1)
V1, V2 = endpoint("10.0.0.1", version="v1"), endpoint("10.0.0.2", version="v2", weight=3)
HEADERS = HeaderOperations(set=(("x-a", "1"),), add=(("x-b", "2"),), remove=("x-c",))
POLICY = TrafficPolicy(
    load_balancer=LoadBalancer.ROUND_ROBIN,
    connect_timeout=SECOND,
    max_connections=1,
    max_pending_requests=2,
    max_requests=3,
    max_requests_per_connection=4,
    max_concurrent_streams=5,
    idle_timeout=SECOND,
    outlier_detection=OutlierDetection(
        consecutive_5xx=1,
        consecutive_gateway_errors=0,
        interval=SECOND,
        base_ejection_time=SECOND,
        max_ejection_percent=50,
        min_health_percent=10,
    ),
    retry_budget=RetryBudget(percent=10.5, min_retry_concurrency=1),
)


def said(kind: MatchKind, value: str = "x") -> StringMatch:
    return StringMatch(kind, value)


MATCHES = (
    HTTPMatch(uri=said(MatchKind.EXACT, "/a"), ignore_uri_case=True, port=80),
    HTTPMatch(
        uri=said(MatchKind.PREFIX, "/b"), method=said(MatchKind.EXACT, "GET"), scheme=said(MatchKind.EXACT, "https")
    ),
    HTTPMatch(uri=said(MatchKind.REGEX, "/c[0-9]+"), authority=said(MatchKind.PREFIX, "api")),
    HTTPMatch(
        uri=said(MatchKind.PATH_PREFIX, "/d/"),
        headers=(("x-a", said(MatchKind.PRESENT, "")), ("x-b", said(MatchKind.SUFFIX))),
    ),
    HTTPMatch(uri=said(MatchKind.PATH_PREFIX, "/"), without_headers=(("x-a", said(MatchKind.REGEX, "a.*")),)),
    HTTPMatch(
        query_params=(("q", said(MatchKind.EXACT)), ("r", said(MatchKind.PRESENT, "")), ("s", said(MatchKind.REGEX)))
    ),
)
HALF = 500_000
TELLING = Telling(
    client_log=True,
    server_log=True,
    metrics=True,
    collector=ClusterKey("otel", 4317),
    sampling=1,
    tags=(("a", "5%%"), ("b", "%REQ(x-a)% by %UPSTREAM_PEER_URI_SAN%, %TRACE_ID%")),
)
RULES: tuple[HTTPRule, ...] = (
    rule(
        to("api", "v1", 95, request_headers=HEADERS, response_headers=HEADERS),
        to("api", "v2", 5),
        name="canary",
        matches=MATCHES,
        timeout=SECOND,
        retries=Retries(attempts=3, per_try_timeout=SECOND, retry_on=("5xx", "503"), backoff=SECOND / 10),
        delay=Delay(fixed=SECOND, share=HALF),
        abort=Abort(http_status=503, share=1),
        mirrors=(Mirror(destination=Destination(host="api", subset="v2"), share=HALF),),
        request_headers=HEADERS,
        response_headers=HEADERS,
        rewrite=Rewrite(uri="/new", authority="other"),
    ),
    rule(to("api", "v1", authority="elsewhere"), matches=MATCHES[:1]),
    rule(to("api", "v1", request_headers=HEADERS), matches=MATCHES[:1], retries=Retries(attempts=0)),
    rule(
        to("api"), rewrite=Rewrite(regex="/a(.*)", substitution=r"/\1"), abort=Abort(grpc_status="UNAVAILABLE", share=0)
    ),
    rule(to("api"), rewrite=Rewrite(full_path="/whole"), retries=Retries(attempts=1, ignore_previous_hosts=False)),
    rule(redirect=Redirect(uri="/there", authority="other", scheme="https", port=8443, code=308)),
    rule(redirect=Redirect(prefix="/there", code=302)),
    rule(direct_response=DirectResponse(status=418, body=b"short and stout")),
    rule(direct_response=DirectResponse(status=204)),
)

TLS_PORTS = [ServicePort(number=number, name=f"tls-{number}", protocol=Protocol.TLS) for number in (443, 8443)]


def everything(mode: MTLSMode, transparent: Transparent | None = None) -> View:
    outside = service("www.example.org", ports=(http(443, "https"),), resolution=Resolution.DNS, external=True, line=3)
    grpc = ServicePort(number=50051, name="grpc", protocol=Protocol.GRPC)
    collector = service("otel", V1, ports=(http(4317, "grpc", protocol=Protocol.GRPC),), external=True, line=8)
    objects = (
        collector,
        service("api", V1, V2, ports=(http(80), http(81, "h2", protocol=Protocol.HTTP2), grpc, tcp(5432), *TLS_PORTS)),
        service("plain", V1, line=2),
        outside,
        destination_rule(
            "api", subset("v1", {"version": "v1"}, policy=TrafficPolicy(max_retries=1)), policy=POLICY, line=4
        ),
        destination_rule("plain", policy=TrafficPolicy(tls=ClientTLS(mode=TLSMode.DISABLE), max_retries=4), line=5),
        destination_rule("www.example.org", policy=TrafficPolicy(tls=ClientTLS(mode=TLSMode.SIMPLE)), line=6),
        virtual("api", *(replace_ports(each) for each in RULES), line=7),
    )
    table = build(objects)
    assert table.problems == ()
    made = World(own=OURS, table=table, rules=Rules(mode=lambda _callee, _port: mode, tells=lambda _workload: TELLING))
    return view(made, Proxy(identity=account("api"), address="10.0.0.1", outbound_port=15001, transparent=transparent))


def replace_ports(each: HTTPRule) -> HTTPRule:
    """The service has several ports, so each destination says which."""

    def at(part: Any) -> Any:
        return replace(part, destination=replace(part.destination, port=80))

    return replace(each, route=tuple(map(at, each.route)), mirrors=tuple(map(at, each.mirrors)))


def static(made: View) -> dict[str, Any]:
    """The view as a bootstrap that holds it all, so that Envoy can judge it without a server."""
    bootstrap = Bootstrap()
    for resource in made.clusters.values():
        AnyMessage.FromString(resource.body).Unpack(bootstrap.static_resources.clusters.add())
    for resource in made.listeners.values():
        AnyMessage.FromString(resource.body).Unpack(bootstrap.static_resources.listeners.add())
    document: dict[str, Any] = MessageToDict(bootstrap)
    listeners = document["staticResources"]["listeners"]
    for chain in [chain for listener in listeners for chain in listener["filterChains"] if "filters" in chain]:
        manager = chain["filters"][0]["typedConfig"]
        if asked := manager.pop("rds", None):
            routes = RouteConfiguration()
            AnyMessage.FromString(made.routes[asked["routeConfigName"]].body).Unpack(routes)
            manager["routeConfig"] = MessageToDict(routes)
    sds = Cluster(name="meshca", type=Cluster.STATIC)
    document["staticResources"]["clusters"].append(MessageToDict(sds))
    ads = {"apiType": "GRPC", "transportApiVersion": "V3", "grpcServices": [{"envoyGrpc": {"clusterName": "meshca"}}]}
    return {**document, "node": {"id": "x", "cluster": "x"}, "dynamicResources": {"adsConfig": ads}}


@pytest.mark.parametrize("mode", list(MTLSMode))
@pytest.mark.parametrize(
    "transparent", [None, Transparent(), Transparent(passes_unknown=True)], ids=["explicit", "transparent", "passing"]
)
def test_envoy_takes_all_that_users_can_write(mode: MTLSMode, transparent: Transparent | None, tmp_path: Path):
    config = tmp_path / "everything.json"
    config.write_text(json.dumps(static(everything(mode, transparent)), indent=1))
    judged = subprocess.run(
        [envoy_binary(), "--mode", "validate", "--config-path", config, "--log-level", "error"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert judged.returncode == 0, judged.stderr + judged.stdout
