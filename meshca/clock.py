"""The only place that reads the machine's clock."""

import time
from datetime import UTC, datetime


class SystemClock:
    """The Clock port over the machine's own clock."""

    def now(self) -> datetime:
        """The time of day, aware UTC."""
        return datetime.now(UTC)  # noqa: TID251 - the one place

    def monotonic(self) -> float:
        """Seconds since an arbitrary start."""
        return time.monotonic()
