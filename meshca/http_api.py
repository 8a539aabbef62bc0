"""The HTTP listener: /metrics for Prometheus, /live and /ready for whoever starts and watches us: a server, or a router.

Live means that the event loop turns. Ready means that we can do what we are for; the body says what fails.

Anybody on the machine may dial it, and TCP does not say who: so only so many connections are kept, and the oldest goes first. Else
whoever opens enough of them takes all open files, and with these the whole server.
"""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import cast

from aiohttp import web

from meshca.errors import CannotStart

logger = logging.getLogger(__name__)

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Ready = Callable[[], tuple[bool, Mapping[str, object]]]
"""Whether we can do what we are for, and a JSON object that says what fails."""

MOST_CONNECTIONS = 64
"""Many times what scrapers and probes need; a scrape is over before that many newer ones have come."""

_DRAIN_SECONDS = 1.0


def check_address(address: str, port: int, advice: str) -> None:
    """Raise CannotStart, as `serve_http` would, if nobody can listen there now. `advice` says what to set to something else."""
    try:
        with socket.create_server((address, port), family=socket.AF_INET6 if ":" in address else socket.AF_INET):
            pass
    except OSError as error:
        raise _taken(address, port, advice, error) from error


def _taken(address: str, port: int, advice: str, error: OSError) -> CannotStart:
    return CannotStart(f"http can not listen at {address} port {port}: {error.strerror or error}. {advice}")


@asynccontextmanager
async def serve_http(
    *, address: str, port: int, metrics: Callable[[], bytes], ready: Ready, advice: str
) -> AsyncIterator[int]:
    """Serve while the context is open; yield the port, which the kernel chose if it was 0.

    Raises CannotStart, with `advice`, if nobody can listen there.
    """
    runner = web.AppRunner(_application(metrics, ready), access_log=None, shutdown_timeout=_DRAIN_SECONDS)
    await runner.setup()
    listener: asyncio.Server | None = None
    try:
        try:
            listener = await asyncio.get_running_loop().create_server(_bounded(runner), address, port)
        except OSError as error:
            raise _taken(address, port, advice, error) from error
        bound: int = listener.sockets[0].getsockname()[1]
        logger.info("http listens", extra={"address": address, "port": bound})
        yield bound
    finally:
        if listener is not None:
            listener.close()
        await runner.cleanup()


def _bounded(runner: web.AppRunner) -> Callable[[], asyncio.Protocol]:
    """Make the protocol of each new connection, and close the oldest beyond the most there may be."""
    server = cast("web.Server", runner.server)  # there since `setup`

    def admit() -> asyncio.Protocol:
        for oldest in server.connections[: 1 - MOST_CONNECTIONS]:  # oldest first; the newest and this one are the most
            oldest.force_close()
        return server()

    return admit


def _application(metrics: Callable[[], bytes], ready: Ready) -> web.Application:
    async def show_metrics(_: web.Request) -> web.Response:
        return web.Response(body=metrics(), headers={"Content-Type": METRICS_TYPE})

    async def show_live(_: web.Request) -> web.Response:
        return web.Response(text="live\n")

    async def show_ready(_: web.Request) -> web.Response:
        good, detail = ready()
        return web.json_response({"ready": good, **detail}, status=200 if good else 503)

    application = web.Application()
    application.add_routes(
        [web.get("/metrics", show_metrics), web.get("/live", show_live), web.get("/ready", show_ready)]
    )
    return application
