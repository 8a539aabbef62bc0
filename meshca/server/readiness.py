"""Ready means: has signed and verified a throwaway within the last minute. It is tried by the clock and recovers by itself."""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta

from meshca.errors import MeshcaError
from meshca.ports import Clock
from spiffe.errors import SpiffeError

logger = logging.getLogger(__name__)

GOOD_FOR = timedelta(minutes=1)


@dataclass(slots=True, kw_only=True)
class Readiness:
    """Whether the server can do what it is for. `self_test` signs and verifies a throwaway, and raises when it can not."""

    self_test: Callable[[], Awaitable[None]]
    clock: Clock
    _last_good: float | None = field(default=None, init=False)
    _failure: str = field(default="no self-test has run yet", init=False)

    async def test(self) -> None:
        """Try once and remember how it went. Never raises for a failed test."""
        try:
            await self.self_test()
        except (MeshcaError, SpiffeError) as error:
            self._failure = str(error)
            logger.error("self-test failed", extra={"reason": self._failure})  # noqa: TRY400 - the reason is all there is to know
        else:
            self._last_good = self.clock.monotonic()

    def check(self) -> tuple[bool, str]:
        """Whether the last good test is recent, and in words."""
        if self._last_good is None:
            return False, f"cannot sign: {self._failure}"
        age = self.clock.monotonic() - self._last_good
        if age > GOOD_FOR.total_seconds():
            return False, f"has not signed for {age:.0f} s: {self._failure}"
        return True, f"signed and verified a throwaway {age:.0f} s ago"
