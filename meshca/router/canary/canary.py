"""Whether a guarded canary goes on, waits or goes back. Pure: the weight, what was seen since it was written and the time make a decision.

Rules:
- In doubt back: no reports, no endpoints, a refusal, requests that never come to their end. Only what was seen to be good goes on.
- Going back needs less than going on: it happens as soon as no further request could mend the sample, at any time of the period. Going on
  needs a whole period, a report in it, and a sample that is large enough.
- Weights that are not those which the ramp wrote are somebody's decision: the ramp ends, and they stay.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

from meshca.errors import Refused
from meshca.router.canary.loads import NONE, Tally
from meshca.router.canary.ramp import WHOLE, Canary, Phase, Progress, Ramp, percent_text, span_text
from meshca.wording import counted

LEAST_REQUESTS = 20
MILLION = 1_000_000
SILENCE = timedelta(seconds=15)
"""What a proxy may need to come back to a router that was started again: Envoy waits for five seconds, others somewhat longer."""
LATE = timedelta(seconds=10)
"""After that long, a proxy that does not send by the new weights is not going to."""
STARVED = 2
"""Of what it was to get, the new version has less than one in so many."""
LEAST_EXPECTED = 100


class Action(StrEnum):
    """What is to be done."""

    BEGIN = "begin"
    WAIT = "wait"
    STEP = "step"
    BACK = "back"
    FINISH = "finish"
    YIELD = "yield"


class Decision(NamedTuple):
    """What is to be done, and why."""

    action: Action
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What was seen of a ramp since this router knows its present weight (`since`); `heard` is when the last report came.

    `tallies` are of requests to the new version, one for each reporter. `new` and `old` are of periods wholly within: the split.
    `refusal` is what a proxy says that it refused of this object.
    """

    since: datetime
    heard: datetime | None = None
    tallies: tuple[Tally, ...] = ()
    new: Tally = NONE
    old: Tally = NONE
    endpoints: int = 1
    refusal: str = ""

    @property
    def total(self) -> Tally:
        """All requests to the new version, whoever sent them."""
        return sum(self.tallies, NONE)

    @property
    def share(self) -> float | None:
        """The share of requests that the new version had, in percent; None before there was any."""
        issued = self.new.issued + self.old.issued
        return WHOLE * self.new.issued / issued if issued else None


def least_requests(ramp: Ramp) -> int:
    """How many requests make a sample: so many that a single failure among them is allowed, and not fewer than 20."""
    return max(LEAST_REQUESTS, -(-MILLION // ramp.max_5xx) if ramp.max_5xx else 0)


def decide(canary: Canary, seen: Seen, now: datetime) -> Decision:
    """What is to be done now."""
    progress = canary.progress
    if progress is None:
        return Decision(Action.BEGIN, "")
    if not progress.phase.is_live:
        return Decision(Action.WAIT, progress.reason)
    if canary.weight != progress.weight:
        text = f"somebody changed the weight of {canary.ramp.to} from {progress.weight} to {canary.weight}: it stays"
        return Decision(Action.YIELD, text)
    return next(_objections(canary, progress, seen, now), None) or Decision(
        Action.FINISH if canary.weight == WHOLE else Action.STEP, verdict(canary.ramp, seen.total)
    )


def _objections(canary: Canary, progress: Progress, seen: Seen, now: datetime) -> Iterator[Decision]:
    """All that speaks against going on, the gravest first."""
    for reason in _reasons_to_go_back(canary, seen, now):
        yield Decision(Action.BACK, reason)
    if progress.phase is Phase.PAUSED:
        yield Decision(Action.WAIT, "paused; the guard stays on")
    for reason in _reasons_to_wait(canary, seen, now):
        yield Decision(Action.WAIT, reason)


def done(canary: Canary, decision: Decision, now: datetime) -> Canary:
    """What is to be written; the same canary where there is nothing to do."""
    match decision.action:
        case Action.BEGIN:
            return canary.begun(now)
        case Action.STEP:
            weight = min(WHOLE, canary.weight + canary.ramp.step)
            return canary.moved(Phase.RUNNING, now, weight=weight, reason=decision.reason)
        case Action.BACK:
            start = canary.progress.start if canary.progress else canary.weight
            return canary.moved(Phase.STEPPED_BACK, now, weight=start, reason=decision.reason)
        case Action.FINISH:
            return canary.moved(Phase.PROMOTED, now, reason=decision.reason)
        case Action.YIELD:
            return canary.moved(Phase.OVERRULED, now, reason=decision.reason)
        case Action.WAIT:
            return canary


def silence(ramp: Ramp) -> timedelta:
    """How long no report may come: a period, but not less than what a proxy needs to come back."""
    return max(ramp.every, SILENCE)


def verdict(ramp: Ramp, tally: Tally) -> str:
    """What became of the requests to the new version, for people."""
    if not tally.finished:
        return f"no request to {ramp.to} has ended"
    rate = percent_text(MILLION * tally.errors // tally.finished)
    return f"{tally.errors} of {counted(tally.finished, 'request', 'requests')} to {ramp.to} failed: {rate}, and {ramp.percent} may"


def _reasons_to_go_back(canary: Canary, seen: Seen, now: datetime) -> Iterator[str]:
    """1. nobody to call; 2. a refusal; 3. too many failures, of all or of one reporter; 4. silence; 5. requests that do not arrive."""
    ramp = canary.ramp
    if not seen.endpoints:
        yield f"{ramp.to} has no endpoints"
    if seen.refusal:
        yield f"a proxy refuses this route: {seen.refusal}"
    for tally in (seen.total, *seen.tallies):
        if _is_bad(ramp, tally):
            yield verdict(ramp, tally)
    if now - (seen.heard or seen.since) > silence(ramp):
        yield f"no load report for {span_text(silence(ramp))}"
    expected = seen.old.finished * canary.weight // (WHOLE - canary.weight) if canary.weight < WHOLE else 0
    is_starved = expected >= LEAST_EXPECTED and seen.new.finished * STARVED < expected
    if is_starved and now - seen.since >= min(ramp.every, LATE):
        yield f"{counted(seen.new.finished, 'request', 'requests')} to {ramp.to} came to an end where about {expected} were to"


def _is_bad(ramp: Ramp, tally: Tally) -> bool:
    """Whether more failed than may, even if all that is still missing of a sample would be good."""
    return tally.errors * MILLION > ramp.max_5xx * max(tally.finished, least_requests(ramp))


def _reasons_to_wait(canary: Canary, seen: Seen, now: datetime) -> Iterator[str]:
    ramp, total = canary.ramp, seen.total
    if seen.heard is None or now - seen.heard > ramp.every:
        yield "waits for load reports"
    if now - seen.since < ramp.every:
        yield f"the period of {span_text(ramp.every)} is not over"
    if canary.weight and total.finished < least_requests(ramp):
        yield f"{counted(total.finished, 'request', 'requests')} to {ramp.to} so far, {least_requests(ramp)} are a sample"


def paused(canary: Canary, now: datetime) -> Canary:
    """No further steps."""
    return canary.moved(Phase.PAUSED, now, reason="paused by hand")


def promoted(canary: Canary, now: datetime) -> Canary:
    """Everything to the new version, at once and unguarded."""
    return canary.moved(Phase.PROMOTED, now, weight=WHOLE, reason="promoted by hand")


def aborted(canary: Canary, now: datetime) -> Canary:
    """Back to where it started."""
    start = canary.progress.start if canary.progress else canary.weight
    return canary.moved(Phase.ABORTED, now, weight=start, reason="aborted by hand")


def started(there: Canary | None, wanted: Canary, now: datetime) -> Canary:
    """What is wanted, begun; one that is paused goes on instead, perhaps by other steps. Raises Refused."""
    phase = there.progress.phase if there and there.progress else None
    if phase is Phase.RUNNING:
        raise Refused("a ramp is running already: pause or abort it first")
    if there and phase is Phase.PAUSED and there.ramp.to == wanted.ramp.to:
        return replace(there, ramp=wanted.ramp).moved(Phase.RUNNING, now, reason="resumed by hand")
    if there and phase is Phase.PAUSED:
        raise Refused(f"a ramp to {there.ramp.to} is paused: abort or promote it first")
    if wanted.weight == WHOLE:
        raise Refused(f"{wanted.ramp.to} has all requests already")
    return wanted.begun(now)
