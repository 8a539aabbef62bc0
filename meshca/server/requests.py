"""Gives every call an id of its own, so that all its log lines can be found again."""

from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from meshca.logs import new_request_id


class RequestIDs(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs only
    """Bind a new request id per RPC. It holds for the handler too, since grpc.aio runs both in one task."""

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]], handler_call_details: Any
    ) -> Any:
        """See grpc.aio.ServerInterceptor."""
        new_request_id()
        return await continuation(handler_call_details)
