"""What proxies report of the requests that they sent, as far as a ramp asks for it.

Rules:
- A report is worth what its reporter is: each identity has a tally of its own, so that one that lies hides no failures but its own.
- Memory is bounded by the ramps and by the identities that may call, never by what is reported: tallies are sums.
- Requests that a circuit breaker turned away failed too: whoever sent them got a 503.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from sds.watch import Latest
from spiffe.id import SpiffeID

MOST_REPORTERS = 10_000
"""Of one ramp. Those beyond share one tally."""


class Tally(NamedTuple):
    """Requests: sent, come to an end, and failed. For Envoy a failure is a 5xx or no answer, for gRPC any status but OK."""

    issued: int = 0
    finished: int = 0
    errors: int = 0

    def __add__(self, other: object) -> "Tally":
        """Both together."""
        if not isinstance(other, Tally):
            return NotImplemented
        return Tally(*map(sum, zip(self, other, strict=True)))


NONE = Tally()


class Load(NamedTuple):
    """One cluster in one report. `period` is how long it was measured."""

    cluster: str
    tally: Tally
    period: timedelta


class Wanted(NamedTuple):
    """A cluster that is asked about, and the service that a reporter must be able to call."""

    cluster: str
    host: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What reports are wanted, and how often. Another `revision` means that other proxies may be the ones to ask."""

    wanted: frozenset[Wanted] = frozenset()
    interval: timedelta = timedelta(seconds=10)
    revision: int = 0


@dataclass(slots=True, kw_only=True)
class Window:
    """What was reported of two clusters since `since`: by each reporter of the new one, and of both in periods wholly within."""

    since: datetime
    new: str
    old: str
    heard: datetime | None = None
    by_reporter: dict[SpiffeID | None, Tally] = field(default_factory=dict)
    split: dict[str, Tally] = field(default_factory=dict)

    def take(self, reporter: SpiffeID, load: Load, now: datetime) -> None:
        """Count a report, if it is of these clusters."""
        if load.cluster not in {self.new, self.old}:
            return
        self.heard = now
        if load.cluster == self.new:
            known = reporter in self.by_reporter or len(self.by_reporter) < MOST_REPORTERS
            key = reporter if known else None
            self.by_reporter[key] = self.by_reporter.get(key, NONE) + load.tally
        if now - load.period >= self.since:
            self.split[load.cluster] = self.split.get(load.cluster, NONE) + load.tally


class Loads:
    """The windows of all ramps, by the label of their object, and what proxies are asked for."""

    def __init__(self) -> None:
        self.asked: Latest[Asked] = Latest(Asked())
        self._windows: dict[str, tuple[object, Window]] = {}

    def window(self, label: str, key: object, new: str, old: str, now: datetime) -> Window:
        """The window of a ramp: a new one, from now on, when its `key` or its clusters are others than before."""
        state = (key, new, old)
        known = self._windows.get(label)
        if known is None or known[0] != state:
            known = self._windows[label] = (state, Window(since=now, new=new, old=old))
        return known[1]

    def keep(self, labels: Iterable[str]) -> None:
        """Forget all other ramps."""
        wanted = set(labels)
        self._windows = {label: each for label, each in self._windows.items() if label in wanted}

    def take(self, reporter: SpiffeID, load: Load, now: datetime) -> None:
        """Count a report."""
        for _, window in self._windows.values():
            window.take(reporter, load, now)
