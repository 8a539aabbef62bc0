"""How long the process runs, what it says and what it hears meanwhile.

It says `ready` once it can sign. SIGTERM and SIGINT end it, SIGHUP loads the configuration again.
"""

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from meshca import logs
from meshca.config import Config, reloadable
from meshca.errors import MeshcaError
from meshca.notify import Notify
from meshca.server.readiness import Readiness

Load = Callable[[], Config]

logger = logging.getLogger(__name__)


TRY_AGAIN = 1.0
"""Seconds from one try to get ready to the next."""

LAST_WORDS = 1.0
"""Seconds for calls that were cut off to notice it."""


@asynccontextmanager
async def outlasting_calls() -> AsyncIterator[None]:
    """On exit, let whatever else still runs in this loop end, for a moment.

    `stop()` of gRPC's server does not wait for the handlers of calls that it cut off (grpc issue 37239). The end of the loop would cancel
    what waits for them, too, and gRPC would print a traceback for each.
    """
    try:
        yield
    finally:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:
            await asyncio.wait(others, timeout=LAST_WORDS)


async def until_ready(readiness: Readiness, notify: Notify, say: Callable[[str], None]) -> None:
    """Say that we are ready once we are; until then say why we are not, and go on trying."""
    told = ""
    while not (found := readiness.check())[0]:
        if found[1] != told:
            say(f"not ready: {found[1]} (it goes on trying)")
        told = found[1]
        notify.waiting(told)
        await asyncio.sleep(TRY_AGAIN)
        await readiness.test()
    say("ready")
    notify.ready()


async def until_told(config: Config, load: Load, apply: Callable[[Config], None], notify: Notify) -> None:
    """Wait for SIGTERM or SIGINT; at each SIGHUP, load the configuration again and `apply` what can be."""
    loop, told, hangup = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    loop.add_signal_handler(signal.SIGHUP, hangup.set)
    while await _first(told, hangup) is hangup:
        hangup.clear()
        notify.reloading()
        config = _reload(config, load)
        apply(config)
        notify.reloaded()
    logger.info("stopping")


async def _first(*events: asyncio.Event) -> asyncio.Event:
    """The first of the events that is set, in the order given."""
    waits = [asyncio.create_task(event.wait()) for event in events]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
    return next(event for event in events if event.is_set())


def _reload(old: Config, load: Load) -> Config:
    """Apply what can be applied now; a configuration that is wrong changes nothing."""
    try:
        outcome = reloadable(old, load())
    except MeshcaError as error:
        logger.error("configuration not reloaded", extra={"reason": str(error)})  # noqa: TRY400 - the reason is all there is
        return old
    logs.configure(outcome.config.log.format, outcome.config.log.level)
    changes = {
        "applied": [str(each) for each in outcome.applied],
        "restart_needed": [str(each) for each in outcome.restart],
    }
    logger.info("configuration reloaded", extra=changes)
    return outcome.config
