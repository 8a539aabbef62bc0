"""The listeners of a proxy and what each leads to: for an application that knows of its sidecar, or for one that does not. Pure.

Rules: an application that knows has one port for HTTP and one for each TCP service; of one that does not, `transparent` says.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from envoy.config.listener.v3.listener_pb2 import Listener

from meshca.router.mesh.objects import Origin
from meshca.router.resources import listeners, transparent
from meshca.router.resources.listeners import EVERYWHERE, LOOPBACK, Inbound
from meshca.router.resources.outbound import Outbound
from meshca.router.resources.proxy import Proxy
from meshca.router.resources.reporting import Reports
from meshca.router.resources.world import origins
from sds.xds.resource import Resource
from sds.xds.wire import pack


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A listener, the names of the clusters that it leads to, and the objects that it came from."""

    listener: Listener
    needs: frozenset[str] = frozenset()
    origins: tuple[Origin, ...] = ()

    @property
    def resource(self) -> Resource:
        """The listener, packed."""
        return pack(self.listener.name, self.listener, self.origins)


def ways_out(proxy: Proxy, out: Outbound, reports: Reports) -> tuple[Way, ...]:
    """Where the application's calls go in: first the one for HTTP, which leads also to where its routes do."""
    port = proxy.outbound_port
    if proxy.transparent:
        callees = transparent.Callees.of(out)
        beyond = {transparent.PASSTHROUGH} if proxy.transparent.passes_unknown else set()
        listener = transparent.outbound(port, proxy.transparent, callees, reports)
        return (Way(listener=listener, needs=out.needs | callees.clusters | beyond),)
    tcp = {key.port: key for key in reversed(out.tcp) if key.port != port}.values()
    return (
        Way(listener=listeners.outbound(port, reports), needs=out.needs),
        *(
            Way(
                listener=listeners.outbound_tcp(key, LOOPBACK, key.port, reports),
                needs=frozenset({key.name}),
                origins=origins(out.services[key.host]),
            )
            for key in tcp
        ),
    )


def ways_in(proxy: Proxy, made: Sequence[tuple[Inbound, Way]]) -> tuple[Way, ...]:
    """Where calls to the application come in: the listeners made for its ports, and the one for all of them that are redirected."""
    own = tuple(way for spec, way in made if not spec.redirected)
    if not proxy.transparent:
        return own
    redirected = {spec.port: way for spec, way in made if spec.redirected}
    listener = transparent.inbound(
        proxy.transparent, EVERYWHERE, {port: way.listener for port, way in redirected.items()}
    )
    needs = frozenset[str]().union(*(way.needs for way in redirected.values()))
    origins = tuple(dict.fromkeys(origin for way in redirected.values() for origin in way.origins))
    return (*own, Way(listener=listener, needs=needs, origins=origins))
