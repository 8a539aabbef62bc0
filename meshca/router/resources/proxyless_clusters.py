"""Clusters and load assignments as gRPC takes them. Pure.

Rules:
- gRPC accepts `transport_socket_matches` and typed name matchers, and ignores them: it would go in plaintext, or take anybody (tried). So
  there is one transport socket, and the expected names stand in the deprecated field, which it does check.
- Secure naming is for each service: whoever is some endpoint of it now, or still was a moment ago, is taken at all of them. Where nobody is
  expected, nobody is taken.
- Always mutual TLS, whatever a DestinationRule says: without a transport socket gRPC does what the application has as its fallback.
- Certificates come from files that its bootstrap names, and the bundle in them is of its own trust domain: a partner's endpoint is refused.
"""

from collections.abc import Iterable, Sequence
from warnings import catch_warnings, simplefilter

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.base_pb2 import TransportSocket
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import CommonTlsContext, DownstreamTlsContext, UpstreamTlsContext
from envoy.type.matcher.v3.string_pb2 import StringMatcher

from meshca.router.mesh.endpoints import Instance, ip
from meshca.router.mesh.table import ClusterKey, Service
from meshca.router.resources.clusters import ADS, BREAKER, address
from meshca.router.resources.tls import nobody, transport_socket
from spiffe.id import SpiffeID, TrustDomain

PROVIDER = "meshca"
"""The certificate provider of the bootstrap."""


def cluster(service: Service, key: ClusterKey, own: TrustDomain, identities: Iterable[SpiffeID]) -> Cluster:
    """The cluster of a key of this service, whose endpoints may have these identities and come by EDS."""
    policy = service.policy(key.port, key.subset)
    made = Cluster(name=key.name, type=Cluster.EDS, lb_policy=Cluster.ROUND_ROBIN)
    made.eds_cluster_config.eds_config.CopyFrom(ADS)
    made.lrs_server.self.SetInParent()  # where loads are reported: to the router, which asks only while there is a ramp
    limit = made.circuit_breakers.thresholds.add()
    limit.max_requests.value = BREAKER if policy.max_requests is None else policy.max_requests
    made.transport_socket.CopyFrom(_towards(sorted(identities, key=str) or [nobody(own)]))
    return made


def load_assignment(key: ClusterKey, members: Sequence[Instance]) -> ClusterLoadAssignment:
    """Where the endpoints of a key are, in one locality: without any gRPC takes none. It looks up no names, so only addresses count."""
    made = ClusterLoadAssignment(cluster_name=key.name)
    located = [each for each in members if ip(each.address)]
    if located:
        locality = made.endpoints.add()
        locality.locality.region = PROVIDER
        locality.load_balancing_weight.value = 1
        for each in located:
            locality.lb_endpoints.add().endpoint.address.CopyFrom(address(each.address, each.ports[key.port]))
    return made


def has_assignment(_service: Service) -> bool:
    """Always: of what comes by DNS gRPC takes single endpoints only, so none."""
    return True


def from_anybody() -> TransportSocket:
    """Mutual TLS of a server that takes every workload of its trust domain: who may do what is RBAC's."""
    context = DownstreamTlsContext(common_tls_context=_mutual())
    context.require_client_certificate.value = True
    return transport_socket("envoy.transport_sockets.tls", context)


def _towards(identities: Iterable[SpiffeID]) -> TransportSocket:
    common = _mutual()
    with catch_warnings():
        simplefilter("ignore", DeprecationWarning)  # it is the only one that gRPC checks
        common.validation_context.match_subject_alt_names.extend(StringMatcher(exact=str(each)) for each in identities)
    return transport_socket("envoy.transport_sockets.tls", UpstreamTlsContext(common_tls_context=common))


def _mutual() -> CommonTlsContext:
    made = CommonTlsContext()
    made.tls_certificate_provider_instance.instance_name = PROVIDER
    made.validation_context.ca_certificate_provider_instance.instance_name = PROVIDER
    return made
