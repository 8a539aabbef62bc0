"""Keeps a flood of like events from flooding the log: the first is logged at once, then one per interval with a count of the rest."""

import logging
import time
from typing import Any

_MOST_KEYS = 1000


class LogLimit:
    """Log warnings, each kind at most once per `every` seconds."""

    __slots__ = ("_every", "_logger", "_seen")

    def __init__(self, logger: logging.Logger, *, every: float = 10.0) -> None:
        self._logger = logger
        self._every = every
        self._seen: dict[object, tuple[float, int]] = {}

    def warning(self, event: str, *, kind: object = None, **facts: Any) -> None:
        """Log an event with its facts, unless one of that name and kind was logged just now: then count it."""
        now = time.monotonic()
        since, dropped = self._seen.get((event, kind), (-self._every, 0))
        if now - since < self._every:
            self._seen[event, kind] = since, dropped + 1
            return
        if len(self._seen) >= _MOST_KEYS:
            self._seen.clear()
        self._seen[event, kind] = now, 0
        self._logger.warning(event, extra={**facts, "suppressed": dropped} if dropped else facts)
