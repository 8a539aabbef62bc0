"""What one proxy gets: the services its identity may call, their routes as it has them, and its own inbound ports. Pure.

Rules:
- Identity scopes configuration: a service that this identity could not call is not in it, whatever the proxy says of itself.
- A resource of a service is made once for all proxies, and anew only when the service changed.
- Each resource carries the objects that it came from, so that a NACK can be told in their terms.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain

from envoy.config.listener.v3.listener_components_pb2 import Filter
from envoy.config.route.v3.route_components_pb2 import Route as RouteMessage
from envoy.config.route.v3.route_components_pb2 import VirtualHost as VirtualHostMessage
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import HttpFilter

from meshca.router import clusters, listeners
from meshca.router.endpoints import Instance
from meshca.router.listeners import LOOPBACK, OUTBOUND, Guards, Inbound
from meshca.router.objects import MTLSMode, Origin, ServicePort
from meshca.router.proxy import Proxy
from meshca.router.routes import routes, to_cluster
from meshca.router.table import ClusterKey, Service, Table, VirtualHost
from sds.xds.resource import Resource
from sds.xds.wire import pack
from spiffe.id import SpiffeID, TrustDomain

EVERYWHERE = "0.0.0.0"  # noqa: S104 - a sidecar is there to be reached; RBAC decides who gets through
_NOT_FOUND = b"no such service, or none that this identity may call: see `meshca router explain`\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What policies say, as far as a view needs to know it."""

    may_call: Callable[[SpiffeID, Instance], bool] = lambda _caller, _callee: True
    http_rbac: Callable[[Instance, bool], tuple[HttpFilter, ...]] = lambda _callee, _plaintext: ()
    """Of a callee, for connections with TLS or (true) without."""
    tcp_rbac: Callable[[Instance, bool], tuple[Filter, ...]] = lambda _callee, _plaintext: ()
    mode: Callable[[Instance, int], MTLSMode] = lambda _callee, _port: MTLSMode.STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a workload is called: by whom it must be, and at which address and port."""

    identity: SpiffeID
    address: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """All that views are made of. `made` keeps the resources of services, by service and key.

    `identities` has, for each service, those that its endpoints have, or had in a world before this one. Nobody is told yet of the places
    that are `hidden`, and workloads still listen where the tables say that are `leaving`.
    """

    own: TrustDomain
    table: Table
    rules: Rules = field(default_factory=Rules)
    identities: Mapping[str, frozenset[SpiffeID]] = field(default_factory=dict)
    hidden: frozenset[Place] = frozenset()
    leaving: tuple[Table, ...] = ()
    made: dict[tuple[str, int, str], tuple[Resource, Resource | None]] = field(default_factory=dict)

    def following(self, before: "World") -> "World":
        """This world, with what was made in the one before for services that did not change."""
        services, earlier = self.table.services, before.identities
        identities = {host: _identities(service) | earlier.get(host, frozenset()) for host, service in services.items()}
        same = {
            host
            for host, service in services.items()
            if before.table.services.get(host) == service and earlier.get(host) == identities[host]
        }
        kept = {key: made for key, made in before.made.items() if key[0] in same}
        return World(own=self.own, table=self.table, rules=self.rules, identities=identities, made=kept)

    def resources(self, key: ClusterKey) -> tuple[Resource, Resource | None]:
        """The cluster of a key and, if its endpoints come by EDS, its load assignment."""
        if key not in self.made:
            service = self.table.services[key.host]
            proof = _origins(service)
            identities = self.identities.get(key.host) or _identities(service)
            cluster = pack(key.name, clusters.cluster(service, key, self.own, identities), proof)
            has_eds = clusters.has_assignment(service)
            members = [each for each in service.members(key.subset) if not self._is_hidden(each, key.port)]
            assignment = pack(key.name, clusters.load_assignment(key, members), proof) if has_eds else None
            self.made[key] = cluster, assignment
        return self.made[key]

    def _is_hidden(self, instance: Instance, port: int) -> bool:
        if not (self.hidden and instance.identity):
            return False
        place = Place(identity=instance.identity, address=instance.address, port=instance.ports[port])
        return place in self.hidden


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """The resources of one proxy by type and name; `needs` says which clusters a listener or route configuration refers to."""

    clusters: Mapping[str, Resource]
    endpoints: Mapping[str, Resource]
    listeners: Mapping[str, Resource]
    routes: Mapping[str, Resource]
    needs: Mapping[str, frozenset[str]]


def view(world: World, proxy: Proxy) -> View:
    """All that a proxy gets."""
    hosts = tuple(_hosts(world, proxy))
    keys = sorted({key for host in hosts for key in host.keys})
    tcp = {
        f"{LOOPBACK}_{key.port}": key for key in reversed(_tcp_keys(world, proxy)) if key.port != proxy.outbound_port
    }
    made = {key.name: world.resources(key) for key in [*keys, *tcp.values()]}
    ways_in = tuple(_inbound(world, proxy))
    apps = {spec.name: pack(spec.name, listeners.inbound_cluster(spec)) for spec, _ in ways_in}
    outbound = pack(OUTBOUND, listeners.outbound(proxy.outbound_port))
    config = pack(OUTBOUND, _configuration(hosts), tuple(origin for host in hosts for origin in host.origins))
    inbound = [_inbound_listener(world, spec, instance) for spec, instance in ways_in]
    return View(
        clusters={name: cluster for name, (cluster, _) in made.items()} | apps,
        endpoints={name: assignment for name, (_, assignment) in made.items() if assignment},
        listeners={
            OUTBOUND: outbound,
            **{name: pack(name, listeners.outbound_tcp(key, LOOPBACK, key.port)) for name, key in tcp.items()},
            **{resource.name: resource for resource in inbound},
        },
        routes={OUTBOUND: config},
        needs={
            OUTBOUND: frozenset(key.name for key in keys),
            **{name: frozenset({key.name}) for name, key in tcp.items()},
            **{resource.name: frozenset({spec.name}) for resource, (spec, _) in zip(inbound, ways_in, strict=True)},
        },
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Host:
    """A virtual host of this proxy: on one port of a service, or a mere name."""

    name: str
    domains: tuple[str, ...]
    routes: tuple[RouteMessage, ...]
    keys: frozenset[ClusterKey]
    origins: tuple[Origin, ...]


def visible(world: World, service: Service, caller: SpiffeID) -> bool:
    """Whether a caller could be let in by some endpoint; what is outside of the mesh is there for all of it."""
    if service.entry.external or not service.endpoints:
        return caller.trust_domain == world.own
    return any(world.rules.may_call(caller, each) for each in service.endpoints)


def _hosts(world: World, proxy: Proxy) -> Iterator[_Host]:
    for host, service in world.table.services.items():
        if visible(world, service, proxy.identity):
            yield from _service_hosts(service, world.table.hosts.get(host), proxy.identity)
    for host, virtual in world.table.hosts.items():
        if host not in world.table.services:
            made, keys = _routes(virtual, proxy.identity, None)
            yield _Host(name=host, domains=_of_name(host), routes=made, keys=keys, origins=(virtual.origin,))


def _service_hosts(service: Service, virtual: VirtualHost | None, caller: SpiffeID) -> Iterator[_Host]:
    ports = [port for port in service.entry.ports if port.protocol.is_http]
    for port in ports:
        key = ClusterKey(service.host, port.number)
        made, keys = _routes(virtual, caller, port.number) if virtual else ((to_cluster(key),), frozenset({key}))
        names = names_of(service, caller)
        bare = names if port is main_port(ports) else ()
        yield _Host(
            name=f"{service.host}:{port.number}",
            domains=(*bare, *(f"{name}:{port.number}" for name in names)),
            routes=made,
            keys=keys,
            origins=(*_origins(service), *((virtual.origin,) if virtual else ())),
        )


def _routes(
    virtual: VirtualHost, caller: SpiffeID, port: int | None
) -> tuple[tuple[RouteMessage, ...], frozenset[ClusterKey]]:
    """The routes that a caller has of a virtual host, and the clusters that these may lead to."""
    mine = [each for each in virtual.routes if not each.rule.source_principals or caller in each.rule.source_principals]
    keys = frozenset(key for each in mine for key in (*each.clusters, *each.mirrors))
    return routes(mine, caller, port), keys


def main_port(ports: Iterable[ServicePort]) -> ServicePort:
    """The port that a host without a port means: 80 if it has that, else its first."""
    candidates = list(ports)
    return next((port for port in candidates if port.number == 80), candidates[0])  # noqa: PLR2004 - HTTP's port


def names_of(service: Service, caller: SpiffeID) -> tuple[str, ...]:
    """What clients may call a host: in a cluster's scheme also its short names, as far as they are unambiguous for this caller."""
    name, *rest = service.host.split(".")
    if len(rest) < 3 or rest[1] != "svc":  # noqa: PLR2004 - namespace, svc, domain
        return (service.host,)
    here = caller.path.startswith(f"/ns/{rest[0]}/")
    return (service.host, f"{name}.{rest[0]}.svc", f"{name}.{rest[0]}", *((name,) if here else ()))


def _of_name(host: str) -> tuple[str, ...]:
    """A name with any port, where Envoy can say so."""
    return (host,) if host.startswith("*") else (host, f"{host}:*")


def _configuration(hosts: Iterable[_Host]) -> RouteConfiguration:
    """All virtual hosts. A domain belongs to the first that claims it; a host that nobody has is answered at once."""
    made = RouteConfiguration(name=OUTBOUND)
    made.validate_clusters.value = False
    taken: set[str] = set()
    for host in hosts:
        domains = [name for name in host.domains if name not in taken]
        taken.update(domains)
        if domains:
            made.virtual_hosts.append(
                VirtualHostMessage(
                    name=host.name, domains=domains, routes=host.routes, include_request_attempt_count=True
                )
            )
    if "*" not in taken:
        made.virtual_hosts.append(_nowhere())
    return made


def _nowhere() -> VirtualHostMessage:
    route = RouteMessage(name="block_all")
    route.match.prefix = "/"
    route.direct_response.status = 502
    route.direct_response.body.inline_bytes = _NOT_FOUND
    return VirtualHostMessage(name="block_all", domains=["*"], routes=[route])


def _tcp_keys(world: World, proxy: Proxy) -> list[ClusterKey]:
    return [
        ClusterKey(host, port.number)
        for host, service in world.table.services.items()
        if visible(world, service, proxy.identity)
        for port in service.entry.ports
        if not port.protocol.is_http
    ]


def _inbound(world: World, proxy: Proxy) -> Iterator[tuple[Inbound, Instance]]:
    """The ports on which this workload is called, each once."""
    seen = set()
    for service in chain.from_iterable(table.services.values() for table in (world.table, *world.leaving)):
        for instance in service.endpoints:
            if instance.identity != proxy.identity or proxy.address not in {"", instance.address}:
                continue
            for port in service.entry.ports:
                spec = _way_in(world, proxy, instance, port)
                if spec and spec.port not in seen:
                    seen.add(spec.port)
                    yield spec, instance


def _way_in(world: World, proxy: Proxy, instance: Instance, port: ServicePort) -> Inbound | None:
    """None where the listener would call itself: on loopback the application needs a port of its own."""
    number = instance.ports[port.number]
    app_port = proxy.app_ports.get(number, number)
    address = instance.address if proxy.address else EVERYWHERE
    if app_port == number and address in {LOOPBACK, EVERYWHERE}:
        return None
    return Inbound(
        address=address,
        port=number,
        app_address=LOOPBACK,
        app_port=app_port,
        protocol=port.protocol,
        mode=world.rules.mode(instance, number),
    )


def _inbound_listener(world: World, spec: Inbound, instance: Instance) -> Resource:
    def guards(plaintext: bool) -> Guards:  # noqa: FBT001 - the two kinds of chain
        rules = world.rules
        return Guards(http=rules.http_rbac(instance, plaintext), tcp=rules.tcp_rbac(instance, plaintext))

    listener = listeners.inbound(spec, world.own, guards(False), guards(True))
    return pack(listener.name, listener)


def _identities(service: Service) -> frozenset[SpiffeID]:
    return frozenset(each.identity for each in service.endpoints if each.identity)


def _origins(service: Service) -> tuple[Origin, ...]:
    return (service.entry.origin, *((service.rule.origin,) if service.rule else ()))
