"""The router as a program: until SIGTERM or SIGINT."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from importlib.metadata import version

from prometheus_client import generate_latest

from meshca.heap import settle_heap
from meshca.http_api import serve_http
from meshca.router.app import RouterSettings, Running, running_router
from meshca.router.metrics import registry
from sds.gate import raise_open_files

HTTPPlace = tuple[str, int]
"""Address and port of `/metrics`, `/live` and `/ready`."""

HTTP_ADVICE = "Give --http something else"


def serve(settings: RouterSettings, http: HTTPPlace | None = None) -> None:
    """Run until told to end. Raises what `running_router` raises, and CannotStart when `http` can not be taken."""
    raise_open_files()  # a share of them is what bounds how many proxies fit
    asyncio.run(_serve(settings, http))


async def _serve(settings: RouterSettings, http: HTTPPlace | None) -> None:
    """While it waits for an identity or for files that can be read, a signal ends it at once; later it drains."""
    loop, told, starting = asyncio.get_running_loop(), asyncio.Event(), asyncio.current_task()

    def end() -> None:
        told.set()
        if starting:
            starting.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    with suppress(asyncio.CancelledError):
        async with running_router(settings) as running, _telling(running, settings, http):
            starting = None
            settle_heap()
            _say(f"proxies       {settings.address}:{running.port} (xDS, mutual TLS)\nready")
            await told.wait()


@asynccontextmanager
async def _telling(running: Running, settings: RouterSettings, http: HTTPPlace | None) -> AsyncIterator[None]:
    """Tell Prometheus and probes how things are, if that is wanted."""
    if http is None:
        yield
        return
    known, (address, port) = registry(running, version("meshca")), http
    async with serve_http(
        address=address,
        port=port,
        metrics=lambda: generate_latest(known),
        ready=lambda: ready(running, settings.now()),
        advice=HTTP_ADVICE,
    ) as bound:
        _say(f"http          http://{address}:{bound}/metrics, /live, /ready")
        yield


def ready(running: Running, now: datetime) -> tuple[bool, dict[str, object]]:
    """Whether proxies can connect: not once the router's own certificate has ended. With a JSON object that says so."""
    until = running.certificate_until
    return until is not None and now < until, {"certificate_until": until and until.isoformat()}


def _say(text: str) -> None:
    """For the person at the terminal."""
    print(text, flush=True)  # noqa: T201 - this is what it is for
