"""What all admin calls have in common: one table that turns errors into statuses, one log line at the end."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc

from meshca.errors import (
    AlreadyExists,
    InvalidInput,
    KeyGone,
    MeshcaError,
    NotFound,
    Refused,
    StoreConflict,
    StoreUnavailable,
)
from sds.caller import UnixPeer
from sds.errors import SDSError
from spiffe.errors import SpiffeError

logger = logging.getLogger(__name__)

MOST_CHARACTERS = 4000
"""Of the text of a status: it travels in a header, which has its limit."""

# Who calls, if they may administer at this moment. Raises NotAuthorized.
Identify = Callable[[Any], UnixPeer]

STATUS = (
    (NotFound, grpc.StatusCode.NOT_FOUND),
    (AlreadyExists, grpc.StatusCode.ALREADY_EXISTS),
    (InvalidInput, grpc.StatusCode.INVALID_ARGUMENT),
    (SpiffeError, grpc.StatusCode.INVALID_ARGUMENT),
    (Refused, grpc.StatusCode.FAILED_PRECONDITION),
    (KeyGone, grpc.StatusCode.FAILED_PRECONDITION),
    (StoreConflict, grpc.StatusCode.ABORTED),
    (StoreUnavailable, grpc.StatusCode.UNAVAILABLE),
    (SDSError, grpc.StatusCode.PERMISSION_DENIED),
    (MeshcaError, grpc.StatusCode.INTERNAL),
)


PROBES = frozenset({"/meshca.admin.v1.Status/Status"})
"""What is asked every few seconds, by whoever watches us."""

_running: set[asyncio.Future[Any]] = set()  # the loop itself would forget a task that nobody waits for


def status_of(error: Exception) -> tuple[grpc.StatusCode, str]:
    """The status and text for an error. An unforeseen one shows its type only: its text might hold what nobody should see."""
    for kind, code in STATUS:
        if isinstance(error, kind):
            return code, str(error)[:MOST_CHARACTERS]
    return grpc.StatusCode.INTERNAL, f"internal error ({type(error).__name__}); the server's log has the request id"


@dataclass(frozen=True, slots=True)
class Outcomes(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs only
    """Turn what a call raises into a status, and log how it ended: one event a line.

    Who calls is asked before each call, and before each message of one that streams: a connection outlives the right to it.
    """

    identify: Identify

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        """Wrap the handler of a call; see grpc.aio.ServerInterceptor."""
        handler = await continuation(details)
        if handler is None:
            return None
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                _streaming(handler.unary_stream, details.method, self.identify),
                handler.request_deserializer,
                handler.response_serializer,
            )
        return grpc.unary_unary_rpc_method_handler(
            _unary(handler.unary_unary, details.method, self.identify),
            handler.request_deserializer,
            handler.response_serializer,
        )


def _unary(
    behaviour: Callable[[Any, Any], Awaitable[Any]], method: str, identify: Identify
) -> Callable[[Any, Any], Awaitable[Any]]:
    async def call(request: Any, context: Any) -> Any:
        try:
            identify(context)
            response = await _whole(behaviour(request, context))
        except Exception as error:  # the one place where errors become statuses
            await _end(context, method, error)
            raise AssertionError from error  # abort has raised
        logger.log(
            logging.DEBUG if method in PROBES else logging.INFO, "admin call", extra={"method": method, "code": "OK"}
        )
        return response

    return call


async def _whole(work: Awaitable[Any]) -> Any:
    """What the work returns. A caller that hangs up does not cut it short: store and memory must say the same after it."""
    task = asyncio.ensure_future(work)
    _running.add(task)
    task.add_done_callback(_running.discard)
    return await asyncio.shield(task)


def _streaming(
    behaviour: Callable[[Any, Any], AsyncIterator[Any]], method: str, identify: Identify
) -> Callable[[Any, Any], AsyncIterator[Any]]:
    async def call(request: Any, context: Any) -> AsyncIterator[Any]:
        try:
            identify(context)
            async for response in behaviour(request, context):
                identify(context)
                yield response
        except Exception as error:  # noqa: BLE001 - same
            await _end(context, method, error)
        logger.info("admin call", extra={"method": method, "code": "OK"})

    return call


async def _end(context: Any, method: str, error: Exception) -> None:
    """Abort the call with the error's status."""
    if isinstance(error, grpc.aio.AbortError):
        raise error
    code, text = status_of(error)
    unforeseen = code is grpc.StatusCode.INTERNAL
    logger.log(
        logging.ERROR if unforeseen else logging.INFO,
        "admin call",
        extra={"method": method, "code": code.name, "reason": text},
        exc_info=error if unforeseen else None,
    )
    await context.abort(code, text)
