"""A collector of spans, as small as one can be: OTLP over gRPC in, a list out."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

_SERVICE = "opentelemetry.proto.collector.trace.v1.TraceService"


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """One hop of a request, as one proxy saw it. Ids are in hex; `service` is who says so."""

    service: str
    trace_id: str
    span_id: str
    parent_id: str
    tags: Mapping[str, str]


@dataclass(slots=True, kw_only=True)
class Collector:
    """What came so far. Made by `running_collector`."""

    port: int
    spans: list[Span] = field(default_factory=list)

    def of(self, service: str) -> list[Span]:
        """The spans of one workload."""
        return [each for each in self.spans if each.service == service]


@asynccontextmanager
async def running_collector(port: int = 0) -> AsyncIterator[Collector]:
    """Collect while the context is open."""
    made = Collector(port=port)

    async def export(request: ExportTraceServiceRequest, _: Any) -> ExportTraceServiceResponse:
        made.spans.extend(_spans(request))
        return ExportTraceServiceResponse()

    method = grpc.unary_unary_rpc_method_handler(
        export, ExportTraceServiceRequest.FromString, ExportTraceServiceResponse.SerializeToString
    )
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, {"Export": method}),))
    made.port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield made
    finally:
        await server.stop(None)


def _spans(request: Any) -> list[Span]:
    """The spans of a request. `xds-protos` has an older name for what is now `scope_spans`."""
    return [
        Span(
            service=_texts(of_resource.resource)["service.name"],
            trace_id=span.trace_id.hex(),
            span_id=span.span_id.hex(),
            parent_id=span.parent_span_id.hex(),
            tags=_texts(span),
        )
        for of_resource in request.resource_spans
        for of_scope in of_resource.instrumentation_library_spans
        for span in of_scope.spans
    ]


def _texts(holder: Any) -> dict[str, str]:
    return {each.key: each.value.string_value for each in holder.attributes}
