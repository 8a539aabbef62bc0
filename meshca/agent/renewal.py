"""When a leaf is renewed, and how soon a failed renewal is tried again. Pure.

Rules:
- A leaf is due at half its life, counted from issue and not from `notBefore` (design section 3).
- The jitter is drawn once for each certificate, from its serial: drawn at each check, the earliest draw would win and leaves that
  were issued together would be renewed together (facts/spire.md 1.7).
- A clock that jumps back does no harm: nothing is due earlier for it, and whoever waits for another try is tried at once.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256

from meshca.model import Leaf

JITTER = 0.1
FIRST_PAUSE = timedelta(seconds=0.5)
LONGEST_PAUSE = timedelta(seconds=30)
_TRIES_LEFT = 4
_MOST_DOUBLINGS = 16


def due_at(leaf: Leaf) -> datetime:
    """When to renew: half the life after issue, give or take a tenth of that half."""
    return leaf.issued_at + (leaf.not_after - leaf.issued_at) / 2 * (1 + JITTER * _lot(leaf.serial))


def due(leaf: Leaf, now: datetime) -> bool:
    """Whether it is time to renew."""
    return now >= due_at(leaf)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setback:
    """Issuing failed `failures` times in a row, last at `at` and for the reason `text`. The next try is at `retry_at`."""

    failures: int
    at: datetime
    retry_at: datetime
    text: str

    def blocks(self, now: datetime) -> bool:
        """Whether it is too early for another try."""
        return self.at <= now < self.retry_at


def set_back(before: Setback | None, now: datetime, text: str, not_after: datetime | None) -> Setback:
    """Record one more failure. The pause doubles, up to LONGEST_PAUSE, and leaves time for some tries while the leaf at hand is valid.

    `not_after` is the end of that leaf, None where there is none.
    """
    failures = before.failures + 1 if before else 1
    pause = min(FIRST_PAUSE * 2 ** min(failures - 1, _MOST_DOUBLINGS), LONGEST_PAUSE)
    if not_after is not None and not_after > now:
        pause = max(FIRST_PAUSE, min(pause, (not_after - now) / _TRIES_LEFT))
    return Setback(failures=failures, at=now, retry_at=now + pause, text=text)


def _lot(serial: int) -> float:
    """Draw from -1 to 1, always the same for a serial."""
    drawn = sha256(serial.to_bytes((serial.bit_length() + 7) // 8, "big")).digest()
    return int.from_bytes(drawn[:8], "big") / 2**63 - 1
