"""The two listeners of a sidecar of which its application knows nothing: they take what was redirected, by where it was going. Pure.

Rules:
- Out go TCP services by address and port, HTTP by Host on each port that some service has it on, and TLS by the name that is asked for.
- What is none of these is refused, since a service that this identity may not call is unknown to it too: passed on, calls to it would
  leave in plaintext once a policy hides it. Only who asks for it passes the unknown on (docs/decisions/0015).
- The two do not hand over to other listeners (Envoy's `use_original_dst`): these are found by address alone, and a call from outside
  could be taken for one that goes out, with this workload's identity.
- Of two services at one place, the first by file and line has it.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Self

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.listener.v3.listener_components_pb2 import (
    FilterChain,
    FilterChainMatch,
    ListenerFilter,
    ListenerFilterChainMatchPredicate,
)
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_components_pb2 import Route, VirtualHost
from envoy.extensions.filters.listener.original_dst.v3.original_dst_pb2 import OriginalDst

from meshca.bootstrap_spec import Transparent
from meshca.router.mesh.endpoints import ip
from meshca.router.mesh.objects import Protocol
from meshca.router.mesh.table import ClusterKey, Service
from meshca.router.resources import listeners
from meshca.router.resources.clusters import CONNECT_SECONDS, address
from meshca.router.resources.outbound import Outbound
from meshca.router.resources.reporting import Reports

PASSTHROUGH = "PassthroughCluster"
"""Name of the cluster that leads to where a connection was going, as in Istio."""
INBOUND = "inbound"
"""Name of the listener that takes redirected calls to the application."""
LOOPBACK_6 = "::1"

Place = tuple[int, IPv4Address | IPv6Address]
"""A port at an address."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Callees:
    """What may be called: HTTP on these ports, and TCP services by where they are or by the name that is asked for there."""

    http_ports: frozenset[int]
    by_address: Mapping[Place, ClusterKey]
    by_name: tuple[ClusterKey, ...]

    @classmethod
    def of(cls, out: Outbound) -> Self:
        """Those of a proxy."""
        services = out.services
        return cls(
            http_ports=out.http_ports,
            by_address=by_address(services, out.tcp),
            by_name=tuple(key for key in out.tcp if key.host != "*" and _is_tls(services[key.host], key.port)),
        )

    @property
    def clusters(self) -> frozenset[str]:
        """The names of the clusters of TCP services."""
        return frozenset(key.name for key in (*self.by_address.values(), *self.by_name))


def outbound(port: int, transparent: Transparent, callees: Callees, reports: Reports) -> Listener:
    """Takes calls to these services. HTTP has its routes by RDS."""
    made = listeners.outbound(port, reports)
    _restore_destinations(made, LOOPBACK_6 if transparent.ipv6 else "")
    http = made.filter_chains.pop()
    made.filter_chains.extend(_on(http, FilterChainMatch(), each) for each in sorted(callees.http_ports - {port}))
    # Who calls the port itself was going nowhere else. Were that passed on, it would come back here for ever.
    made.filter_chains.append(_on(FilterChain() if transparent.passes_unknown else http, FilterChainMatch(), port))
    made.filter_chains.extend(_by_address(callees.by_address, reports))
    made.filter_chains.extend(_asking_for(key, reports) for key in callees.by_name)
    if callees.by_name:
        made.listener_filters.append(_inspector_on({key.port for key in callees.by_name}))
    if transparent.passes_unknown:
        made.default_filter_chain.CopyFrom(listeners.tcp_chain(PASSTHROUGH, PASSTHROUGH, reports))
    return made


def inbound(transparent: Transparent, anywhere: str, ways_in: Mapping[int, Listener]) -> Listener:
    """Takes calls to the application's own ports, each as its listener in `ways_in` would; closes all others."""
    made = Listener(name=INBOUND, address=address(anywhere, transparent.inbound_port))
    made.traffic_direction = 1  # INBOUND
    _restore_destinations(made, listeners.EVERYWHERE_6 if transparent.ipv6 else "")
    for port, way_in in ways_in.items():
        made.filter_chains.extend(_on(chain, chain.filter_chain_match, port) for chain in way_in.filter_chains)
    if inspected := {port for port, way_in in ways_in.items() if way_in.listener_filters}:
        made.listener_filters.append(_inspector_on(inspected))
    if not ways_in:
        made.filter_chains.append(FilterChain())  # Envoy wants one; without filters it closes
    return made


def by_address(services: Mapping[str, Service], keys: Sequence[ClusterKey]) -> dict[Place, ClusterKey]:
    """TCP services by where calls to them may be going: an address of their own or of an endpoint, with their port or the endpoint's."""
    return {place: key for key in reversed(keys) for place in _places(services[key.host], key.port)}


def passthrough() -> Cluster:
    """Wherever the connection was going."""
    made = Cluster(name=PASSTHROUGH, type=Cluster.ORIGINAL_DST, lb_policy=Cluster.CLUSTER_PROVIDED)
    made.connect_timeout.FromSeconds(CONNECT_SECONDS)
    return made


def unclaimed() -> VirtualHost:
    """Requests for hosts that nobody claims go to where their connection was going."""
    route = Route(name="allow_any")
    route.match.prefix = "/"
    route.route.cluster = PASSTHROUGH
    route.route.timeout.FromSeconds(0)
    return VirtualHost(name="allow_any", domains=["*"], routes=[route])


def _restore_destinations(made: Listener, also: str) -> None:
    """Give connections the destination that they had. Listen at `also`, too."""
    restored = made.listener_filters.add(name="envoy.filters.listener.original_dst")
    restored.typed_config.Pack(OriginalDst(), deterministic=True)
    if also:
        made.additional_addresses.add(address=address(also, made.address.socket_address.port_value))


def _on(chain: FilterChain, match: FilterChainMatch, port: int) -> FilterChain:
    made = FilterChain()
    made.CopyFrom(chain)
    made.filter_chain_match.CopyFrom(match)
    made.filter_chain_match.destination_port.value = port
    return made


def _by_address(taken: Mapping[Place, ClusterKey], reports: Reports) -> Iterator[FilterChain]:
    """One chain for all places of a service on one port."""
    matches: dict[tuple[int, ClusterKey], FilterChainMatch] = {}
    for (port, where), key in taken.items():
        match = matches.setdefault((port, key), FilterChainMatch())
        match.prefix_ranges.add(address_prefix=str(where)).prefix_len.value = where.max_prefixlen
    for (port, key), match in matches.items():
        yield _on(listeners.tcp_chain(key.name, key.stat_name, reports), match, port)


def _asking_for(key: ClusterKey, reports: Reports) -> FilterChain:
    return _on(
        listeners.tcp_chain(key.name, key.stat_name, reports), FilterChainMatch(server_names=[key.host]), key.port
    )


def _inspector_on(ports: Collection[int]) -> ListenerFilter:
    """The TLS inspector on these ports only: elsewhere a client may wait for the server to speak first."""
    made = listeners.tls_inspector()
    rules = [ListenerFilterChainMatchPredicate() for _ in ports]
    for rule, port in zip(rules, sorted(ports), strict=True):
        there = rule.not_match.destination_port_range
        there.start, there.end = port, port + 1
    if len(rules) == 1:  # Envoy wants two for an `and`
        made.filter_disabled.CopyFrom(rules[0])
    else:
        made.filter_disabled.and_match.rules.extend(rules)
    return made


def _places(service: Service, port: int) -> Iterator[Place]:
    for written in service.entry.addresses:
        yield port, ip_address(written)
    for each in service.endpoints:
        if where := ip(each.address):
            yield port, where
            yield each.ports[port], where


def _is_tls(service: Service, number: int) -> bool:
    port = service.port(number)
    return port is not None and port.protocol is Protocol.TLS
