"""Bounds how many calls one user may have open at once, whatever they are: each costs us some 20 KB for as long as it lasts.

Connections are bounded by the gate, but each carries up to a thousand calls, also of services that ask nobody who they are, and also
calls that never send their first message.
"""

import inspect
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from sds.errors import NotAuthorized, SDSError
from sds.gate import Identify


class _TooMany(SDSError):  # noqa: N818 - what it says
    """This user has as many calls open as it may."""


class CallLimit(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs only
    """Refuses calls beyond `per_uid` with RESOURCE_EXHAUSTED. Callers that the gate does not know are refused by whom they call."""

    def __init__(self, *, identify: Identify, per_uid: int) -> None:
        self._identify = identify
        self._per_uid = per_uid
        self._open: Counter[int] = Counter()

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        """Wrap the handler of a call; see grpc.aio.ServerInterceptor."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        kind = next(each for each in _KINDS if getattr(handler, each) is not None)
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        behaviour = self._bounded(getattr(handler, kind))
        return make(behaviour, handler.request_deserializer, handler.response_serializer)

    def _bounded(self, behaviour: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        """The same behaviour, of the same kind: grpc tells a generator from a coroutine by looking at the function."""

        async def call(request: Any, context: Any) -> Any:
            try:
                with self._counted(context):
                    return await behaviour(request, context)
            except _TooMany as reason:
                await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(reason))

        async def generate(request: Any, context: Any) -> AsyncIterator[Any]:
            try:
                with self._counted(context):
                    async for response in behaviour(request, context):
                        yield response
            except _TooMany as reason:
                await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(reason))

        return generate if inspect.isasyncgenfunction(behaviour) else call

    @contextmanager
    def _counted(self, context: Any) -> Iterator[None]:
        try:
            uid = self._identify(context).uid
        except NotAuthorized:
            uid = -1
        if self._open[uid] >= self._per_uid:
            raise _TooMany(f"uid {uid} has {self._per_uid} calls open, which is the limit")
        self._open[uid] += 1
        try:
            yield
        finally:
            self._open -= Counter((uid,))  # and with the last call the uid goes


_KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
