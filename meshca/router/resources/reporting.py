"""Access logs, metrics that name the peer, and traces, as Envoy is told of them. Pure.

Rules:
- All of it is written by the proxy after the answer and from buffers that are bounded: who reads it, or does not, delays no request.
- Each line and span says who the peer was by its certificate, and of a caller the certificate's serial number, which `meshca audit find
  --serial` knows. (Of a server Envoy 1.40 tells no serial.)
- Neither log nor span has the query of a request: that is where clients put tokens. Headers are told only if a tag asks for one.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from envoy.config.accesslog.v3.accesslog_pb2 import AccessLog
from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.config.core.v3.substitution_format_string_pb2 import SubstitutionFormatString
from envoy.config.trace.v3.http_tracer_pb2 import Tracing as TracingMessage
from envoy.config.trace.v3.opentelemetry_pb2 import OpenTelemetryConfig
from envoy.extensions.access_loggers.file.v3.file_pb2 import FileAccessLog
from envoy.extensions.access_loggers.stats.v3.stats_pb2 import Config as Metrics
from envoy.extensions.access_loggers.stream.v3.stream_pb2 import StdoutAccessLog
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from envoy.extensions.tracers.opentelemetry.samplers.v3.parent_based_sampler_pb2 import ParentBasedSamplerConfig
from envoy.extensions.tracers.opentelemetry.samplers.v3.trace_id_ratio_based_sampler_pb2 import (
    TraceIdRatioBasedSamplerConfig,
)
from envoy.type.v3.percent_pb2 import FractionalPercent
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import UInt64Value

from meshca.router.resources.telemetry import Telling
from spiffe.id import SpiffeID

SPANS_SECONDS = 5
METRICS = "meshca"
"""The prefix of metrics that name the peer."""
_CONNECTION = {
    "start_time": "%START_TIME%",
    "duration": "%DURATION%",
    "response_flags": "%RESPONSE_FLAGS%",
    "termination": "%CONNECTION_TERMINATION_DETAILS%",
    "upstream_cluster": "%UPSTREAM_CLUSTER_RAW%",
    "upstream_host": "%UPSTREAM_HOST%",
    "upstream_transport_failure_reason": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    "downstream_remote_address": "%DOWNSTREAM_REMOTE_ADDRESS%",
    "bytes_received": "%BYTES_RECEIVED%",
    "bytes_sent": "%BYTES_SENT%",
}
_PATH = "%PATH(NQ)%"
_REQUEST = {
    "method": "%REQ(:METHOD)%",
    "authority": "%REQ(:AUTHORITY)%",
    "path": _PATH,
    "protocol": "%PROTOCOL%",
    "response_code": "%RESPONSE_CODE%",
    "response_code_details": "%RESPONSE_CODE_DETAILS%",
    "route_name": "%ROUTE_NAME%",
    "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "trace_id": "%TRACE_ID%",
}
_CODE = {"response_code": "%RESPONSE_CODE%"}
_CLIENT = {"spiffe_id": "%UPSTREAM_LOCAL_URI_SAN%", "peer_spiffe_id": "%UPSTREAM_PEER_URI_SAN%"}
_SERVER = {
    "spiffe_id": "%DOWNSTREAM_LOCAL_URI_SAN%",
    "peer_spiffe_id": "%DOWNSTREAM_PEER_URI_SAN%",
    "peer_serial": "%DOWNSTREAM_PEER_SERIAL%",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reports:
    """What a listener tells: of requests (`http`), of connections (`tcp`), and whether it traces."""

    http: tuple[AccessLog, ...] = ()
    tcp: tuple[AccessLog, ...] = ()
    tracing: HttpConnectionManager.Tracing | None = None


def of_client(telling: Telling, own: SpiffeID, log_path: str = "") -> Reports:
    """What a proxy of this identity tells where calls go out. Without a path the log goes to standard output."""
    return _reports(telling, own, {"direction": "outbound", **_CLIENT}, log_path if telling.client_log else None)


def of_server(telling: Telling, own: SpiffeID, log_path: str = "") -> Reports:
    """What it tells where calls come in; otherwise as of_client()."""
    return _reports(telling, own, {"direction": "inbound", **_SERVER}, log_path if telling.server_log else None)


def _reports(telling: Telling, own: SpiffeID, sides: Mapping[str, str], log_path: str | None) -> Reports:
    """`sides` are the fields that differ between the two ends of a call."""
    return Reports(
        http=(*_logs(log_path, sides, _CONNECTION, _REQUEST), *_metrics(telling, sides, "requests", _CODE)),
        tcp=(*_logs(log_path, sides, _CONNECTION), *_metrics(telling, sides, "connections", {})),
        tracing=_tracing(telling, own, sides),
    )


def _logs(path: str | None, *fields: Mapping[str, str]) -> tuple[AccessLog, ...]:
    """One JSON object for each line. Standard output is no file: what systemd gives can not be opened by a path."""
    if path is None:
        return ()
    line = SubstitutionFormatString()
    for each in fields:
        line.json_format.update(each)
    if path:
        return (_log("envoy.access_loggers.file", FileAccessLog(path=path, log_format=line)),)
    return (_log("envoy.access_loggers.stdout", StdoutAccessLog(log_format=line)),)


def _metrics(
    telling: Telling, sides: Mapping[str, str], what: str, outcome: Mapping[str, str]
) -> tuple[AccessLog, ...]:
    """Requests or connections, counted and timed for each peer. Off unless asked for: Envoy calls this logger not hardened."""
    if not telling.metrics:
        return ()
    peer = {name: sides[name] for name in ("direction", "peer_spiffe_id")}
    made = Metrics(stat_prefix=METRICS)
    counted = made.counters.add(value_fixed=UInt64Value(value=1))
    timed = made.histograms.add(unit=Metrics.Histogram.Milliseconds, value_format="%DURATION%")
    _name(counted.stat, what, {**peer, **outcome})
    _name(timed.stat, f"{what}_duration_milliseconds", peer)
    return (_log("envoy.access_loggers.stats", made),)


def _name(stat: Metrics.Stat, name: str, tags: Mapping[str, str]) -> None:
    stat.name = name
    for tag, value in tags.items():
        stat.tags.add(name=tag, value_format=value)


def _tracing(telling: Telling, own: SpiffeID, sides: Mapping[str, str]) -> HttpConnectionManager.Tracing | None:
    if telling.collector is None:
        return None
    exported = OpenTelemetryConfig(service_name=str(own), sampler=_sampler(telling.sampling))
    exported.grpc_service.envoy_grpc.cluster_name = telling.collector.name
    exported.grpc_service.envoy_grpc.authority = telling.collector.host  # else the cluster's name, which no Envoy takes
    exported.grpc_service.timeout.FromSeconds(SPANS_SECONDS)
    made = HttpConnectionManager.Tracing(provider=TracingMessage.Http(name="envoy.tracers.opentelemetry"))
    made.provider.typed_config.Pack(exported, deterministic=True)
    # The sampler decides. Envoy's own dice would be thrown anew where a trace goes on, and leave gaps in it.
    for decision in (made.client_sampling, made.random_sampling, made.overall_sampling):
        decision.value = 100
    without_query = f"%REQ(X-FORWARDED-PROTO)%://%REQ(:AUTHORITY)%{_PATH}"
    tags = {"http.url": without_query, **dict(telling.tags), **sides}
    for name, value in tags.items():
        made.custom_tags.add(tag=name, value=value)
    return made


def _sampler(sampling: int) -> TypedExtensionConfig:
    """A trace that goes on is sampled if it was where it began; of those that begin here a share, by their ids."""
    share = FractionalPercent(numerator=sampling, denominator=FractionalPercent.MILLION)
    root = _extension("trace_id_ratio_based", TraceIdRatioBasedSamplerConfig(sampling_percentage=share))
    return _extension("parent_based", ParentBasedSamplerConfig(wrapped_sampler=root))


def _extension(name: str, config: Message) -> TypedExtensionConfig:
    made = TypedExtensionConfig(name=f"envoy.tracers.opentelemetry.samplers.{name}")
    made.typed_config.Pack(config, deterministic=True)
    return made


def _log(name: str, config: Message) -> AccessLog:
    made = AccessLog(name=name)
    made.typed_config.Pack(config, deterministic=True)
    return made
