"""A Clock that tests move by hand."""

from datetime import UTC, datetime, timedelta

START = datetime(2030, 1, 1, tzinfo=UTC)


class FakeClock:
    """The Clock port with hands to turn."""

    def __init__(self, now: datetime = START) -> None:
        self.time = now
        self.ticks = 0.0

    def now(self) -> datetime:
        return self.time

    def monotonic(self) -> float:
        return self.ticks

    def advance(self, by: timedelta) -> datetime:
        """Let time pass, on both dials."""
        self.time += by
        self.ticks += by.total_seconds()
        return self.time

    def jump(self, by: timedelta) -> datetime:
        """Set the time of day, as a person or NTP would: the monotonic dial does not move."""
        self.time += by
        return self.time
