"""What gRPC programs get: the same hosts and rules as proxies, in their shape, and never a way around mutual TLS."""

from collections.abc import Sequence
from typing import Any

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import CommonTlsContext, DownstreamTlsContext, UpstreamTlsContext
from google.protobuf.any_pb2 import Any as AnyMessage

from meshca.router.delivery.publishing import stages
from meshca.router.mesh.objects import (
    ClientTLS,
    HTTPMatch,
    MatchKind,
    Object,
    Resolution,
    StringMatch,
    TLSMode,
    TrafficPolicy,
)
from meshca.router.mesh.table import build
from meshca.router.resources.outbound import Outbounds
from meshca.router.resources.proxy import Proxy
from meshca.router.resources.proxyless import Proxyless
from meshca.router.resources.view import View
from meshca.router.resources.world import Rules, World
from sds.xds.resource import Node, Resource
from spiffe.id import SpiffeID
from tests.support.policies import allow
from tests.support.routing import (
    OURS,
    account,
    destination_rule,
    endpoint,
    http,
    rule,
    service,
    tcp,
    to,
    virtual,
)

FRONTEND, API, OTHER = account("frontend"), account("api"), account("other")
V1, V2 = endpoint("10.0.0.1", version="v1"), endpoint("10.0.0.2", version="v2", identity=OTHER)
CANARY = virtual("api", rule(to("api", "v1", 95), to("api", "v2", 5)))
GRPC = Node(user_agent="gRPC C-core Linux")


def world(*objects: Object, before: World | None = None, **rules: Any) -> World:
    table = build(objects, before=before.table if before else None)
    assert table.problems == ()
    made = World(own=OURS, table=table, rules=Rules(**rules))
    return made.following(before) if before else made


def seen(*objects: Object, by: SpiffeID = FRONTEND, **rules: Any) -> View:
    return Proxyless(Outbounds()).view(world(*objects, **rules), Proxy.read(by, GRPC))


def read(resource: Resource, kind: type[Any]) -> Any:
    made = kind()
    assert AnyMessage.FromString(resource.body).Unpack(made)
    return made


def manager_of(made: View, name: str) -> Any:
    manager = HttpConnectionManager()
    listener = read(made.listeners[name], Listener)
    packed = listener.api_listener.api_listener
    assert (packed if packed.value else listener.filter_chains[0].filters[0].typed_config).Unpack(manager)
    return manager


def routes_of(made: View, name: str) -> Sequence[Any]:
    (everything,) = read(made.routes[name], RouteConfiguration).virtual_hosts
    assert everything.domains == ["*"]
    return tuple(everything.routes)


def names_expected(cluster: Resource) -> list[str]:
    made = read(cluster, Cluster)
    assert not made.transport_socket_matches
    context = UpstreamTlsContext()
    assert made.transport_socket.typed_config.Unpack(context)
    check_files(context.common_tls_context)
    assert not context.common_tls_context.validation_context.match_typed_subject_alt_names
    return [each.exact for each in context.common_tls_context.validation_context.match_subject_alt_names]


def check_files(context: CommonTlsContext) -> None:
    """The own SVID and the bundle come from the provider that the bootstrap names."""
    assert context.tls_certificate_provider_instance.instance_name == "meshca"
    assert context.validation_context.ca_certificate_provider_instance.instance_name == "meshca"


@pytest.mark.parametrize("agent", ["gRPC C-core Linux", "gRPC Go", "gRPC Java"])
def test_a_program_is_known_as_grpc_by_what_it_says_of_itself_in_any_language(agent: str):
    assert Proxy.read(FRONTEND, Node(user_agent=agent)).is_grpc
    assert not Proxy.read(FRONTEND, Node(user_agent="envoy")).is_grpc


def test_each_name_of_a_service_leads_to_the_same_weights_and_to_no_cluster_besides():
    made = seen(service("api", V1, V2), CANARY)
    assert set(made.listeners) == {"api", "api:80"}
    assert {manager_of(made, name).rds.route_config_name for name in made.listeners} == {"api:80"}
    weights = {each.name: each.weight.value for each in routes_of(made, "api:80")[0].route.weighted_clusters.clusters}
    assert weights == {"outbound|80|v1|api": 95, "outbound|80|v2|api": 5}
    assert set(made.clusters) == set(made.endpoints) == set(weights)
    assert all(made.needs[name] == set(weights) for name in ("api", "api:80"))
    assert [each.name for each in manager_of(made, "api").http_filters] == [
        "envoy.filters.http.fault",
        "envoy.filters.http.router",
    ]


def test_secure_naming_is_for_each_service_and_lists_the_identities_of_its_endpoints_of_all_subsets():
    made = seen(service("api", V1, V2), CANARY)
    assert names_expected(made.clusters["outbound|80|v1|api"]) == [str(API), str(OTHER)]


def test_an_identity_that_has_left_a_service_is_taken_for_as_long_as_the_change_is_under_way():
    before, after = world(service("api", V1, V2)), world(service("api", V1))
    steps = [
        names_expected(Proxyless(Outbounds()).view(step, Proxy.read(FRONTEND, GRPC)).clusters["outbound|80||api"])
        for step in stages(before.following(before), after.following(before), ())
    ]
    assert steps == [[str(API), str(OTHER)], [str(API)]]


def test_what_did_not_change_is_made_once():
    before = world(service("api", V1))
    before = before.following(before)
    first = Proxyless(Outbounds()).view(before, Proxy.read(FRONTEND, GRPC)).clusters["outbound|80||api"]
    after = world(service("api", V1), service("new", V2, line=20), before=before)
    assert Proxyless(Outbounds()).view(after, Proxy.read(FRONTEND, GRPC)).clusters["outbound|80||api"] is first


@pytest.mark.parametrize(("written", "limit"), [(None, 1024), (7, 7)])
def test_requests_under_way_are_limited(written: int | None, limit: int):
    limited = destination_rule("api", policy=TrafficPolicy(max_requests=written))
    (thresholds,) = read(
        seen(service("api", V1), limited).clusters["outbound|80||api"], Cluster
    ).circuit_breakers.thresholds
    assert thresholds.max_requests.value == limit


def test_nothing_that_a_destination_rule_says_makes_it_go_without_mutual_tls():
    plain = destination_rule("api", policy=TrafficPolicy(tls=ClientTLS(mode=TLSMode.DISABLE)))
    assert names_expected(seen(service("api", V1), plain).clusters["outbound|80||api"]) == [str(API)]


def test_a_service_without_endpoints_takes_nobody():
    made = seen(service("api"))
    assert names_expected(made.clusters["outbound|80||api"]) == [str(SpiffeID(OURS, "/meshca/nobody"))]
    assert not read(made.endpoints["outbound|80||api"], ClusterLoadAssignment).endpoints


def test_who_could_not_call_a_service_is_not_told_of_it():
    assert not seen(service("api", V1), may_call=lambda caller, _: caller != FRONTEND).listeners
    assert set(seen(service("api", V1), by=OTHER, may_call=lambda caller, _: caller != FRONTEND).listeners)


def test_a_rule_of_another_host_tells_nothing_of_a_service_that_an_identity_can_not_call():
    front = service("front", endpoint("10.0.0.9", identity=account("front")))
    objects = front, service("api", V1), virtual("front", rule(to("api")))
    made = seen(*objects, may_call=lambda _, callee: callee.identity != API)
    assert "front" in made.listeners
    assert (made.clusters, made.endpoints) == ({}, {})


def test_what_leads_out_of_the_mesh_or_is_no_http_is_not_there():
    outside = service("bank.example", external=True, resolution=Resolution.DNS)
    mixed = virtual("mixed", rule(to("api", "", 1, port=80), to("bank.example", "", 1)))
    made = seen(service("api", V1, ports=(http(80), tcp(90))), outside, mixed)
    assert set(made.listeners) == {"api", "api:80"}
    assert set(made.clusters) == {"outbound|80||api"}


def test_a_service_that_moves_into_the_mesh_or_out_of_it_is_there_accordingly():
    shapes, told, before = Proxyless(Outbounds()), [], None
    for external in (True, False, True):
        made = world(service("api", V1, external=external))
        before = made.following(before or made)
        told.append(bool(shapes.view(before, Proxy.read(FRONTEND, GRPC)).listeners))
    assert told == [False, True, False]


def test_what_is_offered_to_several_is_made_once_and_again_when_endpoints_change_only():
    shapes, first = Proxyless(Outbounds()), world(service("api", V1))
    before = first.following(first)
    mine, yours = (shapes.view(before, Proxy.read(caller, GRPC)) for caller in (FRONTEND, OTHER))
    assert mine.listeners["api"] is yours.listeners["api"]
    after = shapes.view(world(service("api", V1, V2), before=before), Proxy.read(FRONTEND, GRPC))
    assert after.routes["api:80"] is mine.routes["api:80"]
    assert after.endpoints["outbound|80||api"] != mine.endpoints["outbound|80||api"]


def test_a_host_that_is_only_a_name_is_called_by_it():
    made = seen(service("api", V1), virtual("shop.example", rule(to("api"))))
    assert routes_of(made, "shop.example")[0].route.cluster == "outbound|80||api"
    assert manager_of(made, "shop.example").rds.route_config_name == "shop.example"


def test_endpoints_are_in_one_locality_and_names_that_are_no_addresses_are_left_out():
    named = endpoint("db.example")
    made = seen(service("api", V1, named, resolution=Resolution.DNS))
    (locality,) = read(made.endpoints["outbound|80||api"], ClusterLoadAssignment).endpoints
    assert (locality.load_balancing_weight.value, bool(locality.locality.region)) == (1, True)
    assert [each.endpoint.address.socket_address.address for each in locality.lb_endpoints] == ["10.0.0.1"]


def text(kind: MatchKind, value: str) -> StringMatch:
    return StringMatch(kind, value)


@pytest.mark.parametrize(
    ("match", "possible"),
    [
        (HTTPMatch(method=text(MatchKind.EXACT, "POST")), True),
        (HTTPMatch(method=text(MatchKind.PREFIX, "PO")), True),
        (HTTPMatch(method=text(MatchKind.SUFFIX, "ST")), True),
        (HTTPMatch(method=text(MatchKind.REGEX, "GET|POST")), True),
        (HTTPMatch(method=text(MatchKind.PRESENT, "")), True),
        (HTTPMatch(method=text(MatchKind.EXACT, "GET")), False),
        (HTTPMatch(authority=text(MatchKind.EXACT, "api")), False),
        (HTTPMatch(query_params=(("q", text(MatchKind.EXACT, "1")),)), False),
        (HTTPMatch(headers=(("x", text(MatchKind.EXACT, "1")),)), True),
    ],
)
def test_a_rule_is_there_if_a_grpc_request_can_match_it(match: HTTPMatch, possible: bool):
    made = seen(service("api", V1, V2), virtual("api", rule(to("api", "v1"), matches=(match,)), rule(to("api", "v2"))))
    clusters = [each.route.cluster for each in routes_of(made, "api:80")]
    assert clusters == [*(["outbound|80|v1|api"] if possible else []), "outbound|80|v2|api"]
    assert not any(each.name.startswith(":") for route in routes_of(made, "api:80") for each in route.match.headers)


@pytest.mark.parametrize(("careless", "expected"), [(False, r"/a\.B(/.*)?"), (True, r"(?i)/a\.B(/.*)?")])
def test_a_prefix_by_segments_which_grpc_would_refuse_is_an_expression(careless: bool, expected: str):
    match = HTTPMatch(uri=StringMatch(MatchKind.PATH_PREFIX, "/a.B"), ignore_uri_case=careless)
    made = seen(service("api", V1), virtual("api", rule(to("api"), matches=(match,))))
    assert routes_of(made, "api:80")[0].match.safe_regex.regex == expected


def test_a_server_has_a_listener_for_each_address_that_it_may_listen_on_with_mutual_tls_and_its_policies():
    made = seen(
        service("api", V1, endpoint("fd00::1"), V2),
        by=API,
        policies=lambda callee: (allow(),) if callee.address == "10.0.0.1" else (),
    )
    prefix = "meshca/grpc-server/"
    servers = {name.removeprefix(prefix): name for name in made.listeners if name.startswith(prefix)}
    assert set(servers) == {"10.0.0.1:80", "[fd00::1]:80", "0.0.0.0:80", "[::]:80"}
    name = servers["10.0.0.1:80"]
    listener = read(made.listeners[name], Listener)
    (chain,) = listener.filter_chains
    context = DownstreamTlsContext()
    assert chain.transport_socket.typed_config.Unpack(context)
    check_files(context.common_tls_context)
    assert context.require_client_certificate.value
    assert listener.address.socket_address.address == "10.0.0.1"
    manager = manager_of(made, name)
    assert [each.name for each in manager.http_filters] == [
        "envoy.filters.http.rbac.identity",
        "envoy.filters.http.rbac.allow",
        "envoy.filters.http.router",
    ]
    (route,) = manager.route_config.virtual_hosts[0].routes
    assert route.WhichOneof("action") == "non_forwarding_action"


def test_a_server_that_says_where_it_is_has_the_listeners_of_that_place_only():
    node = Node(user_agent=GRPC.user_agent, texts={"meshca.address": "10.0.0.3"})
    here = endpoint("10.0.0.3", ports={"http": 8443})
    made = Proxyless(Outbounds()).view(world(service("api", V1, here)), Proxy.read(API, node))
    assert {name for name in made.listeners if "server" in name} == {
        f"meshca/grpc-server/{address}:8443" for address in ("10.0.0.3", "0.0.0.0", "[::]")
    }
