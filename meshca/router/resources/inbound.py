"""The ports on which a workload is called, and why one of them has no way in. Pure.

Rules: nothing is left out in silence; what can not be is told with the proxy that it is about.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from meshca.router.mesh.endpoints import Instance
from meshca.router.mesh.objects import ServicePort
from meshca.router.mesh.table import Service
from meshca.router.resources.listeners import EVERYWHERE, EVERYWHERE_6, LOOPBACK, Inbound
from meshca.router.resources.proxy import Proxy
from meshca.router.resources.world import World
from meshca.router.security.peering import strictest


def inbound_of(world: World, proxy: Proxy) -> Iterator[tuple[Inbound, Sequence[Instance]]]:
    """The ports on which this workload is called, each once, with all of its places that have it."""
    found: dict[int, tuple[Inbound, list[Instance]]] = {}
    for _, instance, port in _called(world, proxy):
        if spec := _way_in(proxy, instance, port):
            found.setdefault(spec.port, (spec, []))[1].append(instance)
    for spec, callees in found.values():
        modes = (world.rules.mode(each, spec.port) for each in callees)
        is_also_6 = spec.address == EVERYWHERE and any(":" in each.address for each in callees)
        yield replace(spec, mode=strictest(modes), address=EVERYWHERE_6 if is_also_6 else spec.address), callees


def _called(world: World, proxy: Proxy) -> Iterator[tuple[Service, Instance, ServicePort]]:
    """Each port of each place where this proxy may be."""
    for service, instance in world.places_of(proxy.identity):
        if proxy.is_at(instance.address):
            yield from ((service, instance, port) for port in service.entry.ports)


def _way_in(proxy: Proxy, instance: Instance, port: ServicePort) -> Inbound | None:
    """None where the listener would call itself: on loopback the application needs a port of its own, unless calls are redirected.

    In STRICT mode: the mode is that of all places which have the port.
    """
    number = instance.ports[port.number]
    app_port = proxy.app_ports.get(number, number)
    address = instance.address if proxy.address else EVERYWHERE
    redirected = app_port == number and proxy.transparent is not None
    if app_port == number and address in {LOOPBACK, EVERYWHERE} and not redirected:
        return None
    return Inbound(
        address=address,
        port=number,
        app_address=LOOPBACK,
        app_port=app_port,
        protocol=port.protocol,
        redirected=redirected,
    )


def obstacles(world: World, proxy: Proxy) -> Iterator[str]:
    """Why calls to this workload do not come in, where they do not."""
    protocols = {spec.port: spec.protocol for spec, _ in inbound_of(world, proxy)}
    known = sorted({instance.address for _, instance in world.places_of(proxy.identity)})
    if known and not any(map(proxy.is_at, known)):
        yield f"no endpoint of this identity has its address {proxy.address}, only {', '.join(known)}: see --address"
    for service, instance, port in _called(world, proxy):
        number = instance.ports[port.number]
        if _way_in(proxy, instance, port) is None:
            yield f"{_name(service, port)}: proxy and application can not both have port {number} here: see --app {number}=PORT"
        elif protocols[number] is not port.protocol:
            yield f"{_name(service, port)}: on port {number} comes {protocols[number]} of another service, not {port.protocol}"


def _name(service: Service, port: ServicePort) -> str:
    return f"{service.host}:{port.number}"
