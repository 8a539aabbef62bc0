"""Objects resolved against one another: services with their endpoints, and which rules hold for which host. Pure.

Rules:
- Every reference in a table leads somewhere: a host to a service, a subset to endpoints, a port to a port. What does not is a problem with
  file, line and field, and the object that has it takes no part; the others do.
- Of two objects that claim the same host, the first (by file and line) wins, and the other is a problem.
- A host without dots is the host of a ServiceEntry as it stands, else `<host>.<namespace>.svc.<domain>`.
- A subset that no DestinationRule defines is the endpoints labelled `version: <subset>`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple, TypeVar

from meshca.router.mesh.endpoints import ByLabel, Instance, Lost, Place, by_label, instances
from meshca.router.mesh.objects import (
    Destination,
    DestinationRule,
    HTTPRule,
    Mirror,
    Object,
    Origin,
    Problem,
    Protocol,
    ServiceEntry,
    ServicePort,
    Subset,
    Telemetry,
    TrafficPolicy,
    VirtualService,
    WeightedDestination,
    WorkloadEntry,
)
from spiffe.id import SpiffeID

DEFAULT_DOMAIN = "cluster.local"
_Value = TypeVar("_Value")


class ClusterKey(NamedTuple):
    """A group of endpoints: of a host, on one of its ports, all (subset empty) or those of a subset."""

    host: str
    port: int
    subset: str = ""

    @property
    def name(self) -> str:
        """As Istio names clusters, and dashboards expect."""
        return f"outbound|{self.port}|{self.subset}|{self.host}"

    @property
    def stat_name(self) -> str:
        """The name without dots, at the first of which Envoy would end the label of its metrics. No host has an underscore."""
        return self.name.replace(".", "_")


@dataclass(frozen=True, kw_only=True)
class Service:
    """One host that clients may call. `endpoints` are of all ports; `subsets` those that somebody defined or refers to.

    What is asked of it again and again is found out once, and stays with it from table to table.
    """

    host: str
    entry: ServiceEntry
    endpoints: tuple[Instance, ...]
    rule: DestinationRule | None = None
    subsets: Mapping[str, Subset] = field(default_factory=dict)

    @cached_property
    def by_identity(self) -> Mapping[SpiffeID, Sequence[Instance]]:
        """The endpoints in the mesh, by who must be there."""
        found: dict[SpiffeID, list[Instance]] = {}
        for each in self.endpoints:
            if each.identity:
                found.setdefault(each.identity, []).append(each)
        return found

    @cached_property
    def places(self) -> frozenset[Place]:
        """Where it is called, with who must be there."""
        return frozenset(place for each in self.endpoints for place in each.places)

    def port(self, number: int) -> ServicePort | None:
        """The port of that number."""
        return next((port for port in self.entry.ports if port.number == number), None)

    def members(self, subset: str) -> tuple[Instance, ...]:
        """The endpoints of a subset; all when it is empty."""
        if not subset:
            return self.endpoints
        wanted = self.subsets[subset].labels.items()
        return tuple(each for each in self.endpoints if wanted <= each.labels.items())

    def policy(self, port: int, subset: str = "") -> TrafficPolicy:
        """What was written of how to use it, the more special over the more general: host, its port, subset, its port."""
        layers = [self.rule.policy, self.rule.port_policies.get(port)] if self.rule else []
        if subset:
            layers += [self.subsets[subset].policy, self.subsets[subset].port_policies.get(port)]
        return overlaid(each for each in layers if each)


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A rule whose destinations are resolved, in the order of `rule.route` and `rule.mirrors`."""

    rule: HTTPRule
    clusters: tuple[ClusterKey, ...] = ()
    mirrors: tuple[ClusterKey, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualHost:
    """The rules for a host. `origin` is the VirtualService; `service` is None where the host is nothing but a name."""

    host: str
    namespace: str
    origin: Origin
    routes: tuple[Route, ...]


class Reporting(NamedTuple):
    """A Telemetry, and the cluster that its spans go to if it says where."""

    written: Telemetry
    collector: ClusterKey | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """What the objects mean together. `hosts` has the virtual hosts by name: services without rules of their own are not in it."""

    services: Mapping[str, Service] = field(default_factory=dict)
    hosts: Mapping[str, VirtualHost] = field(default_factory=dict)
    reporting: tuple[Reporting, ...] = ()
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()


def overlaid(layers: Iterable[TrafficPolicy]) -> TrafficPolicy:
    """One policy of several: what a later one says replaces what earlier ones said, field by field."""
    merged = TrafficPolicy()
    for layer in layers:
        written = {name: value for name in TrafficPolicy.__slots__ if (value := getattr(layer, name)) is not None}
        merged = replace(merged, **written)
    return merged


def build(objects: Sequence[Object], domain: str = DEFAULT_DOMAIN, before: Table | None = None) -> Table:
    """Resolve all references. What is wrong is told, never raised. What is equal to that of the table before is the very same object."""
    return _Builder(objects, domain, before or Table()).build()


class _Builder:
    """One pass over the objects, in the order of file and line."""

    def __init__(self, objects: Sequence[Object], domain: str, before: Table) -> None:
        self._objects = sorted(objects, key=lambda each: each.origin[:2])
        self._domain = domain
        self._before = before
        self._services: dict[str, Service] = {}
        self._problems: list[Problem] = []

    def build(self) -> Table:
        workloads = by_label(self._of(WorkloadEntry))
        for entry in self._of(ServiceEntry):
            self._add_service(entry, workloads)
        for rule in self._of(DestinationRule):
            self._add_rule(rule)
        hosts: dict[str, VirtualHost] = {}
        for service in self._of(VirtualService):
            self._add_hosts(service, hosts)
        reporting = tuple(self._reporting())
        return Table(
            services=same(self._services, self._before.services),
            hosts=same(hosts, self._before.hosts),
            reporting=reporting,
            problems=tuple(self._problems),
            warnings=tuple(_aimless(reporting)),
        )

    def _of(self, kind: type[_Value]) -> list[_Value]:
        return [each for each in self._objects if isinstance(each, kind)]

    def _report(self, origin: Origin, where: str, text: str, line: int = 0) -> None:
        self._problems.append(
            Problem(file=origin.file, line=line or origin.line, label=origin.label, field=where, text=text)
        )

    def _add_service(self, entry: ServiceEntry, workloads: ByLabel) -> None:
        found, lost = self._instances(entry, workloads)
        for problem in lost:
            self._report(problem.origin, problem.where, problem.text, problem.line)
        for index, host in enumerate(entry.hosts):
            if taken := self._services.get(host):
                self._report(entry.origin, f"spec.hosts[{index}]", f"{host} is taken by {_at(taken.entry.origin)}")
            else:
                self._services[host] = Service(host=host, entry=entry, endpoints=found)

    def _instances(self, entry: ServiceEntry, workloads: ByLabel) -> tuple[tuple[Instance, ...], tuple[Lost, ...]]:
        """Its endpoints; those of before if it is the same, writes them itself and lost none."""
        before = self._before.services.get(entry.hosts[0])
        is_same = before is not None and before.entry is entry and not entry.workload_selector
        if before and is_same and 0 < len(entry.endpoints) == len(before.endpoints):
            return before.endpoints, ()
        return instances(entry, workloads)

    def _add_rule(self, rule: DestinationRule) -> None:
        host = self._host(rule.host, rule.origin.namespace)
        service = self._services.get(host)
        if service is None:
            self._report(rule.origin, "spec.host", _no_service(host, rule.host))
        elif service.rule:
            self._report(rule.origin, "spec.host", f"{host} has {_at(service.rule.origin)} already")
        else:
            self._report_ports(rule, service)
            subsets = {subset.name: subset for subset in rule.subsets}
            self._services[host] = replace(service, rule=rule, subsets=subsets)

    def _report_ports(self, rule: DestinationRule, service: Service) -> None:
        for number in rule.port_policies:
            if service.port(number) is None:
                self._report(rule.origin, "spec.trafficPolicy.portLevelSettings", _no_port(service, number))

    def _add_hosts(self, service: VirtualService, hosts: dict[str, VirtualHost]) -> None:
        routes = self._routes(service)
        for index, written in enumerate(service.hosts):
            host = self._host(written, service.origin.namespace)
            if taken := hosts.get(host):
                self._report(service.origin, f"spec.hosts[{index}]", f"{host} is taken by {_at(taken.origin)}")
            elif routes is not None:
                namespace = service.origin.namespace
                hosts[host] = VirtualHost(host=host, namespace=namespace, origin=service.origin, routes=routes)

    def _routes(self, service: VirtualService) -> tuple[Route, ...] | None:
        """All its rules resolved, or None: a half of them would route what was meant for the other half."""
        before = len(self._problems)
        routes = tuple(
            Route(
                rule=rule,
                clusters=tuple(self._clusters(service.origin, rule.route)),
                mirrors=tuple(self._clusters(service.origin, rule.mirrors)),
            )
            for rule in service.http
        )
        return routes if len(self._problems) == before else None

    def _clusters(self, origin: Origin, destinations: Iterable[WeightedDestination | Mirror]) -> Iterator[ClusterKey]:
        for each in destinations:
            try:
                yield self._resolve(each.destination, origin.namespace)
            except LookupError as error:
                self._report(origin, f"{each.where}.destination", str(error.args[0]), each.line)

    def _reporting(self) -> Iterator[Reporting]:
        for each in self._of(Telemetry):
            try:
                yield Reporting(each, self._collector(each) if each.collector else None)
            except LookupError as error:
                self._report(each.origin, "spec.tracing[0].providers[0].name", str(error.args[0]))

    def _collector(self, telemetry: Telemetry) -> ClusterKey:
        """Raises LookupError when there is no such service, or it is none for spans."""
        destination = Destination(host=telemetry.collector, port=telemetry.collector_port)
        key = self._resolve(destination, telemetry.origin.namespace, f"by {telemetry.collector}:PORT")
        port = self._services[key.host].port(key.port)
        if port is None or port.protocol not in {Protocol.GRPC, Protocol.HTTP2}:
            spoken = port.protocol if port else "nothing"
            raise LookupError(f"spans go by OTLP over gRPC, but port {key.port} of {key.host} speaks {spoken}")
        return key

    def _resolve(self, destination: Destination, namespace: str, way: str = "in destination.port.number") -> ClusterKey:
        """Raises LookupError with what is not there; `way` is how to say which port is meant."""
        host = self._host(destination.host, namespace)
        service = self._services.get(host)
        if service is None:
            raise LookupError(_no_service(host, destination.host))
        key = ClusterKey(host, _port_of(service, destination.port, way), destination.subset)
        if destination.subset:
            self._services[host] = _with_subset(service, destination.subset)
        return key

    def _host(self, written: str, namespace: str) -> str:
        """The host that a short name means."""
        if "." in written or written in self._services or written == "*":
            return written
        return f"{written}.{namespace}.svc.{self._domain}"


def same(after: Mapping[str, _Value], before: Mapping[str, _Value]) -> dict[str, _Value]:
    """The values after, each the very object of before if it is equal."""
    return {name: before[name] if before.get(name) == value else value for name, value in after.items()}


def _aimless(reporting: Sequence[Reporting]) -> Iterator[Problem]:
    """What is said of spans where nobody says where they go: Istio's users are used to a default."""
    if not any(each.collector for each in reporting):
        for each, _ in reporting:
            if each.sampling or each.tags:
                origin, text = each.origin, "there are no spans: no Telemetry names a service as provider for them"
                yield Problem(
                    file=origin.file, line=origin.line, label=origin.label, field="spec.tracing[0].providers", text=text
                )


def _port_of(service: Service, port: int | None, way: str) -> int:
    """`way` is how to say it. Raises LookupError."""
    if port is None:
        if len(service.entry.ports) > 1:
            numbers = ", ".join(str(each.number) for each in service.entry.ports)
            raise LookupError(f"{service.host} has ports {numbers}: say which {way}")
        return service.entry.ports[0].number
    if service.port(port) is None:
        raise LookupError(_no_port(service, port))
    return port


def _with_subset(service: Service, name: str) -> Service:
    """The service with that subset. Raises LookupError when no endpoint is in it and nobody defined it."""
    if name in service.subsets:
        return service
    made = replace(service, subsets={**service.subsets, name: Subset(name=name, labels={"version": name})})
    if not made.members(name):
        raise LookupError(
            f"no DestinationRule defines subset {name!r} of {service.host}, and no endpoint of it is labelled version: {name}"
        )
    return made


def _no_service(host: str, written: str) -> str:
    """A name without dots is hardly meant to stand for the long one where nobody comes from Kubernetes."""
    short = f"; a ServiceEntry with `hosts: [{written}]` would do, too" if written != host else ""
    return f"there is no service {host}{short}"


def _no_port(service: Service, number: int) -> str:
    numbers = ", ".join(str(each.number) for each in service.entry.ports)
    return f"{service.host} has no port {number}, only {numbers}"


def _at(origin: Origin) -> str:
    return f"{origin.label} ({origin.file}:{origin.line})"
