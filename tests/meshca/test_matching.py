from datetime import datetime, timedelta
from random import Random

import hypothesis.strategies as st
from hypothesis import given

from meshca.matching import EntryIndex, entitled, near_misses
from meshca.model import Entry, Selector
from tests.support.values import T0, entry, selectors

LATER = T0 + timedelta(hours=1)
SELECTORS = st.frozensets(st.sampled_from([Selector("unix", f"uid:{number}") for number in range(5)]), max_size=5)
ENTRIES = st.lists(
    st.builds(
        entry,
        st.sampled_from("abcdefgh"),
        selectors=SELECTORS.filter(bool),
        created_at=st.sampled_from([T0, LATER]),
        default=st.booleans(),
        hint=st.sampled_from(["", "x", "y"]),
        expires_at=st.sampled_from([None, LATER]),
    ),
    unique_by=lambda each: each.id,
)


@given(entries=ENTRIES, caller=SELECTORS, now=st.sampled_from([T0, LATER]), seed=st.integers())
def test_each_entry_that_matches_is_there_once_in_an_order_that_does_not_depend_on_theirs(
    entries: list[Entry], caller: frozenset[Selector], now: datetime, seed: int
):
    found = entitled(entries, caller, now)

    shuffled = list(entries)
    Random(seed).shuffle(shuffled)
    assert entitled(shuffled, caller, now) == found
    assert {each.id for each in found} == {
        each.id for each in entries if each.selectors <= caller and (each.expires_at is None or now < each.expires_at)
    }
    assert list(found) == sorted(found, key=lambda each: (not each.default, each.created_at, each.id))
    hints = [each.hint for each in found if each.hint]
    assert len(hints) == len(set(hints))
    assert set(hints) == {each.hint for each in entries if each.id in {one.id for one in found}} - {""}


@given(entries=ENTRIES, caller=SELECTORS, now=st.sampled_from([T0, LATER]), limit=st.integers(0, 9))
def test_near_misses_are_the_nearest_of_all_entries_that_do_not_match(
    entries: list[Entry], caller: frozenset[Selector], now: datetime, limit: int
):
    found = near_misses(entries, caller, now, limit)

    matching = {each.id for each in entitled(entries, caller, now)}
    lacking = sorted(len(each.selectors - caller) for each in entries if each.id not in matching)
    assert [len(miss.missing) for miss in found] == lacking[:limit]
    assert all(miss.missing == tuple(sorted(miss.entry.selectors - caller)) for miss in found)
    assert not {miss.entry.id for miss in found} & matching


def named(*found: Entry) -> list[tuple[str, str]]:
    return [(each.id, each.hint) for each in found]


def test_the_default_is_first_then_the_oldest_and_the_first_keeps_a_hint():
    caller = selectors("unix:uid:1")
    entries = [
        entry("b", selectors=caller, hint="x"),
        entry("a", selectors=caller, created_at=LATER),
        entry("d", selectors=caller, default=True, created_at=LATER, hint="x"),
        entry("c", selectors=caller, default=True),
    ]
    assert named(*entitled(entries, caller, T0)) == [("c", ""), ("d", "x"), ("b", ""), ("a", "")]


def test_near_misses_say_what_is_missing_in_words():
    entries = [
        entry("far", selectors=selectors("unix:uid:2", "socket:a", "socket:b")),
        entry("near", selectors=selectors("unix:uid:1", "socket:a")),
        entry("other", selectors=selectors("unix:uid:2")),
        entry("gone", selectors=selectors("unix:uid:1"), expires_at=LATER),
    ]
    texts = list(map(str, near_misses(entries, selectors("unix:uid:1"), LATER, 3)))
    assert texts == [
        "spiffe://example.org/gone (entry gone) expired at 2030-01-01 01:00:00Z",
        "spiffe://example.org/near (entry near) also wants socket:a",
        "spiffe://example.org/other (entry other) also wants unix:uid:2",
    ]


def test_only_entries_that_could_match_are_looked_at():
    class Counted(frozenset):
        asked = 0

        def __le__(self, other: frozenset[Selector]) -> bool:
            Counted.asked += 1
            return super().__le__(other)

    index = EntryIndex(
        entry(f"e{number}", selectors=Counted(selectors("unix:uid:1", f"socket:s{number}"))) for number in range(2000)
    )
    assert named(*index.entitled(selectors("unix:uid:1", "socket:s7"), T0)) == [("e7", "")]
    assert Counted.asked == 1
