from datetime import timedelta

import pytest
from hypothesis import given

from meshca.errors import InvalidInput
from meshca.router.canary.ramp import (
    Progress,
    Ramp,
    percent_text,
    progress_text,
    ramp_text,
    read_percent,
    read_progress,
    read_ramp,
    read_span,
    span_text,
)
from tests.support.ramps import PROGRESSES, RAMPS


@given(RAMPS)
def test_what_was_asked_for_is_read_back_as_it_was_written(ramp: Ramp):
    assert read_ramp(ramp_text(ramp)) == ramp


@given(PROGRESSES)
def test_progress_is_read_back_as_it_was_written(progress: Progress):
    assert read_progress(progress_text(progress), progress.reason) == progress


def test_a_ramp_is_written_as_a_person_would():
    ramp = read_ramp("to=v2 step=5 every=1m max-5xx=0.5%")
    assert ramp == Ramp(to="v2", step=5, every=timedelta(minutes=1), max_5xx=5000)
    assert ramp_text(ramp) == "to=v2 step=5 every=1m max-5xx=0.5%"
    assert [span_text(read_span(text)) for text in ("90s", "60m", "3600s")] == ["90s", "1h", "1h"]
    assert [percent_text(read_percent(text)) for text in ("0%", "1.50%", "99.9999%")] == ["0%", "1.5%", "99.9999%"]


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("to=v2 step=0 every=1m max-5xx=1%", "step 0 is not between 1 and 100"),
        ("to=v2 step=101 every=1m max-5xx=1%", "step 101 is not"),
        ("to=v2 step=-5 every=1m max-5xx=1%", "'-5' is not a whole number"),
        ("to=v2 step=5 every=0s max-5xx=1%", "'0s' is not a time"),
        ("to=v2 step=5 every=25h max-5xx=1%", "25h is not between 1s and 24h"),
        ("to=v2 step=5 every=1m max-5xx=100%", "'100%' is not a percentage"),
        ("to=v2 step=5 every=1m max-5xx=1", "'1' is not a percentage"),
        ("to=v2 step=5 every=1m", "is not to=... step=... every=... max-5xx=..."),
        ("to=v2 step=5 every=1m max-5xx=1% max-5xx=2%", "is not to=..."),
        ("to=V2! step=5 every=1m max-5xx=1%", "V2!"),
    ],
)
def test_a_ramp_that_would_not_move_or_that_nothing_guards_is_refused(written: str, said: str):
    with pytest.raises(InvalidInput, match=said.replace("(", r"\(").replace(".", r"\.")):
        read_ramp(written)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("phase=fast start=0 weight=5 since=2026-11-27T06:40:00Z", "'fast' is not one of running"),
        ("phase=running start=0 weight=101 since=2026-11-27T06:40:00Z", "weight 101 is more than 100"),
        ("phase=running start=0 weight=5 since=now", "'now' is not a time"),
        ("phase=running start=0 weight=5 since=2026-11-27T06:40:00", "has no zone"),
    ],
)
def test_progress_that_nobody_wrote_so_is_refused(written: str, said: str):
    with pytest.raises(InvalidInput, match=said):
        read_progress(written)
