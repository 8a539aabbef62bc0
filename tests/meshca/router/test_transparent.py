"""What a proxy gets whose application knows nothing of it. That real connections find their way is shown in tests/e2e/test_capture.py."""

from collections.abc import Iterable
from typing import Any

import pytest
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.network.tcp_proxy.v3.tcp_proxy_pb2 import TcpProxy
from google.protobuf.any_pb2 import Any as AnyMessage

from meshca.bootstrap_spec import Transparent
from meshca.router.mesh.objects import MTLSMode, Object, Protocol, ServicePort
from meshca.router.mesh.table import build
from meshca.router.resources.proxy import Proxy
from meshca.router.resources.view import View, view
from meshca.router.resources.world import Rules, World
from sds.xds.resource import InvalidRequest, Node
from tests.support.routing import OURS, account, endpoint, http, service, tcp

FRONTEND, API = account("frontend"), account("api")
V1 = endpoint("10.0.0.1")
TLS = ServicePort(number=443, name="https", protocol=Protocol.TLS)
DB = service("db", V1, ports=(tcp(5432),), addresses=("10.99.0.2", "fd99::2"), line=2)


def seen(*objects: Object, transparent: Transparent | None = None, **changes: Any) -> View:
    rules = Rules(**changes.pop("rules", {}))
    proxy = Proxy(**{"identity": FRONTEND, "transparent": transparent or Transparent()} | changes)
    return view(World(own=OURS, table=build(objects), rules=rules), proxy)


def listener(made: View, name: str) -> Any:
    read = Listener()
    assert AnyMessage.FromString(made.listeners[name].body).Unpack(read)
    return read


def matches(chains: Iterable[Any]) -> list[tuple[int, str]]:
    """Port, and address or name, of each chain."""
    found = [each.filter_chain_match for each in chains]
    return [
        (each.destination_port.value, " ".join([*(r.address_prefix for r in each.prefix_ranges), *each.server_names]))
        for each in found
    ]


def test_outbound_finds_http_by_port_tcp_by_address_and_tls_by_name():
    made = seen(service("api", V1, ports=(http(80), http(8080, "more"))), DB, service("out", V1, ports=(TLS,), line=3))
    assert set(made.listeners) == {"outbound", "inbound"}
    outbound = listener(made, "outbound")
    assert matches(outbound.filter_chains) == [
        (80, ""),
        (8080, ""),
        (15001, ""),
        (443, "10.0.0.1"),
        (5432, "10.99.0.2 fd99::2 10.0.0.1"),
        (443, "out"),
    ]
    assert made.needs["outbound"] == {
        "outbound|80||api",
        "outbound|8080||api",
        "outbound|5432||db",
        "outbound|443||out",
    }
    assert made.needs["outbound"] <= set(made.clusters)


def test_of_two_services_at_one_place_the_first_has_it_however_its_address_is_written():
    other = service("db2", endpoint("10.0.0.9"), ports=(tcp(5432),), addresses=("FD99:0::2",), line=3)
    made = seen(DB, other)
    where = {}
    for chain in listener(made, "outbound").filter_chains:
        proxy = TcpProxy()
        if chain.filters[0].typed_config.Unpack(proxy):
            where[proxy.cluster] = {each.address_prefix for each in chain.filter_chain_match.prefix_ranges}
    assert where == {
        "outbound|5432||db": {"10.99.0.2", "fd99::2", "10.0.0.1"},
        "outbound|5432||db2": {"10.0.0.9"},
    }


def test_a_service_that_an_identity_can_not_call_has_no_place_for_it():
    made = seen(DB, rules={"may_call": lambda _caller, _callee: False})
    assert matches(listener(made, "outbound").filter_chains) == [(15001, "")]
    assert "outbound|5432||db" not in made.clusters


def test_only_where_it_was_asked_for_the_unknown_is_passed_on_and_never_to_the_proxy_itself():
    refusing, passing = seen(DB), seen(DB, transparent=Transparent(passes_unknown=True))
    assert not listener(refusing, "outbound").HasField("default_filter_chain")
    assert "PassthroughCluster" not in refusing.clusters
    outbound = listener(passing, "outbound")
    assert b"PassthroughCluster" in outbound.default_filter_chain.filters[0].typed_config.value
    assert "PassthroughCluster" in passing.needs["outbound"] & set(passing.clusters)
    (itself,) = [each for each in outbound.filter_chains if matches([each]) == [(15001, "")]]
    assert not itself.filters
    routes = RouteConfiguration()
    assert AnyMessage.FromString(passing.routes["outbound"].body).Unpack(routes)
    assert [host.name for host in routes.virtual_hosts] == ["allow_any"]


def test_nothing_is_handed_to_another_listener_by_its_address():
    made = seen(DB, identity=API)
    for name in made.listeners:
        assert not listener(made, name).HasField("use_original_dst")
        assert not listener(made, name).HasField("bind_to_port")


def test_an_endpoint_on_the_applications_own_port_is_reached_by_redirection_and_any_other_by_its_port():
    made = seen(service("api", V1), DB, identity=API, app_ports={80: 8080})
    assert set(made.listeners) == {"outbound", "inbound", "inbound|80||0.0.0.0"}
    inbound = listener(made, "inbound")
    assert matches(inbound.filter_chains) == [(5432, "")]
    assert inbound.filter_chains[0].HasField("transport_socket")
    assert made.needs["inbound"] == {"inbound|5432||"}
    assert made.needs["inbound|80||0.0.0.0"] == {"inbound|80||"}


@pytest.mark.parametrize(
    ("mode", "chains", "inspected"), [(MTLSMode.STRICT, 1, 0), (MTLSMode.PERMISSIVE, 2, 1), (MTLSMode.DISABLE, 1, 0)]
)
def test_redirected_calls_meet_what_peer_authentication_says(mode: MTLSMode, chains: int, inspected: int):
    made = seen(DB, identity=API, rules={"mode": lambda _callee, _port: mode})
    inbound = listener(made, "inbound")
    assert len(inbound.filter_chains) == chains
    assert all(each.filter_chain_match.destination_port.value == 5432 for each in inbound.filter_chains)
    assert len(inbound.listener_filters) == 1 + inspected


def test_a_workload_that_nobody_calls_closes_what_is_redirected_to_it():
    inbound = listener(seen(), "inbound")
    assert len(inbound.filter_chains) == 1
    assert not inbound.filter_chains[0].filters


def test_a_host_without_ipv6_is_listened_on_without_it():
    for transparent, expected in ((Transparent(), ["::1", "::"]), (Transparent(ipv6=False), [])):
        made = seen(transparent=transparent)
        also = [each for name in ("outbound", "inbound") for each in listener(made, name).additional_addresses]
        assert [each.address.socket_address.address for each in also] == expected


def test_a_proxy_that_is_not_transparent_listens_as_before():
    made = view(World(own=OURS, table=build([DB]), rules=Rules()), Proxy(identity=FRONTEND))
    assert set(made.listeners) == {"outbound", "127.0.0.1_5432"}
    assert not listener(made, "outbound").listener_filters


def test_node_metadata_says_whether_and_how():
    said = {"meshca.transparent": "ipv4", "meshca.inbound-port": "16006", "meshca.unknown": "pass"}
    expected = Transparent(inbound_port=16006, ipv6=False, passes_unknown=True)
    assert Proxy.read(API, Node(texts=said)).transparent == expected
    assert Proxy.read(API, Node(texts={"meshca.transparent": "dual"})).transparent == Transparent()
    assert Proxy.read(API, Node(texts={"meshca.unknown": "pass"})).transparent is None


@pytest.mark.parametrize(
    "said",
    [
        {"meshca.transparent": "yes"},
        {"meshca.transparent": "dual", "meshca.unknown": "x" * 4000},
        {"meshca.transparent": "dual", "meshca.inbound-port": "0"},
        {"meshca.transparent": "dual", "meshca.inbound-port": "x"},
    ],
)
def test_metadata_that_means_nothing_is_refused(said: dict[str, str]):
    with pytest.raises(InvalidRequest, match=r"node metadata meshca\."):
        Proxy.read(API, Node(texts=said))
