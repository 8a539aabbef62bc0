"""Where a service is reached, and who must be there: its inline endpoints, or the WorkloadEntries that it selects. Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TypeAlias

from meshca.router.mesh.objects import Origin, Resolution, ServiceEntry, WorkloadEndpoint, WorkloadEntry
from spiffe.errors import SpiffeError
from spiffe.id import SpiffeID


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One place of a service. `ports` maps the service's port numbers to those that are listened on there.

    `identity` is the SPIFFE ID expected there, None outside of the mesh. Policies of `namespace` that select `labels` hold there.
    """

    address: str
    ports: Mapping[int, int]
    namespace: str
    labels: Mapping[str, str] = field(default_factory=dict)
    weight: int | None = None
    identity: SpiffeID | None = None

    @property
    def places(self) -> "Iterator[Place]":
        """Where it is called on each of its ports; nowhere outside of the mesh."""
        return (found for number in self.ports if (found := self.place(number)))

    def place(self, port: int) -> "Place | None":
        """Where it is called on a port of its service; None outside of the mesh."""
        if self.identity is None:
            return None
        return Place(identity=self.identity, address=self.address, port=self.ports[port])


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a workload is called: by whom it must be, and at which address and port."""

    identity: SpiffeID
    address: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """An endpoint that can not be used, and why: something in the object that it came from, or in the service."""

    origin: Origin
    where: str
    line: int
    text: str


def namespace_of(identity: SpiffeID) -> str:
    """The namespace of an identity in the ns/sa scheme, else empty."""
    return identity.path.split("/")[2] if identity.path.startswith("/ns/") else ""


def ip(text: str) -> IPv4Address | IPv6Address | None:
    """The address that a text is; None for a name, and for an address that holds on one link only, which Envoy does not take."""
    try:
        return None if "%" in text else ip_address(text)
    except ValueError:
        return None


ByLabel: TypeAlias = Mapping[tuple[str, str, str], Sequence[WorkloadEntry]]
"""Workloads by namespace, key and value of each label."""


def by_label(workloads: Iterable[WorkloadEntry]) -> ByLabel:
    """Workloads as selectors find them: a mesh has too many to look at all of them for each service."""
    found: dict[tuple[str, str, str], list[WorkloadEntry]] = {}
    for workload in workloads:
        for key, value in workload.endpoint.labels.items():
            found.setdefault((workload.origin.namespace, key, value), []).append(workload)
    return found


def instances(entry: ServiceEntry, workloads: ByLabel) -> tuple[tuple[Instance, ...], tuple[Lost, ...]]:
    """The endpoints of a service that can be used, and those that can not."""
    found: list[Instance] = []
    lost: list[Lost] = []
    for origin, endpoint in _written(entry, workloads):
        try:
            if entry.resolution is Resolution.STATIC and ip(endpoint.address) is None:
                lost.append(_no_address(entry, origin, endpoint))
            else:
                found.append(_instance(entry, origin.namespace, endpoint))
        except LookupError as error:
            lost.append(_no_identity(entry, origin, endpoint, str(error.args[0])))
    return tuple(found), tuple(lost)


def _no_address(entry: ServiceEntry, origin: Origin, endpoint: WorkloadEndpoint) -> Lost:
    text = f"{endpoint.address!r} is not an IP address: {entry.hosts[0]}, which selects it, has resolution STATIC"
    return Lost(origin=origin, where="spec.address", line=endpoint.line, text=text)


def _no_identity(entry: ServiceEntry, origin: Origin, endpoint: WorkloadEndpoint, text: str) -> Lost:
    """Told of the service, which may have lost its own; its last good version is kept then."""
    if origin is entry.origin:
        return Lost(origin=origin, where=endpoint.where or "spec.endpoints", line=endpoint.line, text=text)
    where = f"{origin.label} ({origin.file}:{origin.line}): {text}"
    return Lost(origin=entry.origin, where="spec.workloadSelector", line=0, text=where)


def _written(entry: ServiceEntry, workloads: ByLabel) -> Iterator[tuple[Origin, WorkloadEndpoint]]:
    """Each endpoint, with the object that it is of. A DNS service without endpoints is its own."""
    namespace = entry.origin.namespace
    for endpoint in entry.endpoints:
        yield entry.origin, endpoint
    wanted = entry.workload_selector.items()
    having = [workloads.get((namespace, *label), ()) for label in wanted]
    for workload in min(having, key=len, default=()):
        if wanted <= workload.endpoint.labels.items():
            yield workload.origin, workload.endpoint
    if not entry.endpoints and not wanted and entry.resolution is Resolution.DNS:
        for host in entry.hosts:
            yield entry.origin, WorkloadEndpoint(address=host)


def _instance(entry: ServiceEntry, namespace: str, endpoint: WorkloadEndpoint) -> Instance:
    return Instance(
        address=endpoint.address,
        ports={port.number: endpoint.ports.get(port.name, port.target_port or port.number) for port in entry.ports},
        namespace=namespace,
        labels=endpoint.labels,
        weight=endpoint.weight,
        identity=_identity(entry, endpoint),
    )


def _identity(entry: ServiceEntry, endpoint: WorkloadEndpoint) -> SpiffeID | None:
    """Who must be there. Raises LookupError when nothing says so, and it is inside of the mesh."""
    if entry.external:
        return None
    if endpoint.spiffe_id:
        return endpoint.spiffe_id
    if len(entry.subject_alt_names) != 1:
        raise LookupError(
            f"nothing says which SPIFFE ID is expected at {endpoint.address}: give it a serviceAccount, a WorkloadEntry "
            "the annotation meshca.dev/spiffe-id, or the service one subjectAltNames"
        )
    try:
        return SpiffeID.parse(entry.subject_alt_names[0])
    except SpiffeError as error:
        raise LookupError(f"subjectAltNames of the service is no SPIFFE ID: {error}") from error
