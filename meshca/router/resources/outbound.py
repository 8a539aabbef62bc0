"""What goes out of a proxy: the services that its identity may call, with their routes as it has them. Pure.

Rules:
- Identity scopes configuration: a service that this identity could not call is not in it, whatever the proxy says of itself.
- What callers have in common is made once, and anew only when its service, its rules or its policies changed. So a change costs each
  identity a look at what there is, and nothing that is made of it.
"""

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Self, TypeAlias
from weakref import WeakValueDictionary

from envoy.config.route.v3.route_components_pb2 import Route as RouteMessage
from envoy.config.route.v3.route_components_pb2 import VirtualHost as VirtualHostMessage
from envoy.config.route.v3.route_pb2 import RouteConfiguration

from meshca.router.mesh.endpoints import namespace_of
from meshca.router.mesh.objects import Origin, ServicePort
from meshca.router.mesh.table import ClusterKey, Service, VirtualHost
from meshca.router.resources.listeners import OUTBOUND
from meshca.router.resources.routes import is_for, routes, to_cluster
from meshca.router.resources.world import World, origins, visible
from sds.xds.edition import Edition
from sds.xds.resource import Resource
from sds.xds.wire import pack
from spiffe.id import SpiffeID

_NOT_FOUND = b"no such service, or none that this identity may call: see `meshca router explain`\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A virtual host of this proxy: on one `port` of a service, or a mere name."""

    name: str
    domains: tuple[str, ...]
    routes: tuple[RouteMessage, ...]
    keys: frozenset[ClusterKey]
    origins: tuple[Origin, ...]
    port: int | None = None


@dataclass(frozen=True, slots=True)
class Offer:
    """What callers of one sort get of a host: virtual hosts, and ports that are not HTTP."""

    hosts: tuple[Host, ...] = ()
    tcp: tuple[ClusterKey, ...] = ()


_NOTHING = Offer()
_Sort: TypeAlias = tuple[str, tuple[bool, ...]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outbound:
    """The same for all that are offered the same: the route configuration, the clusters that it refers to, and those of TCP ports.

    `services` has the services of the TCP ports.
    """

    offers: tuple[Offer, ...]
    config: Resource
    keys: tuple[ClusterKey, ...]
    tcp: tuple[ClusterKey, ...]
    needs: frozenset[str]
    services: Mapping[str, Service]
    clusters: Edition
    endpoints: Edition

    def following(self, world: World, changed: Container[str]) -> Self:
        """The same in the next world, in which nothing is otherwise but these hosts. What does not change is the very same object."""
        made = {key.name: world.resources(key) for key in (*self.keys, *self.tcp) if key.host in changed}
        tcp = {key.host: world.table.services[key.host] for key in self.tcp if key.host in changed}
        return replace(
            self,
            services={**self.services, **tcp} if tcp else self.services,
            clusters=self.clusters.following({name: cluster for name, (cluster, _) in made.items()}),
            endpoints=self.endpoints.following({name: assignment for name, (_, assignment) in made.items()}),
        )

    @property
    def http_ports(self) -> frozenset[int]:
        """The ports on which some service has HTTP."""
        return frozenset(host.port for offer in self.offers for host in offer.hosts if host.port is not None)

    def config_with(self, otherwise: VirtualHostMessage) -> Resource:
        """The route configuration, with that for requests to hosts that nobody claims."""
        return _config([host for offer in self.offers for host in offer.hosts], otherwise)


class Seen(NamedTuple):
    """What callers of one sort are offered of a host, and of what that was made."""

    service: Service | None
    virtual: VirtualHost | None
    offer: Offer


class Outbounds:
    """Makes them, world after world, and remembers what it made for as long as it holds."""

    def __init__(self) -> None:
        self._world: World | None = None
        self._offers: dict[tuple[str, _Sort], Seen] = {}
        self._seen: dict[SpiffeID, Look] = {}
        self._before: World | None = None
        self._changed: frozenset[str] | None = None
        """The hosts that are otherwise than in the world before; None if there are others, or they are ordered otherwise."""
        self._offered: WeakValueDictionary[tuple[object, ...], Offered] = WeakValueDictionary()
        self._made: dict[Offered, Outbound] = {}
        self._made_before: dict[Offered, Outbound] = {}

    def of(self, world: World, caller: SpiffeID) -> Outbound:
        """What goes out of the proxies of this identity."""
        look = self.look(world, caller)
        if look.offered not in self._made:
            self._made[look.offered] = self._make(world, look)
        return self._made[look.offered]

    def _make(self, world: World, look: "Look") -> Outbound:
        before = self._made_before.get(look.offered)
        if before is None or self._changed is None:
            return _outbound(world, look)
        return before.following(world, self._changed)

    def look(self, world: World, caller: SpiffeID) -> "Look":
        """What is offered to this identity."""
        if world is not self._world:
            self._turn(world)
        look = self._seen[caller] = self._look(world, caller)
        return look

    def forget(self, caller: SpiffeID) -> None:
        """Nobody of this identity is there any more."""
        self._seen.pop(caller, None)

    def _turn(self, world: World) -> None:
        """Another world: what nobody used in the one before goes."""
        self._before, self._world = self._world, world
        self._changed = _changed(self._before, world) if self._before else None
        self._made_before, self._made = self._made, {}
        if self._changed is None:
            hosts = {*_hosts(world)}
            self._offers = {key: seen for key, seen in self._offers.items() if key[0] in hosts}

    def _look(self, world: World, caller: SpiffeID) -> "Look":
        before = self._seen.get(caller)
        if before and before.world is world:
            return before
        is_next = before is not None and before.world is self._before and before.world.rules is world.rules
        if before is None or self._changed is None or not is_next:
            return Look(world, self._shared({host: self._offer(world, host, caller) for host in _hosts(world)}))
        offered, fresh = before.offered, {host: self._offer(world, host, caller) for host in self._changed}
        if any(offer is not offered.by_host[host] for host, offer in fresh.items()):
            offered = self._shared({**offered.by_host, **fresh})
        return Look(world, offered)

    def _shared(self, by_host: dict[str, Offer]) -> "Offered":
        """One for all who are offered the same. It keeps its offers, so their ids are theirs for as long as it is there."""
        key = (*by_host, *map(id, by_host.values()))
        return self._offered.setdefault(key, Offered(by_host))

    def _offer(self, world: World, host: str, caller: SpiffeID) -> Offer:
        service, virtual = world.table.services.get(host), world.table.hosts.get(host)
        if service and not visible(world, service, caller):
            return _NOTHING
        key = host, _sort(host, virtual, caller)
        seen = self._offers.get(key)
        if seen is None or seen.service is not service or seen.virtual is not virtual:
            offer = _offer(host, service, virtual, caller)
            same = seen is not None and seen.offer == offer
            seen = self._offers[key] = Seen(service, virtual, seen.offer if seen and same else offer)
        return seen.offer


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Offered:
    """What is offered to some identities, by host: one and the same for all that are offered the same."""

    by_host: Mapping[str, Offer]


class Look(NamedTuple):
    """What an identity is offered in a world."""

    world: World
    offered: Offered

    @property
    def offers(self) -> tuple[Offer, ...]:
        """All of them, in order."""
        return tuple(self.offered.by_host.values())

    @property
    def hidden(self) -> frozenset[str]:
        """The services that this identity may not call: a route of another may lead there, and tells nothing of them."""
        by_host, services = self.offered.by_host, self.world.table.services
        return frozenset(host for host, offer in by_host.items() if offer is _NOTHING and host in services)


def _hosts(world: World) -> list[str]:
    """All names, services first: they claim their domains before those that are nothing but names."""
    services = world.table.services
    return [*services, *(host for host in world.table.hosts if host not in services)]


def _changed(before: World, after: World) -> frozenset[str] | None:
    hosts = _hosts(after)
    if hosts != _hosts(before):
        return None
    return frozenset(host for host in hosts if after.differs(before, host))


def _sort(host: str, virtual: VirtualHost | None, caller: SpiffeID) -> _Sort:
    """All of a caller on which it depends what it gets of a host that it may call."""
    rules = [each.rule for each in virtual.routes] if virtual else []
    is_told_apart = f".{namespace_of(caller)}.svc." in host or any(
        match.source_namespace for rule in rules for match in rule.matches
    )
    return namespace_of(caller) if is_told_apart else "", tuple(caller in rule.source_principals for rule in rules)


def _offer(host: str, service: Service | None, virtual: VirtualHost | None, caller: SpiffeID) -> Offer:
    if service:
        others = [port.number for port in service.entry.ports if not port.protocol.is_http]
        return Offer(
            hosts=tuple(_service_hosts(service, virtual, caller)), tcp=tuple(ClusterKey(host, each) for each in others)
        )
    if virtual is None:
        return _NOTHING
    made, keys = _routes(virtual, caller, None)
    return Offer(hosts=(Host(name=host, domains=_of_name(host), routes=made, keys=keys, origins=(virtual.origin,)),))


def _outbound(world: World, look: Look) -> Outbound:
    offers, hidden = look.offers, look.hidden
    hosts = [host for offer in offers for host in offer.hosts]
    keys = sorted({key for host in hosts for key in host.keys if key.host not in hidden})
    empty = Outbound(
        offers=offers,
        config=_config(hosts, _nowhere()),
        keys=tuple(keys),
        tcp=tuple(key for offer in offers for key in offer.tcp),
        needs=frozenset(key.name for key in keys),
        services={},
        clusters=Edition({}),
        endpoints=Edition({}),
    )
    return empty.following(world, world.table.services.keys())


def _config(hosts: Sequence[Host], otherwise: VirtualHostMessage) -> Resource:
    made = _configuration(hosts, otherwise)
    return pack(OUTBOUND, made, tuple(origin for host in hosts for origin in host.origins))


def _service_hosts(service: Service, virtual: VirtualHost | None, caller: SpiffeID) -> Iterator[Host]:
    ports = [port for port in service.entry.ports if port.protocol.is_http]
    for port in ports:
        key = ClusterKey(service.host, port.number)
        made, keys = _routes(virtual, caller, port.number) if virtual else ((to_cluster(key),), frozenset({key}))
        names = names_of(service, caller)
        bare = names if port is main_port(ports) else ()
        yield Host(
            name=f"{service.host}:{port.number}",
            domains=(*bare, *(f"{name}:{port.number}" for name in names)),
            routes=made,
            keys=keys,
            origins=(*origins(service), *((virtual.origin,) if virtual else ())),
            port=port.number,
        )


def _routes(
    virtual: VirtualHost, caller: SpiffeID, port: int | None
) -> tuple[tuple[RouteMessage, ...], frozenset[ClusterKey]]:
    """The routes that a caller has of a virtual host, and the clusters that these may lead to."""
    mine = [each for each in virtual.routes if is_for(each, caller)]
    keys = frozenset(key for each in mine for key in (*each.clusters, *each.mirrors))
    return routes(mine, caller, port), keys


def main_port(ports: Iterable[ServicePort]) -> ServicePort:
    """The port that a host without a port means: 80 if it has that, else its first."""
    candidates = list(ports)
    return next((port for port in candidates if port.number == 80), candidates[0])  # noqa: PLR2004 - HTTP's port


def names_of(service: Service, caller: SpiffeID) -> tuple[str, ...]:
    """What clients may call a host: its addresses too, and in a cluster's scheme its short names, where this caller can mean no other."""
    name, *rest = service.host.split(".")
    addresses = (f"[{each}]" if ":" in each else each for each in service.entry.addresses)
    if len(rest) < 3 or rest[1] != "svc":  # noqa: PLR2004 - namespace, svc, domain
        return (service.host, *addresses)
    here = namespace_of(caller) == rest[0]
    return (service.host, f"{name}.{rest[0]}.svc", f"{name}.{rest[0]}", *((name,) if here else ()), *addresses)


def _of_name(host: str) -> tuple[str, ...]:
    """A name with any port, where Envoy can say so."""
    return (host,) if host.startswith("*") else (host, f"{host}:*")


def _configuration(hosts: Iterable[Host], otherwise: VirtualHostMessage) -> RouteConfiguration:
    """All virtual hosts. A domain belongs to the first that claims it, and what nobody claims to `otherwise`."""
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
        made.virtual_hosts.append(otherwise)
    return made


def _nowhere() -> VirtualHostMessage:
    """Answered at once."""
    route = RouteMessage(name="block_all")
    route.match.prefix = "/"
    route.direct_response.status = 502
    route.direct_response.body.inline_bytes = _NOT_FOUND
    return VirtualHostMessage(name="block_all", domains=["*"], routes=[route])
