"""Listeners: where an application's calls go out, and where calls to it come in. Pure.

Rules:
- Outbound HTTP has one listener on loopback and finds its way by Host; each TCP port of a service has a listener of its own number.
- Inbound listens where the service's endpoints say that this workload is, takes mutual TLS from its trust domain, and lets RBAC decide.
- What a caller says of its caller (x-forwarded-client-cert) is never passed on: it is set anew from the certificate.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.listener.v3.listener_components_pb2 import Filter, FilterChain, ListenerFilter
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_components_pb2 import Route, VirtualHost
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.http.fault.v3.fault_pb2 import HTTPFault
from envoy.extensions.filters.http.router.v3.router_pb2 import Router
from envoy.extensions.filters.listener.tls_inspector.v3.tls_inspector_pb2 import TlsInspector
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
    HttpFilter,
)
from envoy.extensions.filters.network.tcp_proxy.v3.tcp_proxy_pb2 import TcpProxy
from envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions
from google.protobuf.message import Message

from meshca.router.mesh.objects import MTLSMode, Protocol
from meshca.router.mesh.table import ClusterKey
from meshca.router.resources import tls
from meshca.router.resources.clusters import ADS, address
from meshca.router.resources.reporting import Reports
from meshca.router.resources.routes import FAULT_FILTER
from meshca.router.security.rbac import Sorts, http_allowing, http_filters, http_rules, network_filters
from spiffe.id import TrustDomain

OUTBOUND = "outbound"
"""Name of the outbound HTTP listener and of its route configuration."""
OUTBOUND_PORT = 15001
HANDSHAKE_SECONDS = 15
"""Whoever has shown no certificate by then is cut off: Envoy itself would wait for ever."""
LOOPBACK = "127.0.0.1"
EVERYWHERE = "0.0.0.0"  # noqa: S104 - a sidecar is there to be reached; RBAC decides who gets through
EVERYWHERE_6 = "::"
"""By IPv4, too."""

_SILENT = Reports()
_HTTP = "envoy.filters.network.http_connection_manager"
_TCP = "envoy.filters.network.tcp_proxy"
_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


@dataclass(frozen=True, slots=True, kw_only=True)
class Inbound:
    """One port on which a workload is called: `address` and `port` are the endpoint's, `app_port` is the application's on `app_address`."""

    address: str
    port: int
    app_address: str
    app_port: int
    protocol: Protocol
    mode: MTLSMode = MTLSMode.STRICT
    redirected: bool = False
    """Whether connections come by redirection only, since the port is the application's own."""

    @property
    def name(self) -> str:
        """As Istio names what is inbound."""
        return f"inbound|{self.port}||"


def outbound(port: int = OUTBOUND_PORT, reports: Reports = _SILENT) -> Listener:
    """The HTTP listener for an application's calls. Its routes come by RDS."""
    manager = _manager(OUTBOUND, [http_filter(FAULT_FILTER, HTTPFault())], reports)
    manager.rds.route_config_name = OUTBOUND
    manager.rds.config_source.CopyFrom(ADS)
    made = Listener(name=OUTBOUND, address=address(LOOPBACK, port), filter_chains=[_chain(_HTTP, manager)])
    made.traffic_direction = 2  # OUTBOUND
    return made


def outbound_tcp(key: ClusterKey, host: str, port: int, reports: Reports = _SILENT) -> Listener:
    """A listener for one TCP service, on the port of the service."""
    made = Listener(
        name=f"{host}_{port}", address=address(host, port), filter_chains=[tcp_chain(key.name, key.stat_name, reports)]
    )
    made.traffic_direction = 2
    return made


def tcp_chain(cluster: str, stat_name: str, reports: Reports = _SILENT) -> FilterChain:
    """A chain that takes a connection to a cluster, byte by byte."""
    return _chain(_TCP, TcpProxy(stat_prefix=stat_name, cluster=cluster, access_log=reports.tcp))


def inbound(spec: Inbound, own: TrustDomain, sorts: Sorts, reports: Reports = _SILENT) -> Listener:
    """The listener for calls to an application. PERMISSIVE takes TLS and plaintext on the same port; a plaintext caller is nobody."""
    alpn = ("h2", "http/1.1") if spec.protocol.is_http else ()
    made = Listener(name=f"{spec.name}{spec.address}", address=address(spec.address, spec.port))
    made.traffic_direction = 1  # INBOUND
    made.address.socket_address.ipv4_compat = spec.address == EVERYWHERE_6
    if spec.mode is not MTLSMode.DISABLE:
        chain = made.filter_chains.add(filters=_inbound_filters(spec, sorts, reports))
        chain.transport_socket.CopyFrom(tls.from_anybody(own, alpn))
        chain.transport_socket_connect_timeout.FromSeconds(HANDSHAKE_SECONDS)
        if spec.mode is MTLSMode.PERMISSIVE:
            chain.filter_chain_match.transport_protocol = "tls"
    if spec.mode is not MTLSMode.STRICT:
        plain = made.filter_chains.add(filters=_inbound_filters(spec, sorts, reports, plaintext=True))
        plain.filter_chain_match.transport_protocol = "raw_buffer" if spec.mode is MTLSMode.PERMISSIVE else ""
    if spec.mode is MTLSMode.PERMISSIVE:
        made.listener_filters.append(tls_inspector())
    return made


def tls_inspector() -> ListenerFilter:
    """What tells TLS from plaintext by the first bytes, and which name is asked for."""
    made = ListenerFilter(name="envoy.filters.listener.tls_inspector")
    made.typed_config.Pack(TlsInspector(), deterministic=True)
    return made


def inbound_cluster(spec: Inbound) -> Cluster:
    """The application behind an inbound listener."""
    made = Cluster(name=spec.name, type=Cluster.STATIC)
    made.connect_timeout.FromSeconds(1)
    endpoints = made.load_assignment
    endpoints.cluster_name = spec.name
    endpoints.endpoints.add().lb_endpoints.add().endpoint.address.CopyFrom(address(spec.app_address, spec.app_port))
    if spec.protocol.is_http:
        options = HttpProtocolOptions()
        options.use_downstream_protocol_config.http_protocol_options.SetInParent()
        options.use_downstream_protocol_config.http2_protocol_options.SetInParent()
        made.typed_extension_protocol_options[_OPTIONS].Pack(options, deterministic=True)
    return made


def inbound_routes(spec: Inbound, sorts: Sorts) -> RouteConfiguration:
    """What a listener for HTTP does with calls: everything that these policies let in goes to the application.

    With another number of filters it has another name, since that is what the listener asks for then.
    """
    route = Route(name="default")
    route.match.prefix = "/"
    route.route.cluster = spec.name
    route.route.timeout.FromSeconds(0)
    everything = VirtualHost(name=spec.name, domains=["*"], routes=[route])
    name = f"{spec.name}{http_allowing(sorts)}"
    return RouteConfiguration(name=name, virtual_hosts=[everything], typed_per_filter_config=http_rules(sorts))


def _inbound_filters(spec: Inbound, sorts: Sorts, reports: Reports, *, plaintext: bool = False) -> list[Filter]:
    if not spec.protocol.is_http:
        guards = network_filters(sorts, plaintext=plaintext)
        return [*guards, *tcp_chain(spec.name, spec.name, reports).filters]
    manager = _manager(spec.name, http_filters(http_allowing(sorts), plaintext=plaintext), reports)
    # What RBAC judges must be what the application gets.
    manager.merge_slashes = True
    manager.strip_trailing_host_dot = True
    manager.path_with_escaped_slashes_action = HttpConnectionManager.UNESCAPE_AND_REDIRECT
    manager.forward_client_cert_details = HttpConnectionManager.SANITIZE_SET
    manager.set_current_client_cert_details.uri = True
    manager.rds.route_config_name = inbound_routes(spec, sorts).name
    manager.rds.config_source.CopyFrom(ADS)
    return [_filter(_HTTP, manager)]


def _manager(prefix: str, filters: Iterable[HttpFilter], reports: Reports) -> HttpConnectionManager:
    made = HttpConnectionManager(
        stat_prefix=prefix,
        http_filters=[*filters, http_filter("envoy.filters.http.router", Router())],
        access_log=reports.http,
        tracing=reports.tracing,
    )
    made.normalize_path.value = True
    made.stream_idle_timeout.FromSeconds(0)
    made.upgrade_configs.add(upgrade_type="websocket")
    return made


def http_filter(name: str, config: Message) -> HttpFilter:
    """A filter of an HTTP connection manager."""
    made = HttpFilter(name=name)
    made.typed_config.Pack(config, deterministic=True)
    return made


def _filter(name: str, config: Message) -> Filter:
    made = Filter(name=name)
    made.typed_config.Pack(config, deterministic=True)
    return made


def _chain(name: str, config: Message) -> FilterChain:
    return FilterChain(filters=[_filter(name, config)])
