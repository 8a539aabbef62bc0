"""gRPC streams around the xDS sessions: read, ask the session, write.

Rules: one stream is two tasks, its reader and a watcher of what its client may see, and neither waits for another stream. Whichever of
the two has news writes, never both at once. A client that does not read blocks its own stream only, and gets the newest state when it
reads again. A stream ends when its client closes it or breaks the protocol, or when its feed ends. Who may have one is asked before
anything is read of it: a client that says nothing occupies no more than one that does.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

import grpc
from grpc.aio import ServicerContext

from sds.errors import NotAuthorized, SDSError, Unauthenticated
from sds.xds.delta import DeltaRequest, DeltaResponse, DeltaSession
from sds.xds.resource import AGGREGATED, SECRET, InvalidRequest, Node, Snapshot, TypeRules
from sds.xds.session import Event, Request, Response, Sent, SotwSession
from sds.xds.wire import read_delta_request, read_request, write_delta_response, write_response

_Method: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
_Service: TypeAlias = "grpc.GenericRpcHandler[Any, Any]"
_T = TypeVar("_T")
_Caller = TypeVar("_Caller")
_Ask = TypeVar("_Ask", Request, DeltaRequest)
_Ask_contra = TypeVar("_Ask_contra", contravariant=True)


class Unavailable(SDSError):  # noqa: N818 - the status code's name
    """What was asked for can not be served yet, but may be later."""


class _FeedEnded(Exception):  # noqa: N818 - not an error
    """There is nothing more to see."""


_STATUS = (
    (InvalidRequest, grpc.StatusCode.INVALID_ARGUMENT),
    (Unauthenticated, grpc.StatusCode.UNAUTHENTICATED),
    (NotAuthorized, grpc.StatusCode.PERMISSION_DENIED),
    (Unavailable, grpc.StatusCode.UNAVAILABLE),
)
FIRST_SECONDS = 30.0
"""How long a stream may be open without a request."""
_LONGEST_DETAILS = 1000
"""Characters of a status message: it travels in a header, and those are limited."""


class Feed(Protocol):
    """What the client of one stream may see, and where its answers go."""

    def snapshots(self) -> AsyncIterator[Snapshot]:
        """Yield the present snapshot of each type served, at once, then each newer one; those in between may be left out.

        The stream ends, with OK, when this ends; NotAuthorized and Unavailable end it with their text. Cancelled when the client leaves.
        """
        ...

    def on_event(self, event: Event) -> None:
        """Take note of what was sent, and of what the client accepted, refused, dropped or has already. Never blocks, never raises."""
        ...


Admit = Callable[[ServicerContext[Any, Any]], AbstractAsyncContextManager[_Caller]]
"""Says who is calling, for the life of the stream. Raises NotAuthorized and Unavailable, at once or from a task group around its body."""
OpenFeed = Callable[[_Caller, Node], AbstractAsyncContextManager[Feed]]
"""Opens the feed of who is calling, never by the node, for the rest of the stream. Raises what Admit raises, and InvalidRequest."""


class _Session(Protocol[_Ask_contra]):
    """What both kinds of session have in common."""

    def on_request(self, request: _Ask_contra, /) -> Iterable[Event]: ...

    def on_snapshot(self, snapshot: Snapshot, /) -> Iterable[Event]: ...

    def next_response(self) -> Response | DeltaResponse | None: ...


@dataclass(slots=True, kw_only=True, eq=False)
class _Stream(Generic[_Ask]):
    """One stream: the loops around its session."""

    session: _Session[_Ask]
    feed: Feed
    context: ServicerContext[Any, Any]
    writing: bool = False

    async def run(self, requests: AsyncIterator[_Ask], events: Iterable[Event]) -> None:
        self._report(events)
        async with asyncio.TaskGroup() as tasks:
            watcher = tasks.create_task(self._watch(), name="xds watcher")
            async for request in requests:
                self._report(self.session.on_request(request))
                await self._write()
            watcher.cancel()

    async def _watch(self) -> None:
        async for snapshot in self.feed.snapshots():
            self._report(self.session.on_snapshot(snapshot))
            await self._write()
        raise _FeedEnded

    def _report(self, events: Iterable[Event]) -> None:
        for event in events:
            self.feed.on_event(event)

    async def _write(self) -> None:
        """Send all that is due. Who finds the other loop writing may go: that one asks again before it stops."""
        if self.writing:
            return
        self.writing = True
        with suppress(
            grpc.aio.InternalError
        ):  # the client has left, which the reader is about to hear: nobody writes again
            while (response := self.session.next_response()) is not None:
                await self.context.write(response)
                self.feed.on_event(_sent(response))
            self.writing = False


def _sent(response: Response | DeltaResponse) -> Sent:
    return Sent(type_url=response.type_url, names=tuple(resource.name for resource in response.resources))


@dataclass(frozen=True, slots=True)
class _Door(Generic[_Caller]):
    """Who gets a stream, and what is to be seen there."""

    admit: Admit[_Caller]
    open_feed: OpenFeed[_Caller]
    first_seconds: float | None = None
    """How long it may be open without a request; None where a `CallLimit` before it sees to that."""

    async def serve(
        self, session: _Session[_Ask], requests: AsyncIterator[_Ask], context: ServicerContext[Any, Any]
    ) -> None:
        async with self.admit(context) as caller:
            first = await self._first(requests)
            if first is None:
                return
            events = session.on_request(first)  # it may be refused, so nothing is opened before
            async with self.open_feed(caller, first.node) as feed:
                await _Stream(session=session, feed=feed, context=context).run(requests, events)

    async def _first(self, requests: AsyncIterator[_Ask]) -> _Ask | None:
        try:
            async with asyncio.timeout(self.first_seconds):
                return await anext(requests, None)
        except TimeoutError as error:
            raise InvalidRequest(f"no request came within {self.first_seconds:g} s") from error


async def _fetch(
    open_feed: OpenFeed[ServicerContext[Any, Any]], content: bytes, context: ServicerContext[Any, Any]
) -> Response:
    """Answer at once, with all that was asked for or with the reason why not."""
    request = read_request(content)
    if not request.names:
        raise InvalidRequest("resource_names is empty: there is nothing to fetch")
    session = SotwSession(rules=(SECRET,))
    session.on_request(replace(request, version=""))
    async with open_feed(context, request.node) as feed:
        async for snapshot in feed.snapshots():
            session.on_snapshot(snapshot)
            break
        response = session.next_response()
        missing = set(request.names).difference(_sent(response).names if response else ())
        if response is None or missing:
            raise Unavailable(f"can not be served yet: {sorted(missing)}")
        feed.on_event(_sent(response))
        return response


async def ending_with_status(context: ServicerContext[Any, Any], call: Coroutine[Any, Any, _T]) -> _T | None:
    """Run a call; turn the reason for which it ends into a status."""
    reason: BaseException | None = None
    try:
        return await call
    except* _FeedEnded:
        pass
    except* (InvalidRequest, NotAuthorized, Unavailable) as reasons:
        reason = _first(reasons)
    for kind, code in _STATUS:
        if isinstance(reason, kind):
            told = reason.told if isinstance(reason, NotAuthorized) else str(reason)
            await context.abort(code, told[:_LONGEST_DETAILS])
    return None


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first exception of a group of groups."""
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


def _methods(door: _Door[_Caller], rules: tuple[TypeRules, ...]) -> tuple[_Method, _Method]:
    """Return the state-of-the-world and the incremental method."""

    async def sotw(requests: AsyncIterator[Request], context: ServicerContext[Any, Any]) -> None:
        await ending_with_status(context, door.serve(SotwSession(rules=rules), requests, context))

    async def delta(requests: AsyncIterator[DeltaRequest], context: ServicerContext[Any, Any]) -> None:
        await ending_with_status(context, door.serve(DeltaSession(rules=rules), requests, context))

    return (
        grpc.stream_stream_rpc_method_handler(sotw, read_request, write_response),
        grpc.stream_stream_rpc_method_handler(delta, read_delta_request, write_delta_response),
    )


def secret_service(
    open_feed: OpenFeed[ServicerContext[Any, Any]], open_once: OpenFeed[ServicerContext[Any, Any]]
) -> _Service:
    """Return `envoy.service.secret.v3.SecretDiscoveryService`: StreamSecrets, DeltaSecrets, and FetchSecrets, which opens its feed once."""

    async def fetch(content: bytes, context: ServicerContext[Any, Any]) -> Response | None:
        return await ending_with_status(context, _fetch(open_once, content, context))

    stream, delta = _methods(_Door(nullcontext, open_feed), (SECRET,))
    unary = grpc.unary_unary_rpc_method_handler(fetch, None, write_response)
    return grpc.method_handlers_generic_handler(
        "envoy.service.secret.v3.SecretDiscoveryService",
        {"StreamSecrets": stream, "DeltaSecrets": delta, "FetchSecrets": unary},
    )


def aggregated_service(
    admit: Admit[_Caller],
    open_feed: OpenFeed[_Caller],
    rules: tuple[TypeRules, ...] = AGGREGATED,
    *,
    first_seconds: float = FIRST_SECONDS,
) -> _Service:
    """Return `envoy.service.discovery.v3.AggregatedDiscoveryService` for these types, sent in this order (P14)."""
    stream, delta = _methods(_Door(admit, open_feed, first_seconds), rules)
    return grpc.method_handlers_generic_handler(
        "envoy.service.discovery.v3.AggregatedDiscoveryService",
        {"StreamAggregatedResources": stream, "DeltaAggregatedResources": delta},
    )
