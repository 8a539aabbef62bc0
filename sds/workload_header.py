"""Demands the Workload Endpoint's header `workload.spiffe.io: true` (EP-08, EP-21), which browsers and other innocents do not send.

It is asked for on the Workload API and on every call that nobody knows, but not on services that Envoy or an operator calls (D-08).
"""

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from grpc.aio import ServicerContext

HEADER = "workload.spiffe.io"
WITHOUT_HEADER = (
    "/envoy.service.secret.v3.SecretDiscoveryService/",
    "/grpc.health.v1.Health/",
    "/grpc.reflection.v1alpha.ServerReflection/",
)


class HeaderCheck(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs only
    """Refuses calls without the header before it is known whether their method exists."""

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        """Let the call pass, or answer it: see grpc.aio.ServerInterceptor."""
        values = [value for key, value in handler_call_details.invocation_metadata or () if key == HEADER]
        if handler_call_details.method.startswith(WITHOUT_HEADER) or values == ["true"]:
            return await continuation(handler_call_details)
        return grpc.stream_stream_rpc_method_handler(_refuse)


async def _refuse(_: object, context: ServicerContext[Any, Any]) -> None:
    await context.abort(
        grpc.StatusCode.INVALID_ARGUMENT, f"exactly one header {HEADER!r} with the value 'true' is needed"
    )
