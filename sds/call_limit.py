"""Bounds how many calls one user may have open at once, whatever they are: each costs us some 20 KB for as long as it lasts.

Connections are bounded by the gate, but each carries many calls, also of services that ask nobody who they are.

Rules:
- A call counts from its first header on. grpc.aio shows a call with a single request only when that has come, so each handler is served
  as one of streams, and its request is read here.
- The first request of a call must come in time; later ones of a stream may take as long as they like.
"""

import asyncio
import inspect
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

import grpc

from sds.errors import NotAuthorized, SDSError
from sds.gate import Identify


class _Refused(SDSError):  # noqa: N818 - what it says
    """A call that ends for the way in which it is made."""

    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        super().__init__(text)
        self.code = code


class CallLimit(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs only
    """Refuses calls beyond `per_uid` with RESOURCE_EXHAUSTED. Callers that the gate does not know are refused by whom they call."""

    def __init__(self, *, identify: Identify, per_uid: int, patience: float) -> None:
        """`patience`: how many seconds a call may take until its first request is there."""
        self._identify = identify
        self._per_uid = per_uid
        self._patience = patience
        self._open: Counter[int] = Counter()

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        """Wrap the handler of a call; see grpc.aio.ServerInterceptor."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None

        async def call(requests: AsyncIterator[Any], context: Any) -> None:
            try:
                with self._counted(context):
                    await _serve(handler, _Requests(requests, self._patience), context)
            except _Refused as reason:
                await context.abort(reason.code, str(reason))

        return grpc.stream_stream_rpc_method_handler(call, handler.request_deserializer, handler.response_serializer)

    @contextmanager
    def _counted(self, context: Any) -> Iterator[None]:
        try:
            uid = self._identify(context).uid
        except NotAuthorized:
            uid = -1
        if self._open[uid] >= self._per_uid:
            text = f"uid {uid} has {self._per_uid} calls open, which is the limit"
            raise _Refused(grpc.StatusCode.RESOURCE_EXHAUSTED, text)
        self._open[uid] += 1
        try:
            yield
        finally:
            self._open -= Counter((uid,))  # and with the last call the uid goes


class _Requests:
    """The requests of one call, of which the first must come within `patience` seconds."""

    def __init__(self, requests: AsyncIterator[Any], patience: float) -> None:
        self._requests = requests
        self._patience: float | None = patience

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        patience, self._patience = self._patience, None
        try:
            async with asyncio.timeout(patience):
                return await anext(self._requests)
        except TimeoutError:
            text = f"the call has no request after {patience:g} s"
            raise _Refused(grpc.StatusCode.DEADLINE_EXCEEDED, text) from None

    async def single(self) -> Any:
        """Return the one request of a call that has one."""
        async for request in self:
            return request
        raise _Refused(grpc.StatusCode.UNIMPLEMENTED, "the call ended without its request")  # what gRPC says of that


async def _serve(handler: Any, requests: _Requests, context: Any) -> None:
    """Serve a call of any kind as one of streams. A behaviour that streams its responses yields or writes them."""
    behaviour = next(kind for kind in (getattr(handler, name) for name in _KINDS) if kind is not None)
    outcome = behaviour(requests if handler.request_streaming else await requests.single(), context)
    if inspect.isasyncgen(outcome):
        async for response in outcome:
            await context.write(response)
    elif handler.response_streaming:
        await outcome
    else:
        await context.write(await outcome)


_KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
