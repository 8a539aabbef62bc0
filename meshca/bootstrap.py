"""A complete Envoy bootstrap that takes its certificates from our socket, built as a plain JSON document. Pure.

Rules:
- Every listener names its peers exactly. Who may call is configuration (URI matchers here), whom to trust is ours (the SDS validator).
- A proxy is ready when its certificates are there: the initial fetch waits for ever, unless the spec says otherwise.
- Nothing is retried or timed out in secret: applications own their deadlines, and a failure that happened is seen.
"""

import ipaddress
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from meshca.bootstrap_spec import BootstrapSpec, Inbound, Outbound, RouterLink, Transparent
from spiffe.id import SpiffeID

__all__ = ["BootstrapSpec", "Inbound", "Outbound", "RouterLink", "Transparent", "envoy_bootstrap"]

Json = dict[str, Any]

SDS_CLUSTER = "meshca"
ROUTER_CLUSTER = "meshca-router"
RE2_INSTRUCTIONS = 32_768
"""The largest program of an expression: what the router lets through."""
STATISTICS = (
    "cluster.outbound",
    "cluster.inbound",
    "cluster.meshca",
    "cluster_manager",
    "control_plane",
    "filesystem.",
    "http.",
    "listener",
    "meshca.",
    "server.",
    "tcp.",
    "tracing.",
)
"""Prefixes of the statistics that are kept: what dashboards show. Each name costs memory in each proxy."""
EXPECTED_IDENTITY = r"^cluster\..+?\.((spiffe://.+)\.)total_match_count$"
"""Makes a label of the identity in the name of a metric: an identity for each name would be a metric for each workload."""
CLIENT_HEADER = "x-client-spiffe-id"
SERVER_HEADER = "x-server-spiffe-id"

_TYPE = "type.googleapis.com/envoy.extensions"


def envoy_bootstrap(spec: BootstrapSpec) -> Json:
    """The bootstrap as a JSON document: write it with `json.dumps` or as YAML. Holds no secret."""
    apps = [_app_cluster(inbound) for inbound in spec.inbound if inbound.app_port is not None]
    routed = _from_router(spec.router) if spec.router else {}
    return {
        "node": {"id": spec.node_id, "cluster": spec.node_cluster, **routed.pop("node", {})},
        "admin": {"address": _address("127.0.0.1", spec.admin_port)},
        **routed,
        "static_resources": {
            "listeners": [
                *(_inbound_listener(inbound, spec) for inbound in spec.inbound),
                *(_outbound_listener(outbound) for outbound in spec.outbound),
            ],
            "clusters": [
                _sds_cluster(spec),
                *([_router_cluster(spec.router, spec)] if spec.router else []),
                *apps,
                *(_upstream_cluster(outbound, spec) for outbound in spec.outbound),
            ],
        },
    }


def _from_router(router: RouterLink) -> Json:
    """Listeners and clusters come from the router, load reports go there; statistics are trimmed to what dashboards show."""
    place = {
        **({"meshca.address": router.address} if router.address else {}),
        "meshca.outbound-port": str(router.outbound_port),
        **{f"meshca.app-port.{port}": str(app_port) for port, app_port in router.app_ports.items()},
        **({"meshca.access-log": router.access_log} if router.access_log else {}),
        **(_redirected(router.transparent) if router.transparent else {}),
    }
    ads = {"ads": {}, "resource_api_version": "V3"}
    services = [{"envoy_grpc": {"cluster_name": ROUTER_CLUSTER}}]
    return {
        "node": {"metadata": place},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC" if router.incremental else "GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": True,
                "grpc_services": services,
            },
            "cds_config": ads,
            "lds_config": ads,
        },
        # What became of requests, for the ramp of a canary; nothing is sent before the router asks.
        "cluster_manager": {
            "load_stats_config": {"api_type": "GRPC", "transport_api_version": "V3", "grpc_services": services}
        },
        # The expressions of routes and policies are longer than the hundred instructions that Envoy takes by itself.
        "layered_runtime": {
            "layers": [
                {"name": "meshca", "static_layer": {"re2": {"max_program_size": {"error_level": RE2_INSTRUCTIONS}}}}
            ]
        },
        "stats_config": {
            "stats_matcher": {"inclusion_list": {"patterns": [{"prefix": each} for each in STATISTICS]}},
            "stats_tags": [{"tag_name": "expected_spiffe_id", "regex": EXPECTED_IDENTITY}],
        },
    }


def _redirected(transparent: Transparent) -> Json:
    return {
        "meshca.transparent": "dual" if transparent.ipv6 else "ipv4",
        "meshca.inbound-port": str(transparent.inbound_port),
        "meshca.unknown": "pass" if transparent.passes_unknown else "refuse",
    }


def _router_cluster(router: RouterLink, spec: BootstrapSpec) -> Json:
    """The router, over mutual TLS: an ordinary workload of a name that nobody else is given."""
    context = {
        "common_tls_context": {
            **_tls_context(spec, "default", "ROOTCA", (router.identity,)),
            "alpn_protocols": ["h2"],
        }
    }
    http2: Json = {
        "explicit_http_config": {
            "http2_protocol_options": {"connection_keepalive": {"interval": "30s", "timeout": "10s"}}
        }
    }
    discovery = "STATIC" if _is_ip(router.host) else "STRICT_DNS"
    return {
        **_cluster(ROUTER_CLUSTER, discovery, _address(router.host, router.port), http2),
        "transport_socket": _transport_socket("UpstreamTlsContext", context),
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
        "filters": [_http(inbound.label, action, inbound.max_requests_per_connection, identity)],
        "transport_socket": _transport_socket("DownstreamTlsContext", context),
    }
    return {"name": inbound.label, "address": _address(inbound.address, inbound.port), "filter_chains": [chain]}


def _outbound_listener(outbound: Outbound) -> Json:
    action = {
        **_route_to(outbound.label),
        "response_headers_to_add": [_header(SERVER_HEADER, "%UPSTREAM_PEER_URI_SAN%")],
    }
    chain = {"filters": [_http(outbound.label, action, 0, {})]}
    return {"name": outbound.label, "address": _address("127.0.0.1", outbound.port), "filter_chains": [chain]}


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
    http2: Json = {"explicit_http_config": {"http2_protocol_options": {}}}
    return _cluster(SDS_CLUSTER, "STATIC", {"pipe": {"path": spec.sds_socket}}, http2)


def _app_cluster(inbound: Inbound) -> Json:
    return _cluster(_app_name(inbound), "STATIC", _address("127.0.0.1", inbound.app_port or 0), _same_protocol(0))


def _upstream_cluster(outbound: Outbound, spec: BootstrapSpec) -> Json:
    context = {"common_tls_context": _tls_context(spec, outbound.secret, outbound.validation, (outbound.peer,))}
    discovery = "STATIC" if _is_ip(outbound.host) else "STRICT_DNS"
    protocol = _same_protocol(outbound.max_requests_per_connection)
    return {
        **_cluster(outbound.label, discovery, _address(outbound.host, outbound.host_port), protocol),
        "connect_timeout": _duration(outbound.connect_timeout),
        "transport_socket": _transport_socket("UpstreamTlsContext", context),
    }


def _cluster(name: str, discovery: str, address: Json, protocol: Json) -> Json:
    options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    endpoint = {"lb_endpoints": [{"endpoint": {"address": address}}]}
    return {
        "name": name,
        "type": discovery,
        "connect_timeout": "1s",
        "typed_extension_protocol_options": {options: {"@type": f"type.googleapis.com/{options}", **protocol}},
        "load_assignment": {"cluster_name": name, "endpoints": [endpoint]},
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


def _transport_socket(kind: str, context: Json) -> Json:
    return _typed("envoy.transport_sockets.tls", f"transport_sockets.tls.v3.{kind}", context)


def _typed(name: str, kind: str, config: Json) -> Json:
    return {"name": name, "typed_config": {"@type": f"{_TYPE}.{kind}", **config}}


def _address(host: str, port: int) -> Json:
    return {"socket_address": {"address": host, "port_value": port}}


def _duration(value: timedelta) -> str:
    return f"{value.total_seconds():g}s"


def _app_name(inbound: Inbound) -> str:
    return f"{inbound.label}-app"


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
