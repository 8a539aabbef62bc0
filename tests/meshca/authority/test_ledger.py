from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from meshca.authority.holders import Ledger
from meshca.model import HolderReport, Leaf
from spiffe.id import SpiffeID
from tests.support.clock import START
from tests.support.values import HOUR, OURS

SECOND = timedelta(seconds=1)
A, B = "digest of a", "digest of b"


def leaf(serial: int, holder: str = "p1", *, name: str = "web", at: float = 0, **changes: Any) -> Leaf:
    """A leaf that lives an hour from `at` seconds after START."""
    issued = START + at * SECOND
    made = Leaf(
        serial=serial,
        spiffe_id=SpiffeID(OURS, f"/{name}"),
        entry_id=name,
        holder=holder,
        intermediate_id="i1",
        root_id="r1",
        issued_at=issued,
        not_after=issued + HOUR,
    )
    return replace(made, **changes)


def ledger(*restored: Leaf, published: str = A) -> Ledger:
    made = Ledger()
    made.restore(restored, START)
    made.publish(published, START)
    return made


def told(made: Ledger, holder: str = "p1", *, at: float = 0, bundle: str = A, **report: Any) -> None:
    numbers = {name: frozenset(serials) for name, serials in report.items() if name != "gone"}
    made.report(
        HolderReport(holder=holder, bundle=bundle, gone=report.get("gone", False), **numbers), START + at * SECOND
    )


def behind(made: Ledger, digest: str = A) -> list[str]:
    return [holder.name for holder in made.behind(digest, START)]


def test_who_comes_back_after_a_restart_is_behind_until_it_says_what_it_holds():
    made = ledger(leaf(1), leaf(2, "p2"))
    assert (behind(made), made.held_since()) == (["p1", "p2"], None)
    told(made, "p1", at=1)
    assert (behind(made), made.held_since()) == (["p2"], None)
    told(made, "p2", at=2)
    assert (behind(made), made.held_since()) == ([], START + 2 * SECOND)


def test_a_first_leaf_brings_the_published_bundle_along():
    made = ledger()
    made.issued(leaf(1), START + SECOND)
    assert (behind(made), made.held_since()) == ([], START)


def test_a_new_bundle_finds_everybody_behind_and_the_longest_comes_first():
    made = ledger()
    for number, holder in enumerate(["p2", "p1"]):
        made.issued(leaf(number, holder), START)
    made.publish(B, START + SECOND)
    told(made, "p1", at=5, bundle=B)
    told(made, "p1", at=6, bundle="")
    (first, second) = made.behind(B, START + HOUR)
    assert (first.name, first.since, first.bundle) == ("p2", START + SECOND, A)
    assert (second.name, second.since, second.bundle) == ("p1", START + 6 * SECOND, "")
    assert first.spiffe_ids == (SpiffeID(OURS, "/web"),)
    assert first.expires == START + HOUR
    assert made.held_since() is None


def test_publishing_the_same_bundle_again_changes_nothing():
    made = ledger()
    made.issued(leaf(1), START)
    made.publish(A, START + SECOND)
    assert made.held_since() == START


def test_a_second_leaf_says_nothing_of_the_bundle():
    made = ledger(leaf(1))
    made.issued(leaf(2), START + SECOND)
    assert (behind(made), made.held_since()) == (["p1"], None)


def test_a_holder_with_several_identities_is_shown_with_all_of_them():
    made = ledger(leaf(1, name="web"), leaf(2, name="db"), leaf(3, name="db", at=9))
    (holder,) = made.behind(A, START)
    assert [str(each) for each in holder.spiffe_ids] == ["spiffe://example.org/db", "spiffe://example.org/web"]
    assert holder.expires == START + HOUR + 9 * SECOND


def test_the_callers_of_an_entry_are_told_with_the_other_entries_that_they_have_leaves_of():
    made = ledger(leaf(1, name="web"), leaf(2, "p2", name="web"), leaf(3, "p2", name="db"), leaf(4, "p3", name="db"))
    assert sorted(map(sorted, made.callers("web"))) == [[], ["db"]]
    assert made.callers("nobody's") == ()


def test_reports_of_unknown_holders_and_serials_are_ignored():
    made = ledger(leaf(1))
    told(made, "nobody", gone=True)
    told(made, "p1", replaced=[7, 8])
    assert made.names() == {"p1"}
    assert made.live_under("i1", START) == 1


@pytest.mark.parametrize(
    ("report", "left"),
    [
        ({"replaced": [1]}, 3),
        ({"held": [2]}, 3),
        ({"held": [3]}, 2),
        ({"held": [4]}, 4),
        ({"held": [3, 4]}, 2),
        ({"held": [1]}, 4),
        ({"held": [9]}, 4),
        ({"held": [3], "replaced": [4]}, 1),
        ({"gone": True}, 0),
        ({}, 4),
    ],
    ids=[
        "replaced",
        "one before it",
        "all before it of its entry",
        "the only one of its entry",
        "newest of each",
        "the oldest",
        "unknown",
        "both",
        "gone",
        "nothing said",
    ],
)
def test_a_leaf_lives_until_its_process_provably_uses_a_newer_one(report: dict[str, Any], left: int):
    """Serials 1, 2, 3 are of one entry in the order of the record, whatever their times; 4 is of another."""
    made = ledger(leaf(1, at=50), leaf(2, at=50), leaf(3, at=0), leaf(4, name="db"))
    told(made, "p1", **report)
    assert made.live_under("i1", START) == made.live_under("r1", START) == left


def test_an_authority_is_free_since_its_last_leaf_went():
    made = ledger(leaf(1), leaf(2, "p2", intermediate_id="i2"))
    assert made.free_since("i1") is None
    told(made, "p1", at=5, gone=True)
    assert (made.free_since("i1"), made.free_since("r1")) == (START + 5 * SECOND, None)
    told(made, "p2", at=6, replaced=[2])
    assert (made.free_since("i2"), made.free_since("r1")) == (START + 6 * SECOND, START + 6 * SECOND)
    made.issued(leaf(3), START + 7 * SECOND)
    assert made.free_since("i1") is None
    assert made.free_since("never seen") is None


def test_the_leaves_below_an_authority_are_told_by_name_for_who_waits_for_them():
    made = ledger(leaf(1), leaf(2, "p2", intermediate_id="i2"), leaf(3, "p3", root_id="r2", intermediate_id="i3"))
    assert [each.serial for each in made.leaves_under("r1")] == [1, 2]
    assert [each.holder for each in made.leaves_under("i2")] == ["p2"]
    assert made.leaves_under("r3") == ()


def test_what_expires_is_forgotten_and_so_is_who_has_nothing_else():
    made = ledger(leaf(1), leaf(2, "p2", at=10), leaf(3, "p1", name="db", at=10))
    assert made.earliest_expiry() == START + HOUR
    made.expire(START + HOUR)
    assert made.names() == {"p1", "p2"}
    assert made.live_under("i1", START) == 2
    told(made, "p2")
    made.expire(START + HOUR + 10 * SECOND)
    assert (made.names(), made.earliest_expiry()) == (frozenset(), None)
    assert made.held_since() == START + HOUR + 10 * SECOND
    assert made.free_since("r1") == START + HOUR + 10 * SECOND


def test_a_clock_that_was_set_back_starts_the_waits_anew():
    made = ledger()
    made.issued(leaf(1), START)
    told(made, "p1", gone=True)
    made.expire(START - HOUR)
    assert (made.held_since(), made.free_since("i1")) == (START - HOUR, START - HOUR)


class AnyOrder(RuleBasedStateMachine):
    """The ledger beside a model that counts anew each time."""

    def __init__(self) -> None:
        super().__init__()
        self.made = ledger()
        self.now = START
        self.published = A
        self.leaves: list[Leaf] = []
        self.held: dict[str, str] = {}

    serials = Bundle("serials")

    @rule(
        target=serials,
        holder=st.sampled_from(["p1", "p2", "mint/0"]),
        name=st.sampled_from(["web", "db"]),
        intermediate=st.sampled_from(["i1", "i2"]),
        lives=st.integers(1, 100),
    )
    def issue(self, holder: str, name: str, intermediate: str, lives: int) -> int:
        serial = len(self.leaves) + 1
        made = leaf(serial, holder, name=name, intermediate_id=intermediate, not_after=self.now + lives * SECOND)
        self.leaves.append(made)
        self.held.setdefault(holder, self.published)
        self.made.issued(made, self.now)
        return serial

    @rule(holder=st.sampled_from(["p1", "p2"]), serial=serials, bundle=st.sampled_from([A, B, ""]), gone=st.booleans())
    def report(self, holder: str, serial: int, bundle: str, *, gone: bool) -> None:
        self.made.report(HolderReport(holder=holder, bundle=bundle, replaced=frozenset([serial]), gone=gone), self.now)
        if holder in self.held:
            self.held[holder] = bundle
        self.forget(lambda each: each.holder == holder and (gone or each.serial == serial))

    @rule(seconds=st.integers(-50, 100))
    def pass_time(self, seconds: int) -> None:
        self.now += seconds * SECOND
        self.made.expire(self.now)
        self.forget(lambda each: each.not_after <= self.now)

    @rule(digest=st.sampled_from([A, B]))
    def publish(self, digest: str) -> None:
        self.published = digest
        self.made.publish(digest, self.now)

    def forget(self, gone: Any) -> None:
        self.leaves = [replace(each, holder="") if each.holder and gone(each) else each for each in self.leaves]
        self.held = {name: held for name, held in self.held.items() if name in {each.holder for each in self.leaves}}

    @invariant()
    def counts_are_right(self) -> None:
        live = [each for each in self.leaves if each.holder]
        assert self.made.names() == {each.holder for each in live} == set(self.held)
        for authority in ("i1", "i2", "r1"):
            below = [each for each in live if authority in {each.intermediate_id, each.root_id}]
            assert self.made.live_under(authority, self.now) == len(below)
            assert self.made.free_since(authority) is None or not below
        late = {name for name, held in self.held.items() if held != self.published}
        assert {each.name for each in self.made.behind(self.published, self.now)} == late
        assert (self.made.held_since() is None) == bool(late)
        assert self.made.earliest_expiry() == min((each.not_after for each in live), default=None)


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
