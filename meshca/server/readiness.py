"""Ready means: the last self-test was good, is at most a minute old, and what was to be recorded since then was.

A self-test signs and verifies a throwaway. It is tried by the clock, and so recovers by itself.
"""

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
    """Whether the server can do what it is for. `self_test` signs and verifies a throwaway, and raises when it can not.

    `trouble` is what is known to fail already, without a test; empty if nothing is.
    """

    self_test: Callable[[], Awaitable[None]]
    trouble: Callable[[], str]
    clock: Clock
    _last_good: float = field(default=0.0, init=False)
    _failure: str = field(default="no self-test has run yet", init=False)

    async def test(self) -> None:
        """Try once and remember how it went. Never raises for a failed test."""
        try:
            await self.self_test()
        except (MeshcaError, SpiffeError) as error:
            if str(error) != self._failure:
                logger.error("self-test failed", extra={"reason": str(error)})  # noqa: TRY400 - the reason is all there is to know
            self._failure = str(error)
        else:
            self._last_good, self._failure = self.clock.monotonic(), ""

    def check(self) -> tuple[bool, str]:
        """Whether the last test was good and is recent, and in words."""
        if failure := self.trouble() or self._failure:
            return False, f"cannot sign: {failure}"
        age = self.clock.monotonic() - self._last_good
        if age > GOOD_FOR.total_seconds():
            return False, f"has not signed for {age:.0f} s"
        return True, f"signed and verified a throwaway {age:.0f} s ago"
