"""What people type and see: durations, times, printable text. Pure; each refusal names the value and shows a good one."""

import re
from datetime import UTC, datetime, timedelta

from meshca.errors import InvalidInput

_UNITS = {"w": 604800, "d": 86400, "h": 3600, "m": 60, "s": 1}
_DURATION = re.compile("".join(rf"(?:(?P<{unit}>\d{{1,12}}){unit})?" for unit in _UNITS), re.ASCII)
_SECONDS = re.compile(r"\d{1,12}", re.ASCII)
_MAX = timedelta(days=36500)


def parse_duration(text: str) -> timedelta:
    """Read `90`, `90s`, `15m`, `1h30m`, `2d` or `1w`; a bare number is seconds. Raises InvalidInput; a century is the limit."""
    parts = {"s": text} if _SECONDS.fullmatch(text) else _parts(text)
    seconds = sum(int(count) * _UNITS[unit] for unit, count in parts.items() if count)
    if seconds > _MAX.total_seconds():
        raise InvalidInput(f"duration {text[:40]!r} is longer than {_MAX.days} days")
    return timedelta(seconds=seconds)


def _parts(text: str) -> dict[str, str]:
    match = _DURATION.fullmatch(text)
    if not text or not match:
        raise InvalidInput(f"{text[:40]!r} is not a duration such as 90s, 15m, 1h30m or 2d")
    return match.groupdict(default="")


def format_duration(value: timedelta) -> str:
    """A duration as people read it, in whole seconds: `1h30m`. `parse_duration` reads it back."""
    left = int(value.total_seconds())
    if left < 0:
        return f"-{format_duration(-value)}"
    words = []
    for unit, size in _UNITS.items():
        count, left = divmod(left, size)
        words += [f"{count}{unit}"] if count else []
    return "".join(words) or "0s"


def parse_time(text: str) -> datetime:
    """Read an RFC 3339 time with its zone, such as `2026-11-24T02:00:00Z`; the result is UTC. Raises InvalidInput."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidInput(f"{text[:40]!r} is not a time such as 2026-11-24T02:00:00Z") from error
    if at.tzinfo is None:
        raise InvalidInput(f"time {text!r} has no zone: write {text}Z for UTC")
    try:
        return at.astimezone(UTC)
    except OverflowError as error:
        raise InvalidInput(f"time {text!r} is out of range") from error


def past(text: str, now: datetime) -> datetime:
    """A time, or a duration that counts back from now. Raises InvalidInput."""
    return _relative(text, now, -1)


def future(text: str, now: datetime) -> datetime:
    """A time, or a duration that counts on from now. Raises InvalidInput."""
    return _relative(text, now, 1)


def _relative(text: str, now: datetime, direction: int) -> datetime:
    if re.match(r"\d{4}-", text, re.ASCII):
        return parse_time(text)
    try:
        return now + direction * parse_duration(text)
    except InvalidInput as error:
        raise InvalidInput(
            f"{text[:40]!r} is neither a time such as 2026-11-24T02:00:00Z nor a duration such as 2h"
        ) from error


def printable(text: str) -> str:
    """The text with its control characters written out, so that nobody paints on our user's terminal."""
    return "".join(c if c.isprintable() or c == "\n" else f"\\x{ord(c):02x}" for c in text)
