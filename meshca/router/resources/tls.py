"""TLS as the mesh speaks it: our SVID from SDS, and of a peer exactly the identity that is expected. Pure.

Rules:
- One trust domain for each context (design section 5): the bundle is named by the trust domain of the identity that is expected.
- Where nothing is expected, nobody is: an endpoint without identity never falls back to plaintext or to anybody.
"""

from collections.abc import Iterable

from envoy.config.core.v3.base_pb2 import TransportSocket
from envoy.config.core.v3.config_source_pb2 import ApiConfigSource, ConfigSource
from envoy.extensions.transport_sockets.raw_buffer.v3.raw_buffer_pb2 import RawBuffer
from envoy.extensions.transport_sockets.tls.v3.common_pb2 import (
    CertificateValidationContext,
    SubjectAltNameMatcher,
    TlsParameters,
)
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import SdsSecretConfig
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import CommonTlsContext, DownstreamTlsContext, UpstreamTlsContext
from envoy.type.matcher.v3.string_pb2 import StringMatcher
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from meshca.router.mesh.objects import ClientTLS
from spiffe.id import SpiffeID, TrustDomain

SDS_CLUSTER = "meshca"
"""The bootstrap's cluster for our workload socket."""
OWN_SVID, OWN_BUNDLE = "default", "ROOTCA"
NOBODY_PATH = "/meshca/nobody"
"""The path of an identity that is never issued: what an endpoint must show that nothing is known of."""
SYSTEM_ROOTS = "/etc/ssl/certs/ca-certificates.crt"

_PARAMETERS = TlsParameters(
    # Without a maximum, Envoy as a client stops at TLS 1.2.
    tls_minimum_protocol_version=TlsParameters.TLSv1_2,
    tls_maximum_protocol_version=TlsParameters.TLSv1_3,
)


def transport_socket(name: str, config: Message) -> TransportSocket:
    """A transport socket of this name."""
    made = TransportSocket(name=name)
    made.typed_config.Pack(config, deterministic=True)
    return made


def plaintext() -> TransportSocket:
    """No TLS."""
    return transport_socket("envoy.transport_sockets.raw_buffer", RawBuffer())


def towards(identity: SpiffeID, own: TrustDomain, alpn: Iterable[str], sni: str) -> TransportSocket:
    """Mutual TLS of a client that takes exactly this identity for its server."""
    context = UpstreamTlsContext(
        sni=sni, common_tls_context=_mutual([_exactly(str(identity))], identity.trust_domain, own)
    )
    context.common_tls_context.alpn_protocols.extend(alpn)
    return transport_socket("envoy.transport_sockets.tls", context)


def from_anybody(own: TrustDomain, alpn: Iterable[str]) -> TransportSocket:
    """Mutual TLS of a server that takes every workload of its trust domain: who may do what is RBAC's."""
    members = SubjectAltNameMatcher(san_type=SubjectAltNameMatcher.URI, matcher=StringMatcher(prefix=f"{own.id}/"))
    context = DownstreamTlsContext(common_tls_context=_mutual([members], own, own))
    context.require_client_certificate.value = True
    context.common_tls_context.alpn_protocols.extend(alpn)
    return transport_socket("envoy.transport_sockets.tls", context)


def towards_outside(tls: ClientTLS, host: str) -> TransportSocket:
    """TLS of a client of a service outside of the mesh, without a certificate of ours: judged by public roots, or the file given."""
    names = tls.subject_alt_names or (tls.sni or host,)
    expected = [
        SubjectAltNameMatcher(
            san_type=SubjectAltNameMatcher.URI if "://" in name else SubjectAltNameMatcher.DNS,
            matcher=StringMatcher(exact=name),
        )
        for name in names
    ]
    context = CertificateValidationContext(match_typed_subject_alt_names=expected)
    context.trusted_ca.filename = tls.ca_certificates or SYSTEM_ROOTS
    common = CommonTlsContext(tls_params=_PARAMETERS, validation_context=context)
    return transport_socket(
        "envoy.transport_sockets.tls", UpstreamTlsContext(sni=tls.sni or host, common_tls_context=common)
    )


def nobody(own: TrustDomain) -> SpiffeID:
    """The identity that nobody has."""
    return SpiffeID(own, NOBODY_PATH)


def _exactly(identity: str) -> SubjectAltNameMatcher:
    return SubjectAltNameMatcher(san_type=SubjectAltNameMatcher.URI, matcher=StringMatcher(exact=identity))


def _mutual(expected: Iterable[SubjectAltNameMatcher], theirs: TrustDomain, own: TrustDomain) -> CommonTlsContext:
    """Our SVID, and the two halves of judging a peer: the bundle of its trust domain from SDS, the names from here."""
    made = CommonTlsContext(tls_params=_PARAMETERS, tls_certificate_sds_secret_configs=[_secret(OWN_SVID)])
    halves = made.combined_validation_context
    halves.default_validation_context.match_typed_subject_alt_names.extend(expected)
    halves.validation_context_sds_secret_config.CopyFrom(_secret(OWN_BUNDLE if theirs == own else str(theirs.id)))
    return made


def _secret(name: str) -> SdsSecretConfig:
    """The same source for each name, so that all that use one name share one stream; without its secret nothing warms."""
    source = ApiConfigSource(
        api_type=ApiConfigSource.DELTA_GRPC, transport_api_version="V3", set_node_on_first_message_only=True
    )
    service = source.grpc_services.add()
    service.envoy_grpc.cluster_name = SDS_CLUSTER
    retry = service.envoy_grpc.retry_policy.retry_back_off
    retry.base_interval.FromMilliseconds(100)
    retry.max_interval.FromSeconds(1)
    config = ConfigSource(resource_api_version="V3", api_config_source=source, initial_fetch_timeout=Duration())
    return SdsSecretConfig(name=name, sds_config=config)
