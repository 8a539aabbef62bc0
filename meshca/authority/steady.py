"""The time that irreversible steps go by: that of the wall clock, except while it has just jumped ahead.

Rules:
- A wall clock that moved by more than a minute against the monotonic one between two looks has jumped: it was set, or the machine slept.
- After a jump ahead, what can not be taken back (an authority dropped, its key destroyed, a holder or an entry forgotten) goes by the time
  before it, counted on by the monotonic clock, until the clock is back or the new time has held for five minutes.
- A clock that was set back is believed at once: by it, those steps only come later.
- What can be taken back, issuing first of all, goes by the wall clock.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from meshca.ports import Clock

JUMP = timedelta(minutes=1)
PROBATION = timedelta(minutes=5)
_NOTHING = timedelta(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reckoning:
    """What both clocks showed at a look, by how much the wall clock is ahead of the steady time, and since when (monotonic seconds)."""

    now: datetime
    monotonic: float
    ahead: timedelta = _NOTHING
    since: float = 0.0


def reckon(before: Reckoning, now: datetime, monotonic: float) -> Reckoning:
    """Look again. Pure."""
    moved = now - before.now - timedelta(seconds=monotonic - before.monotonic)
    ahead, since = (before.ahead + moved, monotonic) if abs(moved) > JUMP else (before.ahead, before.since)
    believed = ahead <= JUMP or monotonic - since >= PROBATION.total_seconds()
    return Reckoning(now=now, monotonic=monotonic, ahead=_NOTHING if believed else ahead, since=since)


class SteadyClock:
    """The Clock port, with the steady time beside it. Remembers what it saw at the last look; look often."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seen = Reckoning(now=clock.now(), monotonic=clock.monotonic())

    def now(self) -> datetime:
        """See the port."""
        return self._clock.now()

    def monotonic(self) -> float:
        """See the port."""
        return self._clock.monotonic()

    def steady(self) -> datetime:
        """Look, and return the time that irreversible steps go by. Never later than `now`."""
        self._seen = reckon(self._seen, self.now(), self.monotonic())
        return self._seen.now - self._seen.ahead

    def alarms(self) -> tuple[str, ...]:
        """What a person must look at, in sentences."""
        held = f"nothing is dropped or forgotten until that has held for {PROBATION}, or is over"
        return (f"the clock jumped ahead by {self.ahead}: {held}",) if self.ahead else ()

    @property
    def ahead(self) -> timedelta:
        """By how much the wall clock was ahead of the steady time at the last look: zero unless it has just jumped."""
        return self._seen.ahead
