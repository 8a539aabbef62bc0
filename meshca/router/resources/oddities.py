"""What is written and most likely not meant, as warnings. Pure.

Rules: what is warned of holds all the same, as it is written.
"""

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TypeGuard

from meshca.router.mesh.endpoints import Instance
from meshca.router.mesh.objects import (
    AuthorizationPolicy,
    MTLSMode,
    Object,
    Origin,
    PeerAuthentication,
    Problem,
    TLSMode,
    WorkloadEntry,
)
from meshca.router.mesh.state import State
from meshca.router.mesh.table import Service
from meshca.router.resources.homes import loose
from meshca.router.security.peering import mode
from meshca.router.security.policy import applies


def oddities(state: State) -> Iterator[Problem]:
    """All of them."""
    yield from _idle(state)
    yield from _deaf(state)
    yield from _unknown_ports(state)


def _idle(state: State) -> Iterator[Problem]:
    """Policies whose selector no workload fulfils: with a slip in a label nothing is guarded, and nothing else would tell."""
    selecting = [each for each in state.good.values() if _selects(each)]
    having = _by_label(state) if selecting else {}
    for each in selecting:
        rarest = min((having.get(label, []) for label in each.selector.items()), key=len)
        if not any(applies(each, workload.namespace, workload.labels) for workload in rarest):
            yield _odd(each.origin, "spec.selector", "no workload has these labels: it holds nowhere")
        elif isinstance(each, PeerAuthentication) and each.port_modes:
            yield from _idle_ports(each, rarest)


def _idle_ports(policy: PeerAuthentication, workloads: Iterable[Instance]) -> Iterator[Problem]:
    """Modes of ports that no workload has which is selected: most likely somebody meant the service's."""
    selected = (each for each in workloads if applies(policy, each.namespace, each.labels))
    known = {port for each in selected for port in each.ports.values()}
    only = f", only on {', '.join(map(str, sorted(known)))}" if known else ""
    for port in sorted(policy.port_modes.keys() - known):
        text = f"no workload with these labels is called on {port}{only}: it is the endpoint's port that counts, not the service's"
        yield _odd(policy.origin, f"spec.portLevelMtls.{port}", text)


def _odd(origin: Origin, where: str, text: str) -> Problem:
    return Problem(file=origin.file, line=origin.line, label=origin.label, field=where, text=text)


def _selects(each: Object) -> TypeGuard[AuthorizationPolicy | PeerAuthentication]:
    return isinstance(each, AuthorizationPolicy | PeerAuthentication) and bool(each.selector)


def _by_label(state: State) -> dict[tuple[str, str], list[Instance]]:
    """All workloads by each of their labels: policies and workloads are many, and are read at each change."""
    called = (each for service in state.table.services.values() for each in service.endpoints)
    found: dict[tuple[str, str], list[Instance]] = {}
    for workload in chain(called, loose(state.table, state.good.values())):
        for label in workload.labels.items():
            found.setdefault(label, []).append(workload)
    return found


def _deaf(state: State) -> Iterator[Problem]:
    """Services that take plaintext only while their callers show certificates. As long as a connection lasts, all looks well."""
    peering = [each for each in state.good.values() if isinstance(each, PeerAuthentication)]
    if any(MTLSMode.DISABLE in {each.mode, *each.port_modes.values()} for each in peering):
        for service in state.table.services.values():
            ports = sorted(_deaf_ports(service, peering))
            if ports:
                text = (
                    f"takes plaintext only on {', '.join(map(str, ports))}, says a PeerAuthentication, and callers show certificates: "
                    f"say PERMISSIVE there, or tls: {{mode: DISABLE}} in the trafficPolicy of a DestinationRule for {service.host}"
                )
                yield _odd(service.entry.origin, "spec.ports", text)


def _deaf_ports(service: Service, peering: Iterable[PeerAuthentication]) -> Iterator[int]:
    for port in (each.number for each in service.entry.ports):
        asked = service.policy(port).tls
        if asked is None or asked.mode is TLSMode.ISTIO_MUTUAL:
            mine = (each for each in service.endpoints if each.identity)
            if any(mode(peering, each, each.ports[port]) is MTLSMode.DISABLE for each in mine):
                yield port


def _unknown_ports(state: State) -> Iterator[Problem]:
    """Workloads that give a number to a port by a name that none of their services has."""
    naming = [each for each in state.good.values() if isinstance(each, WorkloadEntry) and each.endpoint.ports]
    known = _port_names(state) if naming else {}
    for each in naming:
        names = known.get((each.origin.namespace, each.endpoint.address), set(each.endpoint.ports))
        for name in sorted(each.endpoint.ports.keys() - names):
            text = f"no service that selects it has a port of this name, only {', '.join(sorted(names))}"
            yield _odd(each.origin, f"spec.ports.{name}", text)


def _port_names(state: State) -> dict[tuple[str, str], set[str]]:
    """Those of all services at a place, by its namespace and address. Of inline endpoints their reader knows the ports."""
    known: dict[tuple[str, str], set[str]] = {}
    for service in state.table.services.values():
        if service.entry.workload_selector:
            names = {port.name for port in service.entry.ports}
            for place in service.endpoints:
                known.setdefault((place.namespace, place.address), set()).update(names)
    return known
