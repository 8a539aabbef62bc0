from datetime import timedelta

import hypothesis.strategies as st
import pytest
from hypothesis import given

from meshca.agent.renewal import FIRST_PAUSE, LONGEST_PAUSE, due, due_at, set_back
from meshca.model import MIN_LEAF_TTL, Leaf
from tests.meshca.agent.test_holding import leaf
from tests.support.values import T0

SERIALS = st.integers(1, 2**159)
LIVES = st.timedeltas(MIN_LEAF_TTL, timedelta(days=400))


@given(serial=SERIALS, life=LIVES)
def test_a_leaf_is_due_at_half_its_life_from_issue_give_or_take_a_tenth(serial: int, life: timedelta):
    made: Leaf = leaf(serial, not_after=T0 + life)
    at = due_at(made)
    assert life * 0.45 <= at - T0 <= life * 0.55
    assert due_at(made) == at
    assert due(made, at)
    assert not due(made, at - timedelta(microseconds=1))
    assert not due(made, T0 - timedelta(days=1))  # the clock was set back


def test_leaves_that_were_issued_together_are_renewed_apart():
    late = sorted((due_at(leaf(serial)) - T0) / timedelta(hours=1) for serial in range(1, 1001))
    assert late[49] < 0.46
    assert late[-50] > 0.54
    assert late[500] == pytest.approx(0.5, abs=0.01)


@given(failures=st.integers(1, 100), left=st.none() | st.timedeltas(timedelta(), timedelta(days=1)))
def test_pauses_grow_to_a_bound_and_leave_time_for_more_tries(failures: int, left: timedelta | None):
    setback, pauses = None, []
    for _ in range(failures):
        setback = set_back(setback, T0, "no", None if left is None else T0 + left)
        pauses.append(setback.retry_at - T0)
    assert setback is not None
    assert setback.failures == failures
    assert pauses == sorted(pauses)
    assert FIRST_PAUSE <= pauses[-1] <= LONGEST_PAUSE
    if left and left / 4 > FIRST_PAUSE:
        assert pauses[-1] <= left / 4


def test_a_setback_blocks_until_its_time_and_not_at_all_once_the_clock_was_set_back():
    setback = set_back(None, T0, "no", None)
    moment = timedelta(microseconds=1)
    assert [setback.blocks(T0), setback.blocks(setback.retry_at - moment)] == [True, True]
    assert [setback.blocks(setback.retry_at), setback.blocks(T0 - moment)] == [False, False]
