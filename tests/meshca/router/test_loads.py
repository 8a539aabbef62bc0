from datetime import timedelta

from meshca.router.canary import loads
from meshca.router.canary.loads import Load, Loads, Tally
from tests.support.ramps import NOW
from tests.support.routing import account

NEW, OLD = "outbound|80|v2|api", "outbound|80|v1|api"
SECOND = timedelta(seconds=1)


def load(cluster: str, issued: int, finished: int, errors: int, period: timedelta = SECOND) -> Load:
    return Load(cluster, Tally(issued, finished, errors), period)


def test_failures_count_at_once_and_the_split_only_in_whole_periods():
    book = Loads()
    window = book.window("a", 1, NEW, OLD, NOW)
    book.take(account("one"), load(NEW, 9, 8, 7), NOW + SECOND / 2)  # began before
    book.take(account("one"), load(NEW, 5, 4, 1), NOW + SECOND)
    book.take(account("two"), load(OLD, 95, 90, 0), NOW + SECOND)
    book.take(account("two"), load("other", 1, 1, 1), NOW + 9 * SECOND)
    assert window.by_reporter == {account("one"): Tally(14, 12, 8)}
    assert window.split == {NEW: Tally(5, 4, 1), OLD: Tally(95, 90, 0)}
    assert window.heard == NOW + SECOND


def test_a_window_lasts_for_as_long_as_its_ramp_stays_as_it_is():
    book = Loads()
    first = book.window("a", 1, NEW, OLD, NOW)
    assert book.window("a", 1, NEW, OLD, NOW + SECOND) is first
    second = book.window("a", 2, NEW, OLD, NOW + SECOND)
    assert second is not first
    assert second.since == NOW + SECOND
    book.keep([])
    book.take(account("one"), load(NEW, 1, 1, 1), NOW + SECOND)
    assert second.by_reporter == {}


def test_reporters_beyond_the_bound_share_one_tally():
    window = Loads().window("a", 1, NEW, OLD, NOW)
    window.by_reporter = {account(f"n{number}"): Tally() for number in range(loads.MOST_REPORTERS)}
    for number in range(3):
        window.take(account(f"more{number}"), load(NEW, 1, 1, 1), NOW)
    assert len(window.by_reporter) == loads.MOST_REPORTERS + 1
    assert window.by_reporter[None] == Tally(3, 3, 3)
