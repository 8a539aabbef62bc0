"""Chores run by the clock, whatever happens to the clock and to the chores."""

import asyncio
import logging
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import pytest

from meshca.clock import SystemClock
from meshca.errors import StoreUnavailable
from meshca.server.chores import ticking
from tests.support.wait import until

HOUR = timedelta(hours=1)


@dataclass
class SetClock(SystemClock):
    """The machine's clock, set back by a test, as a person or NTP would."""

    off: timedelta = field(default_factory=timedelta)

    def now(self) -> datetime:
        return super().now() + self.off


async def test_after_the_clock_was_set_back_each_chore_is_done_at_once_and_not_an_hour_later(
    caplog: pytest.LogCaptureFixture,
):
    clock, done = SetClock(), []

    async def chore() -> None:
        done.append(clock.now())

    async with ticking({"chore": (2 * HOUR, chore)}, clock):
        await asyncio.sleep(0)  # the watch begins
        clock.off = -HOUR
        with caplog.at_level(logging.WARNING, logger="meshca.server.chores"):
            await until(lambda: done)
    (event,) = [record for record in caplog.records if record.message == "the clock was set"]
    assert abs(vars(event)["seconds"] + HOUR.total_seconds()) < 2


async def test_a_chore_that_fails_is_logged_with_its_reason_and_done_again(caplog: pytest.LogCaptureFixture):
    tries = []

    async def chore() -> None:
        tries.append(1)
        raise StoreUnavailable("the disk is full") if len(tries) < 3 else ValueError("a bug")

    async with ticking({"rotation": (timedelta(milliseconds=10), chore)}, SystemClock()):
        await until(lambda: len(tries) >= 5)
    failed = [vars(record) for record in caplog.records if record.message == "chore failed"]
    assert [(each["chore"], each["reason"]) for each in failed] == [("rotation", "the disk is full")] * 2
    assert any(record.message == "chore broke" and record.exc_info for record in caplog.records)


async def test_a_chore_that_takes_longer_than_its_interval_is_not_done_twice_at_once():
    going, most = [], []

    async def chore() -> None:
        going.append(1)
        most.append(len(going))
        await asyncio.sleep(0.05)  # it takes its time, which is the subject here
        going.pop()

    async with ticking({"slow": (timedelta(milliseconds=10), chore)}, SystemClock()):
        await until(lambda: len(most) >= 3)
    assert max(most) == 1


async def test_a_chore_that_the_end_cuts_off_is_no_error(caplog: pytest.LogCaptureFixture):
    begun = asyncio.Event()

    async def chore() -> None:
        begun.set()
        await asyncio.sleep(HOUR.total_seconds())

    async with ticking({"chore": (timedelta(milliseconds=10), chore)}, SystemClock()):
        await begun.wait()
    for _ in range(3):  # its end is told by a callback of the loop
        await asyncio.sleep(0)
    assert [each for each in caplog.records if each.exc_info] == []
