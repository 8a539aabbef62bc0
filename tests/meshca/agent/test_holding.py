from dataclasses import dataclass, field
from datetime import timedelta

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from meshca.agent.holding import LONGEST_RECONNECT, Holding, StreamHolding
from meshca.authority.holders import Ledger
from meshca.model import HolderReport, Leaf
from sds.provider import Proof
from tests.support.values import T0, entry

HOLDER = "unix/1/2/web"


def leaf(serial: int, entry_id: str = "web", **changes: object) -> Leaf:
    made = {
        "serial": serial,
        "spiffe_id": entry(entry_id).spiffe_id,
        "entry_id": entry_id,
        "holder": HOLDER,
        "intermediate_id": "i",
        "root_id": "r",
        "issued_at": T0,
        "not_after": T0 + timedelta(hours=1),
    }
    return Leaf(**made | changes)


def proof(*serials: int, bundle: str = "") -> Proof:
    return Proof(bundle=bundle, serials=frozenset(serials))


def report(*replaced: int, bundle: str = "", held: tuple[int, ...] = ()) -> HolderReport:
    return HolderReport(holder=HOLDER, bundle=bundle, held=frozenset(held), replaced=frozenset(replaced))


@pytest.fixture
def holding() -> Holding:
    made = Holding(HOLDER)
    made.issued(leaf(1))
    return made


def test_nothing_is_reported_twice(holding: Holding):
    stream = holding.open()
    assert holding.report() is None
    holding.delivered(stream, proof(1, bundle="a"))
    assert holding.report() == report(bundle="a", held=(1,))
    holding.delivered(stream, proof(1, bundle="a"))
    assert holding.report() is None


def test_a_leaf_that_nobody_had_is_replaced_by_the_next_at_once(holding: Holding):
    holding.issued(leaf(2))
    assert holding.report() == report(1)


def test_a_resource_without_a_bundle_takes_no_bundle_away_and_one_without_leaves_no_leaf(holding: Holding):
    stream = holding.open()
    holding.delivered(stream, proof(bundle="a"))
    holding.delivered(stream, proof(1))
    holding.delivered(stream, proof(bundle="a"))
    holding.issued(leaf(2))
    assert holding.report() == report(bundle="a")


def test_a_leaf_counts_as_used_by_a_stream_that_ended_until_another_has_the_newest(holding: Holding):
    ended, other = holding.open(), holding.open()
    holding.delivered(ended, proof(1, bundle="a"))
    holding.close(ended, 0)
    holding.issued(leaf(2))
    assert holding.report() == report(bundle="a")
    holding.delivered(other, proof(1))
    assert holding.report() is None
    assert holding.streams_with(1) == 1
    holding.delivered(other, proof(2))
    assert holding.report() is None, "who ended may come back with it"
    holding.expire(T0, LONGEST_RECONNECT)
    assert holding.report() == report(1, bundle="a", held=(2,))


def test_who_sets_the_clock_gives_nobody_up_and_holds_nobody_up(holding: Holding):
    ended, other = holding.open(), holding.open()
    holding.delivered(ended, proof(1, bundle="a"))
    holding.delivered(other, proof(bundle="b"))
    holding.close(ended, 7)
    assert holding.doubtful_until == 7 + LONGEST_RECONNECT
    for at in (T0 + timedelta(minutes=30), T0 - timedelta(days=1)):
        holding.expire(at, 7 + LONGEST_RECONNECT / 2)
        assert holding.report() is None
    holding.expire(T0 - timedelta(days=1), 7 + LONGEST_RECONNECT)
    assert holding.report() == report(bundle="b", held=(1,))
    assert holding.doubtful_until is None


def test_a_stream_that_was_cut_off_holds_its_bundle_and_leaf_until_a_later_one_takes_its_place(holding: Holding):
    cut_off, other = holding.open(), holding.open()
    for stream in (cut_off, other):
        holding.delivered(stream, proof(1, bundle="a"))
    assert holding.report() == report(bundle="a", held=(1,))
    holding.close(cut_off, 0)
    holding.issued(leaf(2))
    holding.delivered(other, proof(2, bundle="b"))
    assert holding.report() == report()
    holding.delivered(other, proof(2, bundle="b"))
    assert holding.report() is None
    holding.delivered(holding.open(), proof(2, bundle="b"))
    assert holding.report() == report(1, bundle="b", held=(2,))
    assert holding.doubtful_until is None


def test_what_a_process_holds_is_told_again_with_each_leaf_since_the_ca_may_have_forgotten_it(holding: Holding):
    stream = holding.open()
    holding.delivered(stream, proof(1, bundle="a"))
    assert holding.report() == report(bundle="a", held=(1,))
    holding.expire(T0 + timedelta(hours=1), 0)
    holding.issued(leaf(2, not_after=T0 + timedelta(hours=2)))
    assert holding.report() == report(bundle="a")


def test_the_leaves_of_two_entries_do_not_replace_each_other(holding: Holding):
    stream = holding.open()
    holding.issued(leaf(2, "db"))
    holding.delivered(stream, proof(1, 2, bundle="a"))
    holding.issued(leaf(3))
    assert holding.report() == report(bundle="a", held=(2,))
    holding.delivered(stream, proof(2, 3))
    assert holding.report() == report(1, bundle="a", held=(2, 3))


def test_streams_that_disagree_prove_nothing_and_the_last_word_outlives_them(holding: Holding):
    one, two = holding.open(), holding.open()
    holding.delivered(one, proof(bundle="a"))
    assert holding.report() == report(bundle="a")
    holding.delivered(two, proof(bundle="b"))
    assert holding.report() == report()
    holding.close(one, 0)
    assert holding.report() is None, "it may come back with the other"
    holding.expire(T0, LONGEST_RECONNECT)
    assert holding.report() == report(bundle="b")
    holding.close(two, 0)
    assert holding.report() is None
    assert holding.bundle == "b"


def test_what_a_short_stream_had_is_not_lost(holding: Holding):
    stream = holding.open()
    holding.delivered(stream, proof(1, bundle="a"))
    holding.close(stream, 0)
    assert holding.report() == report(bundle="a", held=(1,))


def test_an_expired_leaf_is_forgotten(holding: Holding):
    stream = holding.open()
    holding.delivered(stream, proof(1))
    holding.close(stream, 0)
    holding.issued(leaf(2, not_after=T0 + timedelta(hours=3)))
    holding.expire(T0 + timedelta(hours=2), 0)
    holding.delivered(holding.open(), proof(1))
    assert holding.report() is None


def test_after_a_restart_a_leaf_of_the_earlier_life_counts_until_all_streams_have_its_successor():
    ledger, holding, now = Ledger(), Holding(HOLDER), T0 + timedelta(minutes=1)
    ledger.restore([leaf(1), leaf(2, "db")], T0)
    ledger.publish("a", T0)
    successor = leaf(3, issued_at=now)
    ledger.issued(successor, now)
    holding.issued(successor)
    first, second = holding.open(), holding.open()

    def live() -> int:
        if told := holding.report():
            ledger.report(told, now)
        return ledger.live_under("i", now)

    holding.delivered(first, proof(3))
    assert live() == 3, "it holds the leaf, but not yet the bundle"
    holding.delivered(second, proof(bundle="a"))
    assert live() == 2, "the leaf of the other entry may still be in use"
    assert ledger.behind("a", now) == ()
    holding.close(first, 0)
    holding.close(second, 0)
    assert (live(), ledger.names()) == (2, {HOLDER})


@dataclass(eq=False)
class ModelStream:
    """A stream as the model knows it: its twin in Holding, and what it reported last."""

    twin: StreamHolding
    bundle: str = ""
    serials: dict[str, int] = field(default_factory=dict)


class HoldingMachine(RuleBasedStateMachine):
    """Any order of issuing, streams and reports: nothing that somebody may use is ever reported as replaced."""

    streams = Bundle("streams")

    @initialize()
    def start(self):
        self.holding = Holding(HOLDER)
        self.issued: dict[str, list[int]] = {"web": [], "db": []}
        self.open: list[ModelStream] = []
        self.replaced: set[int] = set()
        self.told = report()

    @rule(entry_id=st.sampled_from(["web", "db"]))
    def issue(self, entry_id: str):
        serial = 1 + sum(map(len, self.issued.values()))
        self.issued[entry_id].append(serial)
        self.holding.issued(leaf(serial, entry_id))

    @rule(target=streams)
    def open_stream(self) -> ModelStream:
        self.open.append(ModelStream(twin=self.holding.open()))
        return self.open[-1]

    @rule(stream=consumes(streams))
    def close_stream(self, stream: ModelStream):
        self.open.remove(stream)
        self.holding.close(stream.twin, 0)

    @rule(
        stream=streams,
        bundle=st.sampled_from(["", "a", "b"]),
        ages=st.dictionaries(st.sampled_from(["web", "db"]), st.integers(0, 1)),
    )
    def deliver(self, stream: ModelStream, bundle: str, ages: dict[str, int]):
        serials = {of: self.issued[of][-1 - age] for of, age in ages.items() if len(self.issued[of]) > age}
        known = {of: serial for of, serial in serials.items() if serial not in self.replaced}
        stream.bundle = bundle or stream.bundle
        stream.serials |= known
        self.holding.delivered(stream.twin, proof(*serials.values(), bundle=bundle))

    @rule()
    def give_up_who_did_not_come_back(self):
        self.holding.expire(T0, LONGEST_RECONNECT)

    @rule()
    def tell(self):
        told = self.holding.report()
        if told is not None:
            self.told = told
            assert not told.replaced & self.replaced
            self.replaced |= told.replaced
        carried = {stream.bundle for stream in self.open} - {""}
        if carried and self.told.bundle:
            assert carried == {self.told.bundle}
        if carried and self.holding.doubtful_until is None:
            assert self.told.bundle == (min(carried) if len(carried) == 1 else "")
        assert not self.told.held & self.replaced
        for serial in self.told.held:
            entry_id = next(of for of, serials in self.issued.items() if serial in serials)
            assert {s.serials[entry_id] for s in self.open if entry_id in s.serials} <= {serial}
        assert self.holding.report() is None

    @invariant()
    def no_leaf_that_is_newest_or_in_use_is_replaced(self):
        if hasattr(self, "issued"):
            newest = {serials[-1] for serials in self.issued.values() if serials}
            used = {serial for stream in self.open for serial in stream.serials.values()}
            assert not self.replaced & (newest | used)

    def teardown(self):
        """In the end, when every stream has the newest leaves, all older ones are replaced."""
        if not hasattr(self, "issued"):
            return
        newest = {of: serials[-1] for of, serials in self.issued.items() if serials}
        self.holding.expire(T0, LONGEST_RECONNECT)
        for stream in [*self.open, ModelStream(twin=self.holding.open())]:
            stream.bundle, stream.serials = "a", newest
            self.holding.delivered(stream.twin, proof(*newest.values(), bundle="a"))
        self.tell()
        assert self.told.held == frozenset(newest.values())
        assert self.replaced == {each for of in self.issued.values() for each in of[:-1]}


TestHoldingMachine = HoldingMachine.TestCase
TestHoldingMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
