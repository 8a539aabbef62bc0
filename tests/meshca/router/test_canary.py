from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshca.errors import Refused
from meshca.router.canary.canary import (
    SILENCE,
    Action,
    Seen,
    aborted,
    decide,
    done,
    least_requests,
    paused,
    promoted,
    started,
    verdict,
)
from meshca.router.canary.loads import Tally
from meshca.router.canary.ramp import Canary, Phase
from tests.support.ramps import NOW, RAMP, RAMPS, canary

MINUTE = timedelta(minutes=1)
LATER = NOW + MINUTE


def tally(finished: int, errors: int = 0) -> Tally:
    return Tally(issued=finished, finished=finished, errors=errors)


def seen(*tallies: Tally, **changes: Any) -> Seen:
    """What was seen in a minute that has just ended, with a report at its end."""
    return Seen(**{"since": NOW, "heard": LATER, "tallies": tallies} | changes)


def after(which: Canary, what: Seen) -> tuple[Action, Canary]:
    decision = decide(which, what, LATER)
    return decision.action, done(which, decision, LATER)


def test_a_good_period_steps_up_and_says_what_was_seen():
    action, made = after(canary(5), seen(tally(100, 1)))
    assert (action, made.weight) == (Action.STEP, 10)
    assert made.progress
    assert (made.progress.weight, made.progress.start, made.progress.since) == (10, 0, LATER)
    assert made.progress.reason == "1 of 100 requests to v2 failed: 1%, and 1% may"


def test_from_nothing_the_first_step_needs_reports_and_no_requests():
    assert after(canary(0), seen())[1].weight == 5
    assert after(canary(0), seen(heard=None))[0] is Action.WAIT


def test_the_last_step_is_watched_too_before_the_ramp_is_promoted():
    action, made = after(canary(98), seen(tally(100)))
    assert (action, made.weight) == (Action.STEP, 100)
    action, made = after(made, seen(tally(100)))
    assert action is Action.FINISH
    assert (made.weight, made.progress and made.progress.phase) == (100, Phase.PROMOTED)


BACK = {
    "failures": (seen(tally(100, 2)), "2 of 100 requests to v2 failed: 2%, and 1% may"),
    "failures before the period is over": (seen(tally(3, 2), since=LATER), "2 of 3 requests"),
    "failures of all together": (seen(tally(90, 1), tally(10, 1)), "2 of 100"),
    "failures that another reporter drowns": (seen(tally(10**9), tally(100, 2)), "2 of 100"),
    "no report": (seen(heard=None, since=NOW - MINUTE), "no load report for 1m"),
    "no more reports": (seen(tally(100), heard=NOW - MINUTE, since=NOW - 2 * MINUTE), "no load report for 1m"),
    "no endpoints": (seen(tally(100), endpoints=0), "v2 has no endpoints"),
    "a refusal": (seen(tally(100), refusal="bad cluster"), "a proxy refuses this route: bad cluster"),
    "requests that never end": (
        seen(tally(100), old=tally(1900), new=tally(49)),
        "49 requests to v2 came to an end where about 100 were to",
    ),
}


@pytest.mark.parametrize("case", BACK)
def test_back_to_the_start(case: str):
    what, reason = BACK[case]
    action, made = after(canary(5), what)
    assert action is Action.BACK
    assert made.weight == 0
    assert made.progress
    assert made.progress.phase is Phase.STEPPED_BACK
    assert made.progress.reason.startswith(reason)
    assert after(made, what) == (Action.WAIT, made)  # and it stays there


def test_one_request_is_no_plural():
    assert verdict(canary(5).ramp, tally(1, 1)) == "1 of 1 request to v2 failed: 100%, and 1% may"


WAITS = {
    "the period": (canary(5), seen(tally(100), since=NOW + MINUTE / 2)),
    "a report in this period": (canary(5, every=MINUTE / 10), seen(tally(100), heard=NOW + 0.89 * MINUTE)),
    "a sample": (canary(5), seen(tally(99, 1))),
    "somebody who paused it": (canary(5, phase=Phase.PAUSED), seen(tally(100))),
}


@pytest.mark.parametrize("case", WAITS)
def test_it_waits_for(case: str):
    which, what = WAITS[case]
    assert after(which, what) == (Action.WAIT, which)


def test_the_guard_stays_on_while_a_ramp_is_paused():
    assert after(canary(5, phase=Phase.PAUSED), seen(tally(100, 2)))[0] is Action.BACK


def test_weights_that_somebody_else_wrote_stay():
    action, made = after(canary(50, written=5), seen(tally(100, 100)))
    assert action is Action.YIELD
    assert made.weight == 50
    assert made.progress
    assert made.progress.phase is Phase.OVERRULED
    assert made.progress.reason == "somebody changed the weight of v2 from 5 to 50: it stays"


def test_a_ramp_that_nobody_has_begun_begins_where_the_weights_are():
    action, made = after(replace(canary(15), progress=None), seen())
    assert action is Action.BEGIN
    assert made == canary(15, start=15).begun(LATER)


def test_a_router_has_time_to_be_found_again_however_short_the_period():
    short = canary(5, every=timedelta(seconds=1))
    assert decide(short, seen(tally(1), heard=NOW), NOW + SILENCE).action is Action.WAIT
    assert decide(short, seen(tally(1), heard=NOW), NOW + SILENCE + timedelta(seconds=1)).action is Action.BACK


@pytest.mark.parametrize(("allowed", "sample"), [(0, 20), (500_000, 20), (10_000, 100), (1000, 1000), (1, 10**6)])
def test_a_sample_is_large_enough_that_one_failure_may_be_in_it(allowed: int, sample: int):
    assert least_requests(replace(RAMP, max_5xx=allowed)) == sample


def test_a_single_failure_sends_a_ramp_back_only_where_none_may_be():
    assert after(canary(5), seen(tally(1, 1)))[0] is Action.WAIT
    assert after(canary(5, max_5xx=0), seen(tally(1, 1)))[0] is Action.BACK


def test_what_people_do_by_hand():
    assert paused(canary(5), LATER).weight == 5
    assert promoted(canary(5), LATER).weight == 100
    assert aborted(canary(50, start=20), LATER).weight == 20


def test_a_ramp_starts_where_the_weights_are_and_one_that_is_paused_goes_on():
    fresh = replace(canary(20, step=1), progress=None)
    for before in (None, fresh, canary(20, phase=Phase.STEPPED_BACK)):
        assert started(before, fresh, LATER) == fresh.begun(LATER)
    resumed = started(paused(canary(20, start=10), NOW), fresh, LATER)
    assert resumed == canary(20, start=10, step=1).moved(Phase.RUNNING, LATER, reason="resumed by hand")


def test_a_ramp_does_not_start_twice_or_where_there_is_nothing_to_do():
    with pytest.raises(Refused, match="running already"):
        started(canary(5), replace(canary(5), progress=None), LATER)
    with pytest.raises(Refused, match="to v3 is paused"):
        started(canary(20, phase=Phase.PAUSED, to="v3"), replace(canary(20), progress=None), LATER)
    with pytest.raises(Refused, match="v2 has all requests already"):
        started(None, replace(canary(100), progress=None), LATER)


WEIGHTS = st.integers(0, 100)
CANARIES = st.builds(
    lambda ramp, weight, written, start, phase: replace(
        canary(weight, start=start, phase=phase, written=written), ramp=ramp
    ),
    ramp=RAMPS,
    weight=WEIGHTS,
    written=WEIGHTS,
    start=WEIGHTS,
    phase=st.sampled_from(Phase),
) | st.builds(lambda made: replace(made, progress=None), st.builds(canary, WEIGHTS))
TIMES = st.integers(-200_000, 200_000).map(lambda seconds: NOW + timedelta(seconds=seconds))
TALLIES = st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)).map(lambda pair: tally(sum(pair), pair[0]))
SEEN = st.builds(
    Seen,
    since=TIMES,
    heard=st.none() | TIMES,
    tallies=st.lists(TALLIES, max_size=3).map(tuple),
    new=TALLIES,
    old=TALLIES,
    endpoints=st.integers(0, 2),
    refusal=st.sampled_from(["", "no"]),
)


@given(CANARIES, SEEN, TIMES)
def test_it_never_goes_on_unless_all_that_was_seen_is_good(which: Canary, what: Seen, now: Any):
    decision = decide(which, what, now)
    made = done(which, decision, now)
    assert 0 <= made.weight <= 100
    assert made.progress == which.progress or (made.progress and made.progress.weight == made.weight)
    if made.weight > which.weight and made.progress and made.progress.phase is Phase.RUNNING:
        assert which.progress
        assert which.progress.phase is Phase.RUNNING
        assert which.progress.weight == which.weight
        assert made.weight - which.weight <= which.ramp.step
        assert what.heard is not None
        assert now - what.heard <= which.ramp.every
        assert now - what.since >= which.ramp.every
        assert not what.refusal
        assert what.endpoints
        total = what.total
        assert total.errors * 10**6 <= which.ramp.max_5xx * max(total.finished, least_requests(which.ramp))
        assert which.weight == 0 or total.finished >= least_requests(which.ramp)


@given(st.builds(canary, WEIGHTS, start=WEIGHTS, phase=st.sampled_from([Phase.RUNNING, Phase.PAUSED])), SEEN)
def test_from_wherever_it_is_silence_leads_back_to_the_start(which: Canary, what: Seen):
    now = max(what.since, what.heard or what.since) + timedelta(days=2)
    made = done(which, decide(which, what, now), now)
    assert which.progress
    assert made.progress
    assert (made.weight, made.progress.phase) == (which.progress.start, Phase.STEPPED_BACK)
