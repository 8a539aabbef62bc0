"""Clusters and load assignments: who may be called, on which terms, and where they are. Pure.

Rules:
- Each endpoint carries the identity expected there, and each cluster a TLS context for each identity of its service: a forged endpoint
  with another identity of the same service is refused, too. An endpoint that no context fits gets one that nobody satisfies.
- The contexts are of all identities that the service has, or had while this router ran, whatever the subset: so moving an endpoint changes
  no cluster, and none loses its context while it may still be in use.
- Breakers are finite unless written otherwise, and retries have a budget (deviations from Istio, docs/routing.md).
"""

from collections.abc import Iterable, Sequence
from datetime import timedelta

from envoy.config.cluster.v3.circuit_breaker_pb2 import CircuitBreakers
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.cluster.v3.outlier_detection_pb2 import OutlierDetection as OutlierDetectionMessage
from envoy.config.core.v3.address_pb2 import Address
from envoy.config.core.v3.config_source_pb2 import AggregatedConfigSource, ConfigSource
from envoy.config.endpoint.v3.endpoint_components_pb2 import LbEndpoint
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions
from google.protobuf.duration_pb2 import Duration
from google.protobuf.wrappers_pb2 import UInt32Value

from meshca.router.mesh.endpoints import Instance
from meshca.router.mesh.objects import (
    LoadBalancer,
    OutlierDetection,
    Protocol,
    Resolution,
    RetryBudget,
    ServicePort,
    TLSMode,
    TrafficPolicy,
)
from meshca.router.mesh.table import ClusterKey, Service
from meshca.router.resources import tls
from spiffe.id import SpiffeID, TrustDomain

CONNECT_SECONDS = 10
IDLE_SECONDS = 3600
BREAKER = 1024
MATCH = "envoy.transport_socket_match"
IDENTITY = "spiffe_id"

_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_ALPN = {Protocol.HTTP: ("http/1.1",), Protocol.HTTP2: ("h2",), Protocol.GRPC: ("h2",)}
_BALANCERS = {
    None: Cluster.LEAST_REQUEST,
    LoadBalancer.LEAST_REQUEST: Cluster.LEAST_REQUEST,
    LoadBalancer.ROUND_ROBIN: Cluster.ROUND_ROBIN,
    LoadBalancer.RANDOM: Cluster.RANDOM,
}

ADS = ConfigSource(resource_api_version="V3", ads=AggregatedConfigSource())


def cluster(service: Service, key: ClusterKey, own: TrustDomain, identities: Iterable[SpiffeID]) -> Cluster:
    """The cluster of a key of this service. Its endpoints come by EDS, or by DNS if that is how the service is found.

    `identities` are those that its endpoints may be expected to have.
    """
    policy, port = service.policy(key.port, key.subset), _port(service, key)
    made = Cluster(name=key.name, alt_stat_name=key.stat_name, lb_policy=_BALANCERS[policy.load_balancer])
    made.connect_timeout.CopyFrom(_duration(policy.connect_timeout, CONNECT_SECONDS))
    made.circuit_breakers.CopyFrom(_breakers(policy))
    made.common_lb_config.healthy_panic_threshold.value = (
        policy.outlier_detection.min_health_percent if policy.outlier_detection else 0
    )
    if policy.outlier_detection:
        made.outlier_detection.CopyFrom(_outliers(policy.outlier_detection))
    if port.protocol.is_http:
        made.typed_extension_protocol_options[_OPTIONS].Pack(_protocol(port, policy), deterministic=True)
    _add_discovery(made, service, key)
    _add_transport(made, service, key, own, identities)
    return made


def load_assignment(key: ClusterKey, members: Sequence[Instance]) -> ClusterLoadAssignment:
    """Where the endpoints of a key are. Always there, also when it is empty: a cluster without an answer never warms (P13)."""
    made = ClusterLoadAssignment(cluster_name=key.name)
    if members:
        made.endpoints.add(lb_endpoints=[_endpoint(each, key.port) for each in members])
    return made


def has_assignment(service: Service) -> bool:
    """Whether its endpoints come by EDS."""
    return service.entry.resolution is Resolution.STATIC


def _add_discovery(made: Cluster, service: Service, key: ClusterKey) -> None:
    if has_assignment(service):
        made.type = Cluster.EDS
        made.eds_cluster_config.eds_config.CopyFrom(ADS)
        return
    made.type = Cluster.STRICT_DNS
    made.respect_dns_ttl = True
    made.load_assignment.CopyFrom(load_assignment(key, service.members(key.subset)))


def tls_mode(service: Service, key: ClusterKey) -> TLSMode:
    """How the service is called: as the DestinationRule says, else by mutual TLS within the mesh and in plaintext outside."""
    if tls_asked := service.policy(key.port, key.subset).tls:
        return tls_asked.mode
    return TLSMode.DISABLE if service.entry.external else TLSMode.ISTIO_MUTUAL


def _add_transport(
    made: Cluster, service: Service, key: ClusterKey, own: TrustDomain, identities: Iterable[SpiffeID]
) -> None:
    policy, mode = service.policy(key.port, key.subset), tls_mode(service, key)
    if policy.tls and mode is TLSMode.SIMPLE:
        made.transport_socket.CopyFrom(tls.towards_outside(policy.tls, service.host))
    elif mode is TLSMode.ISTIO_MUTUAL:
        alpn = _ALPN.get(_port(service, key).protocol, ())
        sni = f"outbound_.{key.port}_.{key.subset}_.{key.host}"
        made.transport_socket.CopyFrom(tls.towards(tls.nobody(own), own, alpn, sni))
        for identity in sorted(identities, key=str):
            match = made.transport_socket_matches.add(name=str(identity))
            match.match.fields[IDENTITY].string_value = str(identity)
            match.transport_socket.CopyFrom(tls.towards(identity, own, alpn, sni))


def _endpoint(instance: Instance, port: int) -> LbEndpoint:
    made = LbEndpoint()
    made.endpoint.address.CopyFrom(address(instance.address, instance.ports[port]))
    if instance.weight is not None:
        made.load_balancing_weight.value = instance.weight
    if instance.identity:
        made.metadata.filter_metadata[MATCH].fields[IDENTITY].string_value = str(instance.identity)
    return made


def address(host: str, port: int) -> Address:
    """A TCP address."""
    made = Address()
    made.socket_address.address = host
    made.socket_address.port_value = port
    return made


def _breakers(policy: TrafficPolicy) -> CircuitBreakers:
    made = CircuitBreakers()
    budget = policy.retry_budget or RetryBudget()
    limits = made.thresholds.add(
        max_connections=_limit(policy.max_connections),
        max_pending_requests=_limit(policy.max_pending_requests),
        max_requests=_limit(policy.max_requests),
        track_remaining=True,
    )
    if policy.max_retries is not None and policy.retry_budget is None:
        limits.max_retries.value = policy.max_retries
        return made
    limits.retry_budget.budget_percent.value = budget.percent
    limits.retry_budget.min_retry_concurrency.value = budget.min_retry_concurrency
    return made


def _limit(written: int | None) -> UInt32Value:
    return UInt32Value(value=BREAKER if written is None else written)


def _outliers(written: OutlierDetection) -> OutlierDetectionMessage:
    """Istio's mapping: what is unset is Envoy's default, and success rates never eject."""
    made = OutlierDetectionMessage()
    made.enforcing_success_rate.value = 0
    if written.consecutive_5xx is not None:
        made.consecutive_5xx.value = written.consecutive_5xx
        made.enforcing_consecutive_5xx.value = 100 if written.consecutive_5xx else 0
    if written.consecutive_gateway_errors is not None:
        made.consecutive_gateway_failure.value = written.consecutive_gateway_errors
        made.enforcing_consecutive_gateway_failure.value = 100 if written.consecutive_gateway_errors else 0
    if written.interval is not None:
        made.interval.FromTimedelta(written.interval)
    if written.base_ejection_time is not None:
        made.base_ejection_time.FromTimedelta(written.base_ejection_time)
    if written.max_ejection_percent is not None:
        made.max_ejection_percent.value = written.max_ejection_percent
    return made


def _protocol(port: ServicePort, policy: TrafficPolicy) -> HttpProtocolOptions:
    made = HttpProtocolOptions()
    made.common_http_protocol_options.idle_timeout.CopyFrom(_duration(policy.idle_timeout, IDLE_SECONDS))
    if policy.max_requests_per_connection:
        made.common_http_protocol_options.max_requests_per_connection.value = policy.max_requests_per_connection
    if port.protocol is Protocol.HTTP:
        made.explicit_http_config.http_protocol_options.SetInParent()
        return made
    made.explicit_http_config.http2_protocol_options.SetInParent()
    if policy.max_concurrent_streams:
        made.explicit_http_config.http2_protocol_options.max_concurrent_streams.value = policy.max_concurrent_streams
    return made


def _duration(written: timedelta | None, seconds: int) -> Duration:
    made = Duration(seconds=seconds)
    if written is not None:
        made.FromTimedelta(written)
    return made


def _port(service: Service, key: ClusterKey) -> ServicePort:
    port = service.port(key.port)
    assert port is not None, key  # noqa: S101 - a table has no other keys
    return port
