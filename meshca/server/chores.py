"""What the server does by the clock. APScheduler only ticks: each tick asks what is due and does that, so that a late one is harmless."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta

from apscheduler.schedulers.asyncio import AsyncIOScheduler

from meshca.errors import MeshcaError
from meshca.ports import Clock

logger = logging.getLogger(__name__)

JUMP_SECONDS = 1.0

Chore = Callable[[], Awaitable[object]]


@asynccontextmanager
async def ticking(chores: Mapping[str, tuple[timedelta, Chore]], clock: Clock) -> AsyncIterator[None]:
    """Run each chore at its interval until the context ends. A chore that fails is logged and tried again at its next tick."""
    logging.getLogger("apscheduler.executors.default").addFilter(_is_no_end)
    scheduler = AsyncIOScheduler(timezone="UTC")
    for name, (interval, chore) in chores.items():
        # With its defaults a late job is dropped (tried).
        settings = {"misfire_grace_time": None, "coalesce": True, "max_instances": 1}
        scheduler.add_job(_guarded(name, chore), "interval", seconds=interval.total_seconds(), id=name, **settings)
    scheduler.start()
    watch = asyncio.create_task(_follow_the_clock(scheduler, clock), name="follow the clock")
    try:
        yield
    finally:
        watch.cancel()
        scheduler.shutdown(wait=False)


def _is_no_end(record: logging.LogRecord) -> bool:
    """Whether it is of anything but a chore that the end cut off: no error, yet APScheduler tells it with a traceback."""
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))


async def _follow_the_clock(scheduler: AsyncIOScheduler, clock: Clock) -> None:
    """APScheduler plans by the time of day: set the clock back an hour, and it does nothing for an hour. So plan anew after a jump."""
    offset = _offset(clock)
    while True:
        await asyncio.sleep(JUMP_SECONDS)
        jump = _offset(clock) - offset
        if abs(jump) > JUMP_SECONDS:
            logger.warning("the clock was set", extra={"seconds": round(jump, 3)})
            offset += jump
            for job in scheduler.get_jobs():
                job.modify(next_run_time=clock.now())


def _offset(clock: Clock) -> float:
    return clock.now().timestamp() - clock.monotonic()


def _guarded(name: str, chore: Chore) -> Chore:
    async def run() -> None:
        try:
            await chore()
        except MeshcaError as error:
            logger.error("chore failed", extra={"chore": name, "reason": str(error)})  # noqa: TRY400 - the reason is all there is
        except Exception:
            logger.exception("chore broke", extra={"chore": name})

    return run
