"""A complete Envoy bootstrap that takes its certificates from our socket, built as a plain JSON document. Pure.

Rules:
- Every listener names its peers exactly. Who may call is configuration (URI matchers here), whom to trust is ours (the SDS validator).
- One trust domain per TLS context (design section 5): `ALL` is refused, since Envoy would take a leaf with two URIs of a partner for ours.
- A proxy is ready when its certificates are there: the initial fetch waits for ever, unless the spec says otherwise.
- Nothing is retried or timed out in secret: applications own their deadlines, and a failure that happened is seen.
"""

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from meshca.errors import InvalidInput
from spiffe.id import SCHEME, SpiffeID, TrustDomain

Json = dict[str, Any]

SDS_CLUSTER = "meshca"
CLIENT_HEADER = "x-client-spiffe-id"
SERVER_HEADER = "x-server-spiffe-id"

_TYPE = "type.googleapis.com/envoy.extensions"
_MAX_PORT = 65535
_MAX_SOCKET_BYTES = 107  # sockaddr_un, without the final NUL


@dataclass(frozen=True, slots=True, kw_only=True)
class Inbound:
    """A mutual TLS listener in front of a local application: exactly one of `app_port` (on 127.0.0.1) and `response` (a fixed body).

    `peers` are the SPIFFE IDs that may call, `secret` and `validation` the SDS names of our SVID and of the bundle that judges theirs.
    The application finds the caller's ID in x-forwarded-client-cert; a fixed response carries it in `x-client-spiffe-id`.
    """

    port: int
    peers: tuple[SpiffeID, ...]
    app_port: int | None = None
    response: str | None = None
    address: str = "0.0.0.0"  # noqa: S104 - a sidecar is there to be reached; only named peers get through
    secret: str = "default"  # noqa: S105 - the name of a secret
    validation: str = "ROOTCA"
    max_requests_per_connection: int = 0
    name: str = ""

    def __post_init__(self) -> None:
        """Refuse a listener that nothing is behind, or that anybody may call."""
        _check_context(self.peers, self.validation)
        _check_port(self.port)
        if self.app_port is not None:
            _check_port(self.app_port, lowest=1)
        if (self.app_port is None) == (self.response is None):
            raise InvalidInput(f"inbound port {self.port} needs either an application port or a fixed response")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outbound:
    """A plain listener on 127.0.0.1 whose requests go to one upstream over mutual TLS; each answer says who gave it (`x-server-spiffe-id`).

    `peer` is the only SPIFFE ID that the upstream may show. `max_requests_per_connection` (0: no limit) makes new handshakes happen.
    """

    port: int
    host: str
    host_port: int
    peer: SpiffeID
    secret: str = "default"  # noqa: S105 - the name of a secret
    validation: str = "ROOTCA"
    max_requests_per_connection: int = 0
    connect_timeout: timedelta = timedelta(seconds=5)
    name: str = ""

    def __post_init__(self) -> None:
        """Refuse an upstream that could be anybody or nowhere."""
        _check_context((self.peer,), self.validation)
        _check_port(self.port)
        _check_port(self.host_port, lowest=1)
        if not self.host:
            raise InvalidInput(f"outbound port {self.port} has no upstream host")


@dataclass(frozen=True, slots=True, kw_only=True)
class BootstrapSpec:
    """What one Envoy shall be. `initial_fetch_timeout` zero waits for ever; `sds_retry`: first and longest pause between tries."""

    node_id: str
    node_cluster: str
    sds_socket: str
    inbound: tuple[Inbound, ...] = ()
    outbound: tuple[Outbound, ...] = ()
    admin_port: int = 9901
    delta: bool = False
    initial_fetch_timeout: timedelta = timedelta(0)
    sds_retry: tuple[timedelta, timedelta] = (timedelta(milliseconds=100), timedelta(seconds=1))

    def __post_init__(self) -> None:
        """Refuse what Envoy would refuse later, or accept and do wrongly."""
        if not (self.node_id and self.node_cluster):
            raise InvalidInput("Envoy wants a node id and a node cluster: neither may be empty")
        if not self.sds_socket.startswith("/") or len(self.sds_socket.encode()) > _MAX_SOCKET_BYTES:
            raise InvalidInput(
                f"SDS socket {self.sds_socket!r} is not an absolute path of at most {_MAX_SOCKET_BYTES} bytes"
            )
        listeners: list[Inbound | Outbound] = [*self.inbound, *self.outbound]
        _check_port(self.admin_port)
        _check_unique("port", [p for p in [self.admin_port, *(each.port for each in listeners)] if p])
        _check_unique("listener name", [_name(each) for each in listeners])


def envoy_bootstrap(spec: BootstrapSpec) -> Json:
    """The bootstrap as a JSON document: write it with `json.dumps` or as YAML. Holds no secret."""
    apps = [_app_cluster(inbound) for inbound in spec.inbound if inbound.app_port is not None]
    return {
        "node": {"id": spec.node_id, "cluster": spec.node_cluster},
        "admin": {"address": _address("127.0.0.1", spec.admin_port)},
        "static_resources": {
            "listeners": [
                *(_inbound_listener(inbound, spec) for inbound in spec.inbound),
                *(_outbound_listener(outbound) for outbound in spec.outbound),
            ],
            "clusters": [_sds_cluster(spec), *apps, *(_upstream_cluster(outbound, spec) for outbound in spec.outbound)],
        },
    }


def _inbound_listener(inbound: Inbound, spec: BootstrapSpec) -> Json:
    context = {
        "require_client_certificate": True,
        "common_tls_context": {
            **_tls_context(spec, inbound.secret, inbound.validation, inbound.peers),
            "alpn_protocols": ["h2", "http/1.1"],
        },
    }
    if inbound.response is None:
        action: Json = _route_to(_app_name(inbound))
    else:
        action = {
            "direct_response": {"status": 200, "body": {"inline_string": inbound.response}},
            "response_headers_to_add": [_header(CLIENT_HEADER, "%DOWNSTREAM_PEER_URI_SAN%")],
        }
    identity = {"forward_client_cert_details": "SANITIZE_SET", "set_current_client_cert_details": {"uri": True}}
    chain = {
        "filters": [_http(_name(inbound), action, inbound.max_requests_per_connection, identity)],
        "transport_socket": _transport_socket("DownstreamTlsContext", context),
    }
    return {"name": _name(inbound), "address": _address(inbound.address, inbound.port), "filter_chains": [chain]}


def _outbound_listener(outbound: Outbound) -> Json:
    action = {
        **_route_to(_name(outbound)),
        "response_headers_to_add": [_header(SERVER_HEADER, "%UPSTREAM_PEER_URI_SAN%")],
    }
    chain = {"filters": [_http(_name(outbound), action, 0, {})]}
    return {"name": _name(outbound), "address": _address("127.0.0.1", outbound.port), "filter_chains": [chain]}


def _http(name: str, action: Json, max_requests: int, identity: Json) -> Json:
    """The HTTP connection manager: one route for everything."""
    manager = {
        "@type": f"{_TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "route_config": {
            "name": name,
            "virtual_hosts": [{"name": name, "domains": ["*"], "routes": [{"match": {"prefix": "/"}, **action}]}],
        },
        "http_filters": [_typed("envoy.filters.http.router", "filters.http.router.v3.Router", {})],
        **_connection_limit(max_requests),
        **identity,
    }
    return {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}


def _sds_cluster(spec: BootstrapSpec) -> Json:
    """Our socket: HTTP/2 without TLS, since the kernel vouches for both ends."""
    return {
        "name": SDS_CLUSTER,
        "type": "STATIC",
        "connect_timeout": "1s",
        **_protocol({"explicit_http_config": {"http2_protocol_options": {}}}),
        "load_assignment": _endpoint(SDS_CLUSTER, {"pipe": {"path": spec.sds_socket}}),
    }


def _app_cluster(inbound: Inbound) -> Json:
    return {
        "name": _app_name(inbound),
        "type": "STATIC",
        "connect_timeout": "1s",
        **_protocol(_same_protocol(0)),
        "load_assignment": _endpoint(_app_name(inbound), _address("127.0.0.1", inbound.app_port or 0)),
    }


def _upstream_cluster(outbound: Outbound, spec: BootstrapSpec) -> Json:
    context = {"common_tls_context": _tls_context(spec, outbound.secret, outbound.validation, (outbound.peer,))}
    return {
        "name": _name(outbound),
        "type": "STATIC" if _is_ip(outbound.host) else "STRICT_DNS",
        "connect_timeout": _duration(outbound.connect_timeout),
        **_protocol(_same_protocol(outbound.max_requests_per_connection)),
        "transport_socket": _transport_socket("UpstreamTlsContext", context),
        "load_assignment": _endpoint(_name(outbound), _address(outbound.host, outbound.host_port)),
    }


def _tls_context(spec: BootstrapSpec, secret: str, validation: str, peers: Iterable[SpiffeID]) -> Json:
    """Our SVID, and the two halves of judging a peer: the bundle from SDS and the expected IDs from here, merged by Envoy."""
    expected = [{"san_type": "URI", "matcher": {"exact": str(peer)}} for peer in peers]
    return {
        # Without a maximum, Envoy as a client stops at TLS 1.2.
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificate_sds_secret_configs": [_sds_secret(spec, secret)],
        "combined_validation_context": {
            "default_validation_context": {"match_typed_subject_alt_names": expected},
            "validation_context_sds_secret_config": _sds_secret(spec, validation),
        },
    }


def _sds_secret(spec: BootstrapSpec, name: str) -> Json:
    """Same source for each name, so that listeners and clusters which use one name share one stream (facts/spiffe.md 4.2)."""
    first, longest = spec.sds_retry
    retry = {"base_interval": _duration(first), "max_interval": _duration(longest)}
    grpc = {"cluster_name": SDS_CLUSTER, "retry_policy": {"retry_back_off": retry}}
    return {
        "name": name,
        "sds_config": {
            "resource_api_version": "V3",
            "initial_fetch_timeout": _duration(spec.initial_fetch_timeout),
            "api_config_source": {
                "api_type": "DELTA_GRPC" if spec.delta else "GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": True,
                "grpc_services": [{"envoy_grpc": grpc}],
            },
        },
    }


def _route_to(cluster: str) -> Json:
    return {"route": {"cluster": cluster, "timeout": "0s"}}


def _header(name: str, value: str) -> Json:
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def _same_protocol(max_requests: int) -> Json:
    """HTTP/1.1 stays HTTP/1.1 and HTTP/2 stays HTTP/2, end to end."""
    options: Json = {"http_protocol_options": {}, "http2_protocol_options": {}}
    return {"use_downstream_protocol_config": options, **_connection_limit(max_requests)}


def _connection_limit(max_requests: int) -> Json:
    return {"common_http_protocol_options": {"max_requests_per_connection": max_requests}} if max_requests else {}


def _protocol(options: Json) -> Json:
    name = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    return {"typed_extension_protocol_options": {name: {"@type": f"type.googleapis.com/{name}", **options}}}


def _transport_socket(kind: str, context: Json) -> Json:
    return _typed("envoy.transport_sockets.tls", f"transport_sockets.tls.v3.{kind}", context)


def _typed(name: str, kind: str, config: Json) -> Json:
    return {"name": name, "typed_config": {"@type": f"{_TYPE}.{kind}", **config}}


def _endpoint(cluster: str, address: Json) -> Json:
    return {"cluster_name": cluster, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]}


def _address(host: str, port: int) -> Json:
    return {"socket_address": {"address": host, "port_value": port}}


def _duration(value: timedelta) -> str:
    return f"{value.total_seconds():g}s"


def _name(listener: Inbound | Outbound) -> str:
    return listener.name or f"{type(listener).__name__.lower()}-{listener.port}"


def _app_name(inbound: Inbound) -> str:
    return f"{_name(inbound)}-app"


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _check_context(peers: Sequence[SpiffeID], validation: str) -> None:
    """Raise InvalidInput unless the context has peers, and they and the bundle are of one trust domain."""
    domains = {peer.trust_domain for peer in peers}
    if not all(peer.is_workload for peer in peers):
        raise InvalidInput(
            f"peer {next(str(p) for p in peers if not p.is_workload)} has no path: a trust domain is no workload"
        )
    if len(domains) != 1:
        raise InvalidInput(f"a listener needs peers of exactly one trust domain, not {sorted(map(str, domains))}")
    if validation == "ALL":
        raise InvalidInput("ALL pools trust domains: name ROOTCA, or spiffe://<trust domain> of the peer")
    if validation.startswith(SCHEME) and TrustDomain.parse(validation) not in domains:
        raise InvalidInput(f"bundle {validation} can not vouch for a peer of {next(iter(domains))}")


def _check_port(port: int, lowest: int = 0) -> None:
    """Raise InvalidInput unless it is a port; for a listener 0 lets the kernel choose."""
    if not lowest <= port <= _MAX_PORT:
        raise InvalidInput(f"port {port} is not between {lowest} and {_MAX_PORT}")


def _check_unique(what: str, values: Sequence[object]) -> None:
    """Raise InvalidInput when two are the same."""
    twice = sorted({str(value) for value in values if values.count(value) > 1})
    if twice:
        raise InvalidInput(f"{what} {', '.join(twice)} is used twice")
