"""The router as a program: until SIGTERM or SIGINT."""

import asyncio
import signal
from contextlib import suppress

from meshca.router.app import RouterSettings, running_router
from sds.gate import raise_open_files


def serve(settings: RouterSettings) -> None:
    """Run until told to end. Raises what `running_router` raises."""
    raise_open_files()  # a share of them is what bounds how many proxies fit
    asyncio.run(_serve(settings))


async def _serve(settings: RouterSettings) -> None:
    """While it waits for an identity or for files that can be read, a signal ends it at once; later it drains."""
    loop, told, starting = asyncio.get_running_loop(), asyncio.Event(), asyncio.current_task()

    def end() -> None:
        told.set()
        if starting:
            starting.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    with suppress(asyncio.CancelledError):
        async with running_router(settings) as running:
            starting = None
            print(f"proxies       {settings.address}:{running.port} (xDS, mutual TLS)\nready", flush=True)  # noqa: T201 - for the person
            await told.wait()
