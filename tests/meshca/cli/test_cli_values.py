from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshca.cli.values import format_duration, future, parse_duration, parse_time, past
from meshca.errors import InvalidInput

NOW = datetime(2026, 11, 24, 2, tzinfo=UTC)


@given(st.integers(0, 36500 * 86400))
def test_a_duration_survives_being_shown_and_read_back(seconds: int):
    value = timedelta(seconds=seconds)
    assert parse_duration(format_duration(value)) == value
    assert parse_duration(str(seconds)) == value


@given(st.text(max_size=30))
def test_any_text_is_a_duration_or_refused(text: str):
    with suppress(InvalidInput):
        assert timedelta() <= parse_duration(text) <= timedelta(days=36500)


@given(st.text(max_size=40))
def test_any_text_is_a_time_with_a_zone_or_refused(text: str):
    with suppress(InvalidInput):
        assert parse_time(text).tzinfo is UTC


@given(
    st.datetimes(
        timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30))]),
        min_value=datetime(1970, 1, 2),  # noqa: DTZ001 - Hypothesis wants it so
    )
)
def test_a_time_is_read_back_in_utc(at: datetime):
    assert parse_time(at.isoformat()) == at


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("15m", 900), ("1h30m", 5400), ("2d", 172800), ("1w", 604800), ("0", 0)],
)
def test_durations_are_read_as_people_write_them(text: str, seconds: int):
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "1.5h", "-1h", "h", "1m1h", "1 h", "9" * 30, "36501d", "\uff11h", "0" * 20 + "1"])
def test_what_is_no_duration_is_refused(text: str):
    with pytest.raises(InvalidInput):
        parse_duration(text)


def test_times_are_absolute_or_count_from_now():
    assert past("2h", NOW) == NOW - timedelta(hours=2)
    assert future("2h", NOW) == NOW + timedelta(hours=2)
    assert past("2026-11-24T01:00:00Z", NOW) == NOW - timedelta(hours=1)
    with pytest.raises(InvalidInput, match="has no zone"):
        future("2026-11-24T01:00:00", NOW)
    with pytest.raises(InvalidInput, match="neither a time"):
        past("yesterday", NOW)
