"""What a gRPC program without a proxy gets: listeners for the names that it calls and the addresses that it serves. Pure.

Rules:
- The same hosts and rules as a proxy of this identity has (`view`), in the shape that gRPC takes: a listener for each name that
  an application calls as `xds:///NAME`, and clusters of `proxyless_clusters`.
- A host is there only if all that it leads to is inside of the mesh: outside there is no identity to ask for.
- A server takes mutual TLS only, whatever a PeerAuthentication says: gRPC can not take both, and would never know of whom it is called.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv6Address

from envoy.config.listener.v3.listener_components_pb2 import FilterChain
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_components_pb2 import NonForwardingAction, Route, VirtualHost
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.http.fault.v3.fault_pb2 import HTTPFault
from envoy.extensions.filters.http.router.v3.router_pb2 import Router
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
    HttpFilter,
)

from meshca.router.mesh.endpoints import Instance, ip
from meshca.router.mesh.table import ClusterKey
from meshca.router.resources import proxyless_clusters
from meshca.router.resources.clusters import ADS, address
from meshca.router.resources.listeners import http_filter
from meshca.router.resources.outbound import Host, Look, Offered, Outbounds
from meshca.router.resources.proxy import Proxy
from meshca.router.resources.proxyless_routes import destinations, routes
from meshca.router.resources.routes import FAULT_FILTER
from meshca.router.resources.view import View
from meshca.router.resources.world import World
from meshca.router.security.rbac import proxyless_filters
from sds.xds.resource import Resource
from sds.xds.wire import pack

SERVER_PREFIX = "meshca/grpc-server/"
"""What the names of server listeners begin with; the rest is the address that is listened on."""
ANY_ADDRESS = ("0.0.0.0", "::")  # noqa: S104 - what a server may listen on
_MANAGER = "envoy.filters.network.http_connection_manager"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Callees:
    """What a program may call, the same for all that are offered the same: a listener for each name, routes, and clusters."""

    world: World
    listeners: Mapping[str, Resource]
    routes: Mapping[str, Resource]
    keys: tuple[ClusterKey, ...]
    needs: Mapping[str, frozenset[str]]
    clusters: dict[str, Resource] = field(init=False, default_factory=dict)
    endpoints: dict[str, Resource] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        for key in self.keys:
            self.clusters[key.name], assignment = self.world.proxyless_resources(key)
            if assignment:
                self.endpoints[key.name] = assignment


class Proxyless:
    """Makes views, world after world, and remembers what it made for as long as it holds."""

    def __init__(self, outbounds: Outbounds) -> None:
        self._outbounds = outbounds
        self._world: World | None = None
        self._outside: frozenset[str] = frozenset()
        self._made: dict[tuple[frozenset[str], Offered], Callees] = {}

    def view(self, world: World, proxy: Proxy) -> View:
        """All that a gRPC program of this identity may ask for, by name."""
        callees = self._callees(world, proxy)
        return View(
            clusters=callees.clusters,
            endpoints=callees.endpoints,
            listeners={**callees.listeners, **dict(_servers(world, proxy))},
            routes=callees.routes,
            needs=callees.needs,
        )

    def _callees(self, world: World, proxy: Proxy) -> Callees:
        if world is not self._world:  # what nobody used in the one before goes
            self._made = {key: made for key, made in self._made.items() if made.world is self._world}
            self._world, self._outside = world, _outside(world)
        look = self._outbounds.look(world, proxy.identity)
        key = self._outside, look.offered
        made = self._made.get(key)
        if made is None or made.world is not world:
            made = self._made[key] = replace(made, world=world) if made else _callees(world, look, self._outside)
        return made


def _outside(world: World) -> frozenset[str]:
    return frozenset(host for host, service in world.table.services.items() if service.entry.external)


def _callees(world: World, look: Look, outside: frozenset[str]) -> Callees:
    hidden = look.hidden
    every = [host for offer in look.offers for host in offer.hosts]
    hosts = [host for host in every if outside.isdisjoint(key.host for key in host.keys)]
    names = {name: host for host in reversed(hosts) for name in host.domains if "*" not in name}
    return Callees(
        world=world,
        listeners={name: pack(name, _outbound(name, host.name), host.origins) for name, host in names.items()},
        routes={host.name: pack(host.name, _configuration(host), host.origins) for host in hosts},
        keys=tuple(sorted({key for host in hosts for key in host.keys if key.host not in hidden})),
        needs=_needs([*names.items(), *((host.name, host) for host in hosts)]),
    )


def _needs(users: Iterable[tuple[str, Host]]) -> Mapping[str, frozenset[str]]:
    """What will be asked for. A listener and a route configuration may share a name."""
    needs: dict[str, frozenset[str]] = {}
    for name, host in users:
        needs[name] = needs.get(name, frozenset()) | destinations(host.routes)
    return needs


def _outbound(name: str, config: str) -> Listener:
    manager = _manager(name, [http_filter(FAULT_FILTER, HTTPFault())])
    manager.rds.route_config_name = config
    manager.rds.config_source.CopyFrom(ADS)
    made = Listener(name=name)
    made.api_listener.api_listener.Pack(manager, deterministic=True)
    return made


def _configuration(host: Host) -> RouteConfiguration:
    """The rules of one host, whatever the name by which it was asked for."""
    everything = VirtualHost(name=host.name, domains=["*"], routes=routes(host.routes))
    return RouteConfiguration(name=host.name, virtual_hosts=[everything])


def _servers(world: World, proxy: Proxy) -> Iterator[tuple[str, Resource]]:
    """A listener for each address on which this workload may be listening."""
    found: dict[tuple[str, int], list[Instance]] = {}
    for service, instance in world.places_of(proxy.identity):
        if proxy.is_at(instance.address):
            for port in (instance.ports[each.number] for each in service.entry.ports if each.protocol.is_http):
                for host in (instance.address, *ANY_ADDRESS):
                    found.setdefault((host, port), []).append(instance)
    for place, callees in found.items():
        name = f"{SERVER_PREFIX}{_joined(*place)}"
        yield name, pack(name, _inbound(world, name, callees, place))


def _inbound(world: World, name: str, callees: Sequence[Instance], place: tuple[str, int]) -> Listener:
    manager = _manager(name, proxyless_filters(world.rules.sorts(callees), world.own))
    manager.route_config.CopyFrom(_anything(name))
    chain = FilterChain(transport_socket=proxyless_clusters.from_anybody())
    chain.filters.add(name=_MANAGER).typed_config.Pack(manager, deterministic=True)
    return Listener(name=name, address=address(*place), filter_chains=[chain])


def _anything(name: str) -> RouteConfiguration:
    """The server itself answers everything that its policies let through."""
    route = Route(name="default", non_forwarding_action=NonForwardingAction())
    route.match.prefix = ""
    return RouteConfiguration(name=name, virtual_hosts=[VirtualHost(name=name, domains=["*"], routes=[route])])


def _manager(prefix: str, filters: Iterable[HttpFilter]) -> HttpConnectionManager:
    return HttpConnectionManager(
        stat_prefix=prefix, http_filters=[*filters, http_filter("envoy.filters.http.router", Router())]
    )


def _joined(host: str, port: int) -> str:
    """As gRPC writes an address."""
    return f"[{host}]:{port}" if isinstance(ip(host), IPv6Address) else f"{host}:{port}"
