"""A guarded canary as its VirtualService says it: what was asked for, how far it is, and the annotations that say so. Pure.

Rules:
- The text of both is one line of `name=value` words, so that a person can read and write it, and a router that starts goes on from it.
- A weight is the share of the new version, in percent; the other destination has the rest.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from fractions import Fraction

from meshca.errors import InvalidInput
from meshca.router.parsing import grammar
from meshca.router.parsing.wording import shown

WHOLE = 100
MOST_REASON = 300
"""Characters."""
LEAST_EVERY, MOST_EVERY = timedelta(seconds=1), timedelta(days=1)

_MILLIONTHS = 10_000  # of one percent
_PERCENT = re.compile(r"([0-9]{1,2}(?:\.[0-9]{1,4})?)%")
_SPAN = re.compile(r"([1-9][0-9]{0,5})([smh])")
_SECONDS = {"s": 1, "m": 60, "h": 3600}
_NUMBER = re.compile(r"0|[1-9][0-9]{0,2}")


class Phase(StrEnum):
    """What becomes of a ramp. Only the first two are not its end."""

    RUNNING = "running"
    PAUSED = "paused"
    PROMOTED = "promoted"
    ABORTED = "aborted"
    STEPPED_BACK = "stepped-back"
    OVERRULED = "overruled"
    """Somebody else changed the weights, and these stay."""

    @property
    def is_live(self) -> bool:
        """Whether the guard is on."""
        return self in {Phase.RUNNING, Phase.PAUSED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ramp:
    """What was asked for: `step` percent more for subset `to` after each `every`.

    Of its requests at most `max_5xx` millionths may fail. Raises InvalidInput.
    """

    to: str
    step: int
    every: timedelta
    max_5xx: int

    def __post_init__(self) -> None:
        """Refuse a ramp that would not move, or that nothing guards."""
        grammar.dns_label(self.to)
        if not 1 <= self.step <= WHOLE:
            raise InvalidInput(f"step {self.step} is not between 1 and {WHOLE}")
        if not LEAST_EVERY <= self.every <= MOST_EVERY:
            raise InvalidInput(f"every {span_text(self.every)} is not between 1s and 24h")

    @property
    def percent(self) -> str:
        """The share that may fail, for people."""
        return percent_text(self.max_5xx)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a ramp is: `weight` is what it wrote last, at `since`; `start` is what it goes back to."""

    phase: Phase
    start: int
    weight: int
    since: datetime
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Which rule of the VirtualService is ramped, and which of its two destinations is the new version."""

    rule: int
    to: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """A ramp as it stands: `weight` is the one that is written now. Without `progress` nobody has begun it."""

    ramp: Ramp
    place: Place
    weight: int
    progress: Progress | None = None

    @property
    def is_live(self) -> bool:
        """Whether the router has something to do about it."""
        return self.progress is None or self.progress.phase.is_live

    def begun(self, now: datetime) -> "Canary":
        """From the weight that is there, which is where it goes back to."""
        return replace(self, progress=Progress(phase=Phase.RUNNING, start=self.weight, weight=self.weight, since=now))

    def moved(self, phase: Phase, now: datetime, *, weight: int | None = None, reason: str = "") -> "Canary":
        """In this phase from now on, at this weight (None: where it is). It has begun."""
        at = self.weight if weight is None else weight
        start = self.progress.start if self.progress else self.weight
        progress = Progress(phase=phase, start=start, weight=at, since=now, reason=_plain(reason))
        return replace(self, weight=at, progress=progress)


def read_ramp(written: str) -> Ramp:
    """The ramp of a line such as `to=v2 step=5 every=1m max-5xx=1%`. Raises InvalidInput."""
    words = _words(written, ("to", "step", "every", "max-5xx"))
    return Ramp(
        to=words["to"],
        step=_number(words["step"]),
        every=read_span(words["every"]),
        max_5xx=read_percent(words["max-5xx"]),
    )


def ramp_text(ramp: Ramp) -> str:
    """The line that `read_ramp` reads."""
    return f"to={ramp.to} step={ramp.step} every={span_text(ramp.every)} max-5xx={ramp.percent}"


def read_progress(written: str, reason: str = "") -> Progress:
    """The progress of a line such as `phase=running start=0 weight=5 since=2026-11-27T06:40:00Z`. Raises InvalidInput."""
    words = _words(written, ("phase", "start", "weight", "since"))
    if words["phase"] not in set(Phase):
        raise InvalidInput(f"{shown(words['phase'])} is not one of {', '.join(Phase)}")
    return Progress(
        phase=Phase(words["phase"]),
        start=_weight(words["start"]),
        weight=_weight(words["weight"]),
        since=_time(words["since"]),
        reason=reason,
    )


def progress_text(progress: Progress) -> str:
    """The line that `read_progress` reads; the reason has one of its own."""
    since = progress.since.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return f"phase={progress.phase} start={progress.start} weight={progress.weight} since={since}"


def read_span(written: str) -> timedelta:
    """A length of time: `30s`, `1m` or `2h`. Raises InvalidInput."""
    match = _SPAN.fullmatch(written)
    if not match:
        raise InvalidInput(f"{shown(written)} is not a time such as 30s, 1m or 2h")
    return timedelta(seconds=int(match[1]) * _SECONDS[match[2]])


def span_text(span: timedelta) -> str:
    """The span that `read_span` reads, in its largest unit."""
    seconds = int(span.total_seconds())
    unit = next(unit for unit in ("h", "m", "s") if seconds % _SECONDS[unit] == 0)
    return f"{seconds // _SECONDS[unit]}{unit}"


def read_percent(written: str) -> int:
    """A share such as `1%` or `0.5%`, in millionths; less than all. Raises InvalidInput."""
    match = _PERCENT.fullmatch(written)
    if not match:
        raise InvalidInput(f"{shown(written)} is not a percentage such as 1% or 0.5%, and less than 100%")
    return int(Fraction(match[1]) * _MILLIONTHS)


def percent_text(millionths: int) -> str:
    """The percentage that `read_percent` reads."""
    whole, rest = divmod(millionths, _MILLIONTHS)
    return f"{whole}{f'.{rest:04}'.rstrip('0').rstrip('.')}%"


def _plain(reason: str) -> str:
    """What may stand in a file, whoever said it: a proxy's words are among them."""
    return "".join(each if each.isprintable() else " " for each in reason[:MOST_REASON])


def _words(written: str, wanted: tuple[str, ...]) -> Mapping[str, str]:
    """The `name=value` words, each wanted one exactly once. Raises InvalidInput."""
    pairs = [word.partition("=") for word in written.split()]
    names = [name for name, _, _ in pairs]
    if sorted(names) != sorted(wanted):
        raise InvalidInput(f"{shown(written)} is not {' '.join(f'{name}=...' for name in wanted)}")
    return {name: value for name, _, value in pairs}


def _number(written: str) -> int:
    if not _NUMBER.fullmatch(written):
        raise InvalidInput(f"{shown(written)} is not a whole number")
    return int(written)


def _weight(written: str) -> int:
    number = _number(written)
    if number > WHOLE:
        raise InvalidInput(f"weight {number} is more than {WHOLE}")
    return number


def _time(written: str) -> datetime:
    try:
        at = datetime.fromisoformat(written)
    except ValueError as error:
        raise InvalidInput(f"{shown(written)} is not a time such as 2026-11-27T06:40:00Z") from error
    if at.tzinfo is None:
        raise InvalidInput(f"{shown(written)} has no zone: write Z for UTC")
    return at.astimezone(UTC)
