"""DestinationRule of networking.istio.io: how clients use a service. Pure."""

from collections.abc import Mapping
from typing import NamedTuple

from meshca.errors import InvalidInput
from meshca.router.mesh.objects import (
    MILLION,
    ClientTLS,
    DestinationRule,
    LoadBalancer,
    OutlierDetection,
    RetryBudget,
    Subset,
    TLSMode,
    TrafficPolicy,
)
from meshca.router.parsing import grammar
from meshca.router.parsing.destinations import port_selector
from meshca.router.parsing.envelope import Envelope, accept_only, labels, selector
from meshca.router.parsing.reader import Reader, distinct
from meshca.router.parsing.scalars import INT32, MILLISECOND, duration, filled, integer, named, one_of, share, text_as
from spiffe.id import SCHEME, SpiffeID

_LIMIT = integer(1, INT32)
_COUNT = integer(0, INT32)
_PERCENT = integer(0, 100)
_DURATION = duration(MILLISECOND)
_BALANCERS: dict[str, LoadBalancer | None] = {balancer.value: balancer for balancer in LoadBalancer}
_BALANCER = named(_BALANCERS | {"LEAST_CONN": LoadBalancer.LEAST_REQUEST, "UNSPECIFIED": None})
_TLS_MODE = one_of(TLSMode, {"MUTUAL": "ISTIO_MUTUAL is mutual TLS with SVIDs"})
_ONLY_ISTIO_MUTUAL = "mutual TLS is done with SVIDs, by mode ISTIO_MUTUAL"


class _Policies(NamedTuple):
    """A `trafficPolicy`: for all ports, and for some."""

    policy: TrafficPolicy
    ports: Mapping[int, TrafficPolicy]


def destination_rule(envelope: Envelope) -> DestinationRule:
    """Read a DestinationRule. Whatever is wrong with it is in the report."""
    spec = envelope.spec
    accept_only(spec, "exportTo", "*", "who may call decides who sees it")
    policies = _policies(spec.child("trafficPolicy"))
    readers = spec.children("subsets")
    subsets = tuple(map(_subset, readers))
    distinct(readers, "name", [subset.name or None for subset in subsets])
    return DestinationRule(
        origin=envelope.origin,
        host=spec.required("host", text_as(grammar.host_or_wildcard), ""),
        policy=policies.policy,
        port_policies=policies.ports,
        subsets=subsets,
        workload_selector=selector(spec, "workloadSelector", "matchLabels"),
    )


def _subset(reader: Reader) -> Subset:
    policies = _policies(reader.child("trafficPolicy"))
    return Subset(
        name=reader.required("name", text_as(grammar.dns_label), ""),
        labels=labels(reader, "labels"),
        policy=policies.policy,
        port_policies=policies.ports,
        line=reader.line,
    )


def _policies(reader: Reader) -> _Policies:
    reader.unsupported("tunnel", "proxyProtocol")
    readers = reader.children("portLevelSettings", filled=True)
    ports = [port_selector(each, required=True) for each in readers]
    distinct(readers, "port", ports)
    below = {port: _policy(each) for port, each in zip(ports, readers, strict=True)}
    return _Policies(_policy(reader), {port: policy for port, policy in below.items() if port is not None})


def _policy(reader: Reader) -> TrafficPolicy:
    balancer, pool = reader.child("loadBalancer"), reader.child("connectionPool")
    balancer.unsupported("consistentHash", "localityLbSetting", "warmup", "warmupDurationSecs")
    tcp, http = pool.child("tcp"), pool.child("http")
    tcp.unsupported("tcpKeepalive", "maxConnectionDuration", "idleTimeout")
    http.unsupported("h2UpgradePolicy", "useClientProtocol", "http2KeepAlive")
    return TrafficPolicy(
        load_balancer=balancer.optional("simple", _BALANCER),
        connect_timeout=tcp.optional("connectTimeout", _DURATION),
        max_connections=tcp.optional("maxConnections", _LIMIT),
        max_pending_requests=http.optional("http1MaxPendingRequests", _LIMIT),
        max_requests=http.optional("http2MaxRequests", _LIMIT),
        max_retries=http.optional("maxRetries", _LIMIT),
        max_requests_per_connection=http.optional("maxRequestsPerConnection", _COUNT) or None,
        max_concurrent_streams=http.optional("maxConcurrentStreams", _LIMIT),
        idle_timeout=http.optional("idleTimeout", duration(MILLISECOND, or_zero=True)),
        outlier_detection=_outlier_detection(reader.child("outlierDetection")),
        tls=_tls(reader.child("tls")),
        retry_budget=_retry_budget(reader.child("retryBudget")),
    )


def _outlier_detection(reader: Reader) -> OutlierDetection | None:
    reader.unsupported("splitExternalLocalOriginErrors", "consecutiveLocalOriginFailures", "httpErrorCodes")
    reader.unsupported("consecutiveErrors", instead="write consecutive5xxErrors")
    found = OutlierDetection(
        consecutive_5xx=reader.optional("consecutive5xxErrors", _COUNT),
        consecutive_gateway_errors=reader.optional("consecutiveGatewayErrors", _COUNT),
        interval=reader.optional("interval", _DURATION),
        base_ejection_time=reader.optional("baseEjectionTime", _DURATION),
        max_ejection_percent=reader.optional("maxEjectionPercent", _PERCENT),
        min_health_percent=reader.optional("minHealthPercent", _PERCENT) or 0,
    )
    return found if reader.present else None


def _tls(reader: Reader) -> ClientTLS | None:
    reader.unsupported("clientCertificate", "privateKey", instead=_ONLY_ISTIO_MUTUAL)
    reader.unsupported("credentialName", "insecureSkipVerify", "caCrl")
    mode = reader.required("mode", _TLS_MODE, TLSMode.SIMPLE)
    name = _spiffe_id if mode is TLSMode.ISTIO_MUTUAL else filled
    found = ClientTLS(
        mode=mode,
        subject_alt_names=reader.several("subjectAltNames", text_as(name), filled=True),
        sni=reader.optional("sni", text_as(grammar.host)) or "",
        ca_certificates=reader.optional("caCertificates", text_as(filled)) or "",
    )
    _check_mode(reader, mode)
    return found if reader.present else None


def _check_mode(reader: Reader, mode: TLSMode) -> None:
    """What a mode does not use must not be written: somebody would rely on it."""
    unused = {TLSMode.SIMPLE: (), TLSMode.ISTIO_MUTUAL: ("sni", "caCertificates")}
    for name in unused.get(mode, ("sni", "caCertificates", "subjectAltNames")):
        if reader.has(name):
            reader.problem(name, f"is not used in mode {mode}")


def _spiffe_id(written: str) -> str:
    if not written.startswith(SCHEME):
        raise InvalidInput("with ISTIO_MUTUAL a name is a SPIFFE ID: write spiffe://...")
    return str(SpiffeID.parse(written))


def _retry_budget(reader: Reader) -> RetryBudget | None:
    default = RetryBudget()
    percent = reader.optional("percent", share)
    least = reader.optional("minRetryConcurrency", _COUNT)
    found = RetryBudget(
        percent=default.percent if percent is None else percent * 100 / MILLION,
        min_retry_concurrency=default.min_retry_concurrency if least is None else least,
    )
    return found if reader.present else None
