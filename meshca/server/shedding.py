"""Says that connections are turned away, while it lasts."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

from meshca.ports import Clock

LASTS = timedelta(minutes=1)
ALARM = "connections are turned away, since a user or all of them have as many as they may: the log says who, and which limit"


@dataclass(slots=True, kw_only=True)
class Shedding:
    """Follows a count of connections that were turned away: `count` never falls."""

    count: Callable[[], int]
    clock: Clock
    _seen: int = field(default=0, init=False)
    _at: float = field(default=0.0, init=False)

    def alarms(self) -> tuple[str, ...]:
        """The alarm, from the first that was turned away until a minute after the last. It must be asked for often."""
        now, count = self.clock.monotonic(), self.count()
        if count > self._seen:
            self._seen, self._at = count, now
        return (ALARM,) if self._seen and now - self._at < LASTS.total_seconds() else ()
