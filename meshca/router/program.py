"""The router as a program: until SIGTERM or SIGINT."""

import asyncio
import signal

from meshca.router.app import RouterSettings, running_router
from sds.gate import raise_open_files


def serve(settings: RouterSettings) -> None:
    """Run until told to end. Raises what `running_router` raises."""
    raise_open_files()  # a share of them is what bounds how many proxies fit
    asyncio.run(_serve(settings))


async def _serve(settings: RouterSettings) -> None:
    loop, told = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    async with running_router(settings) as running:
        print(f"proxies       {settings.address}:{running.port} (xDS, mutual TLS)\nready", flush=True)  # noqa: T201 - for the person
        await told.wait()
