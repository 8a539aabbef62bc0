"""All that configuration is made of at one moment: which services there are, and what policies say of them. Pure.

Rules: a cluster and its endpoints are made once for all proxies, and anew only when the service changed.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment

from meshca.router.mesh.endpoints import Instance, Place
from meshca.router.mesh.objects import AuthorizationPolicy, MTLSMode, Origin
from meshca.router.mesh.table import ClusterKey, Service, Table, same
from meshca.router.resources import clusters, proxyless_clusters
from meshca.router.resources.telemetry import Telling
from sds.xds.resource import Resource
from sds.xds.wire import pack
from spiffe.id import SpiffeID, TrustDomain

_SILENT = Telling()
_NOBODY = frozenset[SpiffeID]()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What policies say, as far as a view needs to know it."""

    may_call: Callable[[SpiffeID, Instance], bool] = lambda _caller, _callee: True
    policies: Callable[[Instance], tuple[AuthorizationPolicy, ...]] = lambda _callee: ()
    """Those that hold for a callee."""
    mode: Callable[[Instance, int], MTLSMode] = lambda _callee, _port: MTLSMode.STRICT
    tells: Callable[[Instance], Telling] = lambda _workload: _SILENT
    loose: tuple[Instance, ...] = ()
    """Workloads that are in no service."""
    basis: object = None
    """What they were made of, if they are the same for as long as this is equal."""

    def sorts(self, callees: Iterable[Instance]) -> list[tuple[AuthorizationPolicy, ...]]:
        """The policies of one listener for several places: nobody knows which is called, so what those of any sort refuse is refused."""
        distinct = {(each.namespace, frozenset(each.labels.items())): each for each in callees}
        return [self.policies(each) for each in distinct.values()]


class Made(NamedTuple):
    """The cluster of a key, its load assignment if it comes by EDS, and what both were made of."""

    service: Service
    identities: frozenset[SpiffeID]
    hidden: frozenset[Place]
    cluster: Resource
    assignment: Resource | None


class _Shape(Protocol):
    """What makes clusters: `meshca.router.resources.clusters` for Envoy, `meshca.router.resources.proxyless_clusters` for gRPC."""

    def cluster(
        self, service: Service, key: ClusterKey, own: TrustDomain, identities: Iterable[SpiffeID]
    ) -> Cluster: ...

    def load_assignment(self, key: ClusterKey, members: Sequence[Instance]) -> ClusterLoadAssignment: ...

    def has_assignment(self, service: Service) -> bool: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """All that views are made of. `made` keeps the resources of services, of this world and of the one before it; `proxyless` gRPC's.

    `identities` has, for each service, those that its endpoints have, or had in a world before this one. Nobody is told yet of the places
    that are `hidden`, and workloads still listen where the tables say that are `leaving`.
    """

    own: TrustDomain
    table: Table
    rules: Rules = field(default_factory=Rules)
    identities: Mapping[str, frozenset[SpiffeID]] = field(default_factory=dict)
    hidden: frozenset[Place] = frozenset()
    leaving: tuple[Table, ...] = ()
    made: dict[ClusterKey, Made] = field(default_factory=dict)
    proxyless: dict[ClusterKey, Made] = field(default_factory=dict)
    _callees: dict[SpiffeID, list[Service]] = field(init=False, default_factory=dict)

    def following(self, before: "World") -> "World":
        """This world, with what the one before it has made of the same services and policies: who compares sees at once what changed."""
        services = self.table.services
        identities = {
            host: before.identities.get(host, _NOBODY).union(service.by_identity) for host, service in services.items()
        }
        return World(
            own=self.own,
            table=self.table,
            rules=before.rules if self.rules.basis and self.rules.basis == before.rules.basis else self.rules,
            identities=same(identities, before.identities),
            made={key: made for key, made in before.made.items() if services.get(key.host) is made.service},
            proxyless={key: made for key, made in before.proxyless.items() if services.get(key.host) is made.service},
        )

    def differs(self, before: "World", host: str) -> bool:
        """Whether anything that is made of a host may be otherwise than in that world, but for its policies."""
        one, other = self.table, before.table
        service = one.services.get(host)
        return (
            service is not other.services.get(host)
            or one.hosts.get(host) is not other.hosts.get(host)
            or self.identities.get(host) is not before.identities.get(host)
            or bool(service and service.places & (self.hidden ^ before.hidden))
        )

    def resources(self, key: ClusterKey) -> tuple[Resource, Resource | None]:
        """The cluster of a key and, if its endpoints come by EDS, its load assignment."""
        identities = self.identities.get(key.host) or frozenset(self.table.services[key.host].by_identity)
        return self._kept(self.made, key, identities, clusters)

    def proxyless_resources(self, key: ClusterKey) -> tuple[Resource, Resource | None]:
        """The same for gRPC, which takes each of these identities at each endpoint: only those of now count, and of who is leaving."""
        found = (table.services.get(key.host) for table in (self.table, *self.leaving))
        identities = _NOBODY.union(*(service.by_identity for service in found if service))
        return self._kept(self.proxyless, key, identities, proxyless_clusters)

    def _kept(
        self, kept: dict[ClusterKey, Made], key: ClusterKey, identities: frozenset[SpiffeID], shape: _Shape
    ) -> tuple[Resource, Resource | None]:
        service = self.table.services[key.host]
        hidden = self._hidden_of(service)
        made = kept.get(key)
        if made is None or (made.service, made.identities, made.hidden) != (service, identities, hidden):
            made = kept[key] = self._make(key, identities, hidden, shape)
        return made.cluster, made.assignment

    def _make(self, key: ClusterKey, identities: frozenset[SpiffeID], hidden: frozenset[Place], shape: _Shape) -> Made:
        service = self.table.services[key.host]
        proof = origins(service)
        cluster = pack(key.name, shape.cluster(service, key, self.own, identities), proof)
        members = [each for each in service.members(key.subset) if each.place(key.port) not in hidden]
        has_eds = shape.has_assignment(service)
        assignment = pack(key.name, shape.load_assignment(key, members), proof) if has_eds else None
        return Made(service, identities, hidden, cluster, assignment)

    def _hidden_of(self, service: Service) -> frozenset[Place]:
        return self.hidden and self.hidden & service.places

    def places_of(self, identity: SpiffeID) -> list[tuple[Service, Instance]]:
        """Where this identity is called, or was in what is leaving."""
        if not self._callees:
            for service in self._services():
                for each in service.by_identity:
                    self._callees.setdefault(each, []).append(service)
        found = self._callees.get(identity, ())
        return [(service, instance) for service in found for instance in service.by_identity[identity]]

    def _services(self) -> Iterator[Service]:
        """Those of now, and as they are that change or go."""
        services = self.table.services
        yield from services.values()
        for table in self.leaving:
            yield from (each for host, each in table.services.items() if each is not services.get(host))


def visible(world: World, service: Service, caller: SpiffeID) -> bool:
    """Whether a caller could be let in by some endpoint; what is outside of the mesh is there for all of it."""
    if service.entry.external or not service.endpoints:
        return caller.trust_domain == world.own
    return any(world.rules.may_call(caller, each) for each in service.endpoints)


def origins(service: Service) -> tuple[Origin, ...]:
    """The objects that a service is made of."""
    return (service.entry.origin, *((service.rule.origin,) if service.rule else ()))
