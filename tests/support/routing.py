"""Objects of the routing server, made short for tests: what is not named is what most users would write."""

from collections.abc import Mapping
from typing import Any

from meshca.router.mesh.objects import (
    Destination,
    DestinationRule,
    HTTPRule,
    Origin,
    Protocol,
    Resolution,
    ServiceEntry,
    ServicePort,
    Subset,
    VirtualService,
    WeightedDestination,
    WorkloadEndpoint,
    WorkloadEntry,
)
from spiffe.id import SpiffeID, TrustDomain

OURS = TrustDomain("mesh.local")


def origin(kind: str, name: str, *, namespace: str = "default", file: str = "mesh.yaml", line: int = 1) -> Origin:
    """Where an object stands."""
    return Origin(file=file, line=line, kind=kind, namespace=namespace, name=name)


def account(name: str, namespace: str = "default") -> SpiffeID:
    """The identity of a service account."""
    return SpiffeID(OURS, f"/ns/{namespace}/sa/{name}")


def endpoint(address: str, *, version: str = "", identity: SpiffeID | None = None, **changes: Any) -> WorkloadEndpoint:
    """One place, of the account `api` unless said otherwise."""
    labels = {"app": "api", **({"version": version} if version else {})}
    made: dict[str, Any] = {"address": address, "labels": labels, "spiffe_id": identity or account("api"), **changes}
    return WorkloadEndpoint(**made)


def service(host: str = "api", *endpoints: WorkloadEndpoint, **changes: Any) -> ServiceEntry:
    """A static service with one HTTP port, 80."""
    made: dict[str, Any] = {
        "origin": origin("ServiceEntry", host, line=changes.pop("line", 1)),
        "hosts": (host,),
        "ports": (http(80),),
        "resolution": Resolution.STATIC,
        "endpoints": endpoints,
    }
    return ServiceEntry(**made | changes)


def http(number: int, name: str = "http", **changes: Any) -> ServicePort:
    """An HTTP port."""
    return ServicePort(**{"number": number, "name": name, "protocol": Protocol.HTTP} | changes)


def tcp(number: int, name: str = "tcp") -> ServicePort:
    """A TCP port."""
    return ServicePort(number=number, name=name, protocol=Protocol.TCP)


def workload(name: str, where: WorkloadEndpoint, *, namespace: str = "default") -> WorkloadEntry:
    """A workload that services may select."""
    return WorkloadEntry(origin=origin("WorkloadEntry", name, namespace=namespace), endpoint=where)


def to(host: str, subset: str = "", weight: int | None = None, **changes: Any) -> WeightedDestination:
    """A share of the requests."""
    destination = Destination(host=host, subset=subset, port=changes.pop("port", None))
    return WeightedDestination(
        destination=destination, weight=weight, **{"line": 9, "where": "spec.http[0].route[0]"} | changes
    )


def rule(*route: WeightedDestination, **changes: Any) -> HTTPRule:
    """An HTTP rule."""
    return HTTPRule(**{"line": 8, "where": "spec.http[0]", "route": route} | changes)


def virtual(host: str, *rules: HTTPRule, name: str = "", line: int = 5) -> VirtualService:
    """The rules of a host."""
    return VirtualService(origin=origin("VirtualService", name or host, line=line), hosts=(host,), http=rules)


def destination_rule(host: str, *subsets: Subset, **changes: Any) -> DestinationRule:
    """How clients use a host."""
    made = {"origin": origin("DestinationRule", host, line=changes.pop("line", 3)), "host": host, "subsets": subsets}
    return DestinationRule(**made | changes)


def subset(name: str, labels: Mapping[str, str], **changes: Any) -> Subset:
    """A subset by labels."""
    return Subset(name=name, labels=labels, **changes)
