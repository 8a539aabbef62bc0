from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import UpstreamTlsContext
from google.protobuf.any_pb2 import Any as AnyMessage

from meshca.router.mesh.endpoints import Instance
from meshca.router.mesh.objects import MTLSMode, Object, Redirect, Resolution
from meshca.router.mesh.table import build
from meshca.router.resources.inbound import obstacles
from meshca.router.resources.outbound import Outbounds
from meshca.router.resources.proxy import Proxy
from meshca.router.resources.view import View, view
from meshca.router.resources.world import Rules, World, visible
from sds.xds.resource import InvalidRequest, Node, Resource
from spiffe.id import SpiffeID
from tests.support.routing import OURS, account, endpoint, http, rule, service, tcp, to, virtual

FRONTEND, API = account("frontend"), account("api")
V1, V2 = endpoint("10.0.0.1", version="v1"), endpoint("10.0.0.2", version="v2")
CANARY = virtual("api", rule(to("api", "v1", 95), to("api", "v2", 5)))


def world(*objects: Object, before: World | None = None, **rules: Any) -> World:
    table = build(objects, before=before.table if before else None)
    assert table.problems == ()
    made = World(own=OURS, table=table, rules=Rules(**rules))
    return made.following(before) if before else made


def unpacked(resource: Resource, kind: Callable[[], Any]) -> Any:
    made = kind()
    assert AnyMessage.FromString(resource.body).Unpack(made)
    return made


def routes_of(made: View) -> dict[str, Any]:
    """Virtual hosts by each of their domains."""
    config = unpacked(made.routes["outbound"], RouteConfiguration)
    return {domain: host for host in config.virtual_hosts for domain in host.domains}


def cluster_of(made: View, name: str) -> Any:
    return unpacked(made.clusters[name], Cluster)


def expected_names(context: Any) -> list[str]:
    tls = UpstreamTlsContext()
    assert context.typed_config.Unpack(tls)
    halves = tls.common_tls_context.combined_validation_context
    return [each.matcher.exact for each in halves.default_validation_context.match_typed_subject_alt_names]


def test_a_split_leads_to_a_cluster_for_each_subset_and_to_no_other():
    made = view(world(service("api", V1, V2), CANARY), Proxy(identity=FRONTEND))
    weights = {
        each.name: each.weight.value for each in routes_of(made)["api"].routes[0].route.weighted_clusters.clusters
    }
    assert weights == {"outbound|80|v1|api": 95, "outbound|80|v2|api": 5}
    assert set(made.clusters) == set(made.endpoints) == made.needs["outbound"] == set(weights)


def test_a_weight_of_zero_is_left_out_but_its_cluster_stays_ready():
    changed = virtual("api", rule(to("api", "v1", 100), to("api", "v2", 0)))
    made = view(world(service("api", V1, V2), changed), Proxy(identity=FRONTEND))
    (only,) = routes_of(made)["api"].routes[0].route.weighted_clusters.clusters
    assert only.name == "outbound|80|v1|api"
    assert "outbound|80|v2|api" in made.clusters


@pytest.mark.parametrize(
    ("redirect", "port"),
    [
        (Redirect(authority="b", keep_port=True), 8080),
        (Redirect(authority="b"), 0),
        (Redirect(uri="/b", keep_port=True), 0),
        (Redirect(authority="b", port=81), 81),
    ],
)
def test_a_redirect_to_another_host_keeps_the_port_that_was_dialled_if_asked_to(redirect: Redirect, port: int):
    made = view(
        world(service("api", V1, ports=(http(80), http(8080, "more"))), virtual("api", rule(redirect=redirect))),
        Proxy(identity=FRONTEND),
    )
    assert routes_of(made)["api:8080"].routes[0].redirect.port_redirect == port
    if redirect.keep_port:
        assert routes_of(made)["api:80"].routes[0].redirect.port_redirect == 0


def test_a_service_without_rules_is_reached_by_its_host_with_istios_default_retries_and_no_timeout():
    made = view(world(service("api", V1)), Proxy(identity=FRONTEND))
    (route,) = routes_of(made)["api:80"].routes
    assert route.route.cluster == "outbound|80||api"
    assert route.route.timeout.ToSeconds() == 0
    assert route.route.retry_policy.num_retries.value == 2
    assert route.route.retry_policy.host_selection_retry_max_attempts == 20
    assert route.route.retry_policy.retry_on.startswith("connect-failure,refused-stream,unavailable,cancelled")


def test_each_endpoint_carries_its_identity_and_each_identity_has_a_context_that_takes_nobody_else():
    two = service("api", V1, replace(V2, spiffe_id=account("api-canary"), weight=7))
    made = view(world(two), Proxy(identity=FRONTEND))
    (locality,) = unpacked(made.endpoints["outbound|80||api"], ClusterLoadAssignment).endpoints
    said = [
        each.metadata.filter_metadata["envoy.transport_socket_match"]["spiffe_id"] for each in locality.lb_endpoints
    ]
    assert said == [str(API), str(account("api-canary"))]
    assert locality.lb_endpoints[1].load_balancing_weight.value == 7
    cluster = cluster_of(made, "outbound|80||api")
    contexts = {
        each.match["spiffe_id"]: expected_names(each.transport_socket) for each in cluster.transport_socket_matches
    }
    assert contexts == {identity: [identity] for identity in said}


def test_an_endpoint_of_which_nothing_is_known_must_show_an_identity_that_nobody_has():
    cluster = cluster_of(view(world(service("api", V1)), Proxy(identity=FRONTEND)), "outbound|80||api")
    assert expected_names(cluster.transport_socket) == ["spiffe://mesh.local/meshca/nobody"]


def test_a_partners_endpoint_is_judged_by_the_partners_bundle_only():
    partner = SpiffeID.parse("spiffe://partner.example/api")
    cluster = cluster_of(
        view(world(service("api", replace(V1, spiffe_id=partner))), Proxy(identity=FRONTEND)), "outbound|80||api"
    )
    tls = UpstreamTlsContext()
    assert cluster.transport_socket_matches[0].transport_socket.typed_config.Unpack(tls)
    named = tls.common_tls_context.combined_validation_context.validation_context_sds_secret_config.name
    assert named == "spiffe://partner.example"


def test_a_service_that_an_identity_can_not_call_is_not_told_to_it():
    def may_call(caller: SpiffeID, _callee: Instance) -> bool:
        return caller == FRONTEND

    made = world(service("api", V1), CANARY_OF_V1, may_call=may_call)
    assert "api" in routes_of(view(made, Proxy(identity=FRONTEND)))
    stranger = view(made, Proxy(identity=account("stranger")))
    assert list(routes_of(stranger)) == ["*"]
    assert stranger.clusters == {}


CANARY_OF_V1 = virtual("api", rule(to("api", "v1")))


def test_a_rule_of_another_host_tells_nothing_of_a_service_that_an_identity_can_not_call():
    front = service("front", endpoint("10.0.0.9", identity=account("front")))
    objects = front, service("api", V1), virtual("front", rule(to("api")))
    shared = Outbounds()

    def seen(by: SpiffeID, *allowed: SpiffeID) -> View:
        made = world(*objects, may_call=lambda caller, callee: callee.identity != API or caller in allowed)
        return view(made, Proxy(identity=by), shared)

    stranger = account("stranger")
    assert set(seen(FRONTEND, FRONTEND).endpoints) == {"outbound|80||api"}
    assert set(seen(stranger, FRONTEND).endpoints) == set()
    assert set(seen(stranger, FRONTEND, stranger).endpoints) == {"outbound|80||api"}
    closed = seen(FRONTEND)
    assert (closed.clusters, closed.endpoints, closed.needs["outbound"]) == ({}, {}, frozenset())


def test_what_is_outside_or_has_no_endpoints_yet_is_visible_to_the_trust_domain_only():
    outside = service("www.example.org", external=True, resolution=Resolution.DNS)
    empty = service("api")
    made = world(outside, empty)
    for each in made.table.services.values():
        assert visible(made, each, FRONTEND)
        assert not visible(made, each, SpiffeID.parse("spiffe://partner.example/x"))


def test_a_host_that_nobody_has_is_answered_at_once():
    (nowhere,) = routes_of(view(world(), Proxy(identity=FRONTEND)))["*"].routes
    assert nowhere.direct_response.status == 502
    assert b"meshca router explain" in nowhere.direct_response.body.inline_bytes


def test_a_service_of_a_cluster_has_its_short_names_as_far_as_they_are_the_callers():
    inside = service("db.prod.svc.cluster.local", V1, ports=(http(8080), http(80, "main")))
    made = world(inside)
    names = {"db.prod.svc.cluster.local", "db.prod.svc", "db.prod"}
    far = routes_of(view(made, Proxy(identity=FRONTEND)))
    assert set(far) == {"*", *names, *(f"{name}:{port}" for name in names for port in (80, 8080))}
    assert far["db.prod"].name == "db.prod.svc.cluster.local:80"
    near = routes_of(view(made, Proxy(identity=account("web", "prod"))))
    assert {"db", "db:80", "db:8080"} < set(near)


def test_what_a_caller_gets_does_not_depend_on_who_was_there_before():
    made, shared = world(service("api.default.svc.cluster.local", V1)), Outbounds()
    for caller in (SpiffeID(OURS, "/ns/default"), FRONTEND, SpiffeID(OURS, "/other")):
        assert view(made, Proxy(identity=caller), shared) == view(made, Proxy(identity=caller))


def test_a_mere_name_leads_where_its_rules_say_on_any_port():
    made = view(world(service("api", V1), virtual("www.example.org", rule(to("api")))), Proxy(identity=FRONTEND))
    assert routes_of(made)["www.example.org:*"].routes[0].route.cluster == "outbound|80||api"
    wild = view(world(service("api", V1), virtual("*.example.org", rule(to("api")))), Proxy(identity=FRONTEND))
    assert "*.example.org" in routes_of(wild)


def test_everything_can_be_sent_somewhere():
    made = view(world(service("api", V1), virtual("*", rule(to("api")))), Proxy(identity=FRONTEND))
    assert routes_of(made)["*"].routes[0].route.cluster == "outbound|80||api"


def test_a_domain_that_two_hosts_claim_is_the_firsts():
    one, other = service("api.default.svc.cluster.local", V1), service("api", V1, line=2)
    domains = routes_of(view(world(one, other), Proxy(identity=FRONTEND)))
    assert domains["api"].name == "api.default.svc.cluster.local:80"


def test_a_rule_for_other_callers_is_left_out_with_its_clusters():
    special = rule(to("api", "v2"), source_principals=(FRONTEND,))
    made = world(service("api", V1, V2), virtual("api", special, rule(to("api", "v1"))))
    assert set(view(made, Proxy(identity=FRONTEND)).clusters) == {"outbound|80|v1|api", "outbound|80|v2|api"}
    assert set(view(made, Proxy(identity=account("other"))).clusters) == {"outbound|80|v1|api"}


def test_a_tcp_service_has_a_listener_on_its_own_port_and_the_first_of_two_gets_it():
    db, other = service("db", V1, ports=(tcp(5432),)), service("db2", V2, ports=(tcp(5432),), line=2)
    made = view(world(db, other), Proxy(identity=FRONTEND))
    assert set(made.listeners) == {"outbound", "127.0.0.1_5432"}
    assert made.needs["127.0.0.1_5432"] == {"outbound|5432||db"}
    assert made.listeners["127.0.0.1_5432"].proof == (db.origin,)
    assert not cluster_of(made, "outbound|5432||db").typed_extension_protocol_options


def test_a_workload_is_called_where_its_endpoint_says_and_the_application_where_its_proxy_says():
    made = view(world(service("api", V1)), Proxy(identity=API, address="10.0.0.1", app_ports={80: 8080}))
    listener = unpacked(made.listeners["inbound|80||10.0.0.1"], Listener)
    assert listener.address.socket_address.address == "10.0.0.1"
    app = cluster_of(made, "inbound|80||").load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address
    assert (app.address, app.port_value) == ("127.0.0.1", 8080)
    assert made.needs["inbound|80||10.0.0.1"] == {"inbound|80||"}


@pytest.mark.parametrize(
    ("proxy", "listeners"),
    [
        (Proxy(identity=API, address="10.0.0.1"), {"inbound|80||10.0.0.1"}),
        (Proxy(identity=API, address="10.0.0.9"), set()),
        (Proxy(identity=API, app_ports={80: 8080}), {"inbound|80||0.0.0.0"}),
        (Proxy(identity=API), set()),
        (Proxy(identity=FRONTEND, address="10.0.0.1"), set()),
    ],
    ids=["its own", "of nobody", "wherever", "would call itself", "another identity"],
)
def test_what_a_proxy_says_narrows_and_never_widens(proxy: Proxy, listeners: set[str]):
    made = view(world(service("api", V1, V2)), proxy)
    assert set(made.listeners) == {"outbound", *listeners}


def test_a_proxy_that_does_not_say_where_it_is_listens_wherever_its_endpoints_are():
    proxy = Proxy(identity=API, app_ports={80: 8080})
    made = view(world(service("api", V1, replace(V1, address="fd00::1"))), proxy)
    address = unpacked(made.listeners["inbound|80||::"], Listener).address.socket_address
    assert (address.address, address.ipv4_compat) == ("::", True)


def test_a_callee_takes_what_peer_authentication_says():
    for mode, chains in ((MTLSMode.STRICT, 1), (MTLSMode.PERMISSIVE, 2), (MTLSMode.DISABLE, 1)):
        made = view(
            world(service("api", V1), mode=lambda _callee, _port, mode=mode: mode),
            Proxy(identity=API, address="10.0.0.1"),
        )
        listener = unpacked(made.listeners["inbound|80||10.0.0.1"], Listener)
        assert len(listener.filter_chains) == chains
        secured = [chain.HasField("transport_socket") for chain in listener.filter_chains]
        assert secured[0] is (mode is not MTLSMode.DISABLE)
        timeouts = [chain.transport_socket_connect_timeout.seconds for chain in listener.filter_chains]
        assert [timeout > 0 for timeout in timeouts] == secured  # nobody hangs in a handshake for ever


def test_what_did_not_change_is_not_made_again():
    before = world(service("api", V1), service("other", V2, line=2))
    before = before.following(before)
    first = view(before, Proxy(identity=FRONTEND))
    after = world(service("api", V1), service("other", replace(V2, address="10.0.0.3"), line=2), before=before)
    second = view(after, Proxy(identity=FRONTEND))
    assert second.clusters["outbound|80||api"] is first.clusters["outbound|80||api"]
    assert second.endpoints["outbound|80||other"] != first.endpoints["outbound|80||other"]
    assert second.clusters["outbound|80||other"].version == first.clusters["outbound|80||other"].version
    assert second.routes == first.routes


def test_a_cluster_keeps_the_context_of_an_identity_that_may_still_be_in_use():
    canary = replace(V2, spiffe_id=account("api-canary"))
    before = world(service("api", V1, canary))
    before = before.following(before)
    after = world(service("api", V1), before=before)
    first, second = (view(each, Proxy(identity=FRONTEND)).clusters["outbound|80||api"] for each in (before, after))
    assert first == second
    assert view(world(service("api", V1)), Proxy(identity=FRONTEND)).clusters["outbound|80||api"] != second


def test_resources_say_which_objects_they_came_from():
    made = view(world(service("api", V1, V2), CANARY), Proxy(identity=FRONTEND))
    assert [each.label for each in made.routes["outbound"].proof] == [
        "ServiceEntry default/api",
        "VirtualService default/api",
    ]  # type: ignore[attr-defined]
    assert [each.label for each in made.clusters["outbound|80|v1|api"].proof] == ["ServiceEntry default/api"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("texts", "proxy"),
    [
        ({}, Proxy(identity=API)),
        (
            {"meshca.address": "10.0.0.1", "meshca.outbound-port": "0", "meshca.app-port.80": "8080"},
            Proxy(identity=API, address="10.0.0.1", outbound_port=0, app_ports={80: 8080}),
        ),
    ],
    ids=["nothing", "all"],
)
def test_a_proxy_says_its_place_in_its_node_metadata(texts: dict[str, str], proxy: Proxy):
    assert Proxy.read(API, Node(texts=texts)) == proxy


@pytest.mark.parametrize("text", ["", "x", "-1", "65536", "1" * 4000, "\u0661"])
def test_a_port_that_is_none_is_refused(text: str):
    with pytest.raises(InvalidRequest, match=r"meshca\.outbound-port has .* which is no port"):
        Proxy.read(API, Node(texts={"meshca.outbound-port": text}))


def test_what_callers_have_in_common_follows_each_change_of_services_routes_and_policies():
    outbounds, closed = Outbounds(), account("closed")
    callers = (FRONTEND, closed)

    def domains(made: World) -> list[set[str]]:
        return [set(routes_of(view(made, Proxy(identity=each), outbounds))) for each in callers]

    def weights(made: World) -> list[str]:
        return [view(made, Proxy(identity=each), outbounds).routes["outbound"].version for each in callers]

    first = world(service("api", V1, V2), CANARY, basis=1)
    first = first.following(first)
    assert ["api" in each for each in domains(first)] == [True, True]
    split = weights(first)
    rerouted = world(service("api", V1, V2), virtual("api", rule(to("api", "v2"))), before=first, basis=1)
    assert weights(rerouted) == [view(rerouted, Proxy(identity=each)).routes["outbound"].version for each in callers]
    assert weights(rerouted) != split
    guarded = world(
        service("api", V1, V2),
        virtual("api", rule(to("api", "v2"))),
        before=rerouted,
        basis=2,
        may_call=lambda caller, _callee: caller != closed,
    )
    assert ["api" in each for each in domains(guarded)] == [True, False]


def test_a_workload_that_can_not_be_called_is_told_why():
    here = endpoint("127.0.0.1", identity=API)
    made = world(service("api", here), service("db", here, ports=(tcp(80),), line=2))
    (same, other) = obstacles(made, Proxy(identity=API))
    assert same == "api:80: proxy and application can not both have port 80 here: see --app 80=PORT"
    assert other.startswith("db:80: proxy and application")
    (conflict,) = obstacles(made, Proxy(identity=API, app_ports={80: 8080}))
    assert conflict == "db:80: on port 80 comes HTTP of another service, not TCP"
    (first, *_) = obstacles(made, Proxy(identity=API, address="10.0.0.9"))
    assert first == "no endpoint of this identity has its address 10.0.0.9, only 127.0.0.1: see --address"
    assert list(obstacles(made, Proxy(identity=FRONTEND))) == []
