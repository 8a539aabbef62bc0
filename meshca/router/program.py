"""The router as a program: until SIGTERM or SIGINT."""

import asyncio
import signal

from meshca.router.app import RouterSettings, running_router


def serve(settings: RouterSettings) -> None:
    """Run until told to end. Raises what `running_router` raises."""
    asyncio.run(_serve(settings))


async def _serve(settings: RouterSettings) -> None:
    loop, told = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    async with running_router(settings) as running:
        print(f"proxies       {settings.address}:{running.port} (xDS, mutual TLS)\nready", flush=True)  # noqa: T201 - for the person
        await told.wait()
