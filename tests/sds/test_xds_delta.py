"""Incremental sessions, rule by rule (P1 to P16), then all of them at once against a model client."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sds.xds.delta import DeltaRequest, DeltaResponse, DeltaSession
from sds.xds.resource import (
    AGGREGATED,
    CLUSTER,
    ENDPOINT,
    LISTENER,
    ROUTE,
    SECRET,
    InvalidRequest,
    Snapshot,
    TypeRules,
)
from sds.xds.session import Acked, Brought, Event, Held, Nacked, Removed
from tests.support.xds import contents, resource, resources

EACH_TYPE = pytest.mark.parametrize("rules", AGGREGATED, ids=lambda rules: rules.type_url.rsplit(".", 1)[1])
ALL_BUT_SECRETS = pytest.mark.parametrize("rules", [CLUSTER, ENDPOINT, LISTENER, ROUTE])
WITH_WILDCARD = pytest.mark.parametrize("rules", [CLUSTER, LISTENER])

Read = tuple[dict[str, object], tuple[str, ...]]


@dataclass
class Stream:
    """A session and the client at its other end, who has read all that was sent."""

    rules: TypeRules = SECRET
    responses: list[DeltaResponse] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.session = DeltaSession(rules=(self.rules,))

    def ask(
        self,
        *subscribe: str,
        drop: tuple[str, ...] = (),
        nonce: str = "",
        error: str | None = None,
        holding: Mapping[str, str] | None = None,
    ) -> None:
        """Send a request of the client's own accord: without a nonce."""
        request = DeltaRequest(
            type_url=self.rules.type_url,
            subscribe=subscribe,
            unsubscribe=drop,
            nonce=nonce,
            error=error,
            initial_versions=holding or {},
        )
        self.events += self.session.on_request(request)

    def answer(self, *subscribe: str, error: str | None = None) -> None:
        self.ask(*subscribe, nonce=self.responses[-1].nonce, error=error)

    def see(self, **wanted: object) -> None:
        """Let the server have these resources, and no others, for the client."""
        self.events += self.session.on_snapshot(Snapshot(type_url=self.rules.type_url, resources=resources(**wanted)))

    def read(self) -> Read | None:
        """Return what the next response adds and removes."""
        response = self.session.next_response()
        if response is None:
            return None
        self.responses.append(response)
        return contents(response.resources), response.removed

    def exchange(self) -> Read | None:
        """Read and accept."""
        received = self.read()
        if received is not None:
            self.answer()
        return received


def subscribed(rules: TypeRules, *names: str, **seen: object) -> Stream:
    stream = Stream(rules)
    stream.ask(*names)
    stream.see(**seen)
    return stream


@pytest.mark.parametrize("nonce", ["", "0", "elsewhere"])
@pytest.mark.parametrize("error", [None, "no"])
@EACH_TYPE
def test_p2_a_stale_request_still_subscribes_and_unsubscribes_but_accepts_and_refuses_nothing(
    rules: TypeRules, nonce: str, error: str | None
):
    stream = subscribed(rules, "a", "dropped", a=1, b=1, dropped=1)
    assert stream.read() == ({"a": 1, "dropped": 1}, ())
    stream.ask("b", drop=("dropped",), nonce=nonce, error=error)
    assert (stream.events, stream.read()) == ([], None)
    stream.answer()
    assert [type(event) for event in stream.events] == [Acked, Acked]
    assert stream.exchange() == ({"b": 1}, ())
    stream.see(a=2, b=1, dropped=2)
    assert stream.exchange() == ({"a": 2}, ())


@EACH_TYPE
def test_an_ack_names_each_resource_with_its_proof_once(rules: TypeRules):
    stream = subscribed(rules, "a", "b", a=1, b=2)
    stream.read()
    stream.answer()
    stream.answer(error="a second answer to the same response means nothing")
    assert stream.events == [
        Acked(type_url=rules.type_url, name=name, version=resource(name, content).version, proof=(name, content))
        for name, content in (("a", 1), ("b", 2))
    ]


@pytest.mark.parametrize("error", ["bad certificate", ""])
@EACH_TYPE
def test_p3_what_was_refused_is_reported_and_not_sent_again_unchanged(rules: TypeRules, error: str):
    stream = subscribed(rules, "a", a=1)
    stream.exchange()
    stream.see(a="bad")
    assert stream.read() == ({"a": "bad"}, ())
    stream.answer(error=error)
    bad = resource("a", "bad")
    assert stream.events[-1] == Nacked(
        type_url=rules.type_url, names=("a",), versions=(bad.version,), version=bad.version, message=error
    )
    stream.see(a="bad")
    assert stream.read() is None
    stream.see(a="worse")
    assert stream.read() == ({"a": "worse"}, ())
    stream.answer(error=error)
    stream.see(a="bad")
    assert stream.read() is None
    stream.see(a=1)
    assert stream.exchange() == ({"a": 1}, ())
    stream.see(a="bad")
    assert stream.read() == ({"a": "bad"}, ())


@EACH_TYPE
def test_a_refusal_of_one_response_does_not_hold_back_other_resources(rules: TypeRules):
    stream = subscribed(rules, "a", "b", a="bad")
    stream.read()
    stream.answer(error="no")
    stream.see(a="bad", b=1)
    received = stream.exchange()
    assert received
    assert received[0] == {"b": 1}


@pytest.mark.parametrize(
    ("first", "then", "rules", "received"),
    [
        ((), {}, CLUSTER, {"a": 1, "b": 1}),
        (("*",), {}, CLUSTER, {"a": 1, "b": 1}),
        (("*", "a"), {}, CLUSTER, {"a": 1, "b": 1}),
        (("a",), {}, CLUSTER, {"a": 1}),
        ((), {"drop": ("*",)}, CLUSTER, None),
        ((), {"subscribe": ("a",), "drop": ("*",)}, CLUSTER, {"a": 1}),
        ((), {"subscribe": ("a",)}, CLUSTER, {"a": 1, "b": 1}),
        (("a",), {"subscribe": ("*",)}, CLUSTER, {"a": 1, "b": 1}),
        (("*", "a"), {"drop": ("*",)}, CLUSTER, {"a": 1}),
        (("a",), {"drop": ("a",)}, CLUSTER, None),
        ((), {}, SECRET, None),
        (("*",), {}, SECRET, None),
        ((), {"subscribe": ("a",)}, SECRET, {"a": 1}),
    ],
)
def test_p6_wildcards_are_legacy_or_explicit_and_only_where_the_type_has_them(
    first: tuple[str, ...], then: dict[str, tuple[str, ...]], rules: TypeRules, received: dict[str, object] | None
):
    stream = Stream(rules)
    stream.ask(*first)
    stream.ask(*then.get("subscribe", ()), drop=then.get("drop", ()))
    stream.see(a=1, b=1)
    assert stream.read() == (None if received is None else (received, ()))


@WITH_WILDCARD
def test_p6_a_wildcard_is_answered_even_if_there_is_nothing(rules: TypeRules):
    stream = subscribed(rules)
    assert stream.exchange() == ({}, ())
    assert stream.read() is None
    stream.ask("*")
    assert stream.exchange() == ({}, ())


@WITH_WILDCARD
def test_a_wildcard_follows_what_comes_changes_and_goes(rules: TypeRules):
    stream = subscribed(rules, a=1, b=1)
    assert stream.exchange() == ({"a": 1, "b": 1}, ())
    stream.see(b=2, c=1)
    assert stream.exchange() == ({"b": 2, "c": 1}, ("a",))
    stream.see(b=2, c=1)
    assert stream.read() is None


@EACH_TYPE
def test_p7_subscribing_again_is_answered_again(rules: TypeRules):
    stream = subscribed(rules, "a", "b", a=1, b=1)
    stream.exchange()
    stream.ask("a")
    assert stream.exchange() == ({"a": 1}, ())
    stream.ask("a", drop=("a",))
    assert stream.exchange() == ({"a": 1}, ())


@EACH_TYPE
def test_p7_subscribing_again_is_answered_even_with_what_was_refused(rules: TypeRules):
    stream = subscribed(rules, "a", a=1)
    stream.read()
    stream.answer(error="no")
    assert stream.read() is None
    stream.ask("a")
    assert stream.exchange() == ({"a": 1}, ())


@WITH_WILDCARD
def test_p7_subscribing_to_the_wildcard_again_sends_everything_again(rules: TypeRules):
    stream = subscribed(rules, a=1, b=1)
    stream.exchange()
    stream.ask("*")
    assert stream.exchange() == ({"a": 1, "b": 1}, ())


@WITH_WILDCARD
def test_p8_a_name_that_leaves_while_the_wildcard_stays_is_answered(rules: TypeRules):
    stream = subscribed(rules, "*", "a", "gone", a=1, b=1)
    assert stream.exchange() == ({"a": 1, "b": 1}, ("gone",))
    stream.ask(drop=("a", "gone", "never asked"))
    assert stream.exchange() == ({"a": 1}, ("gone",))
    assert stream.read() is None


@ALL_BUT_SECRETS
def test_p9_an_unknown_name_is_removed_once_and_sent_when_it_exists(rules: TypeRules):
    stream = subscribed(rules, "a", "late", a=1)
    assert stream.exchange() == ({"a": 1}, ("late",))
    stream.see(a=2)
    assert stream.exchange() == ({"a": 2}, ())
    stream.see(a=2, late=1)
    assert stream.exchange() == ({"late": 1}, ())
    stream.see(a=2)
    assert stream.exchange() == ({}, ("late",))
    stream.ask("late")
    assert stream.exchange() == ({}, ("late",))


def test_p9_does_not_hold_for_secrets_because_a_removal_ends_warming():
    stream = subscribed(SECRET, "a", "late", a=1)
    assert stream.exchange() == ({"a": 1}, ())
    stream.ask("late")
    stream.see()
    assert stream.read() is None
    stream.see(a=1, late=1)
    assert stream.exchange() == ({"late": 1}, ())


@EACH_TYPE
def test_p10_a_name_asked_twice_is_sent_once(rules: TypeRules):
    assert subscribed(rules, "a", "a", a=1).read() == ({"a": 1}, ())


@pytest.mark.parametrize("snapshot_first", [True, False])
@EACH_TYPE
def test_p11_a_client_that_comes_back_gets_only_what_differs(rules: TypeRules, *, snapshot_first: bool):
    stream, same = Stream(rules), resource("same", 1)
    holding = {"same": same.version, "old": "older", "gone": "any", "not asked": "any"}
    if snapshot_first:
        stream.see(same=1, old=2, new=1)
    stream.ask("same", "old", "new", "gone", holding=holding)
    stream.see(same=1, old=2, new=1)
    assert stream.exchange() == ({"old": 2, "new": 1}, () if rules is SECRET else ("gone",))
    brought = {n: v for n, v in holding.items() if n != "not asked"}
    assert stream.events[:2] == [
        Brought(type_url=rules.type_url, versions=brought),
        Held(type_url=rules.type_url, name="same", version=same.version, proof=("same", 1)),
    ]
    assert [event.name for event in stream.events if isinstance(event, Held)] == ["same"]


@pytest.mark.parametrize("names", [(), ("*",)])
@WITH_WILDCARD
def test_p11_a_wildcard_that_comes_back_gets_only_what_differs(rules: TypeRules, names: tuple[str, ...]):
    stream = Stream(rules)
    stream.ask(*names, holding={"same": resource("same", 1).version, "gone": "any"})
    stream.see(same=1)
    assert stream.exchange() == ({}, ("gone",))
    again = Stream(rules)
    again.ask(*names, holding={"same": resource("same", 1).version})
    again.see(same=1)
    assert again.read() is None
    assert [type(event) for event in again.events] == [Brought, Held]


def test_p11_a_secret_that_becomes_servable_later_may_still_be_the_one_that_the_client_holds():
    stream, version = Stream(), resource("a", 1).version
    stream.ask("a", holding={"a": version})
    stream.see()
    stream.see(a=1)
    assert stream.read() is None
    assert stream.events[1:] == [Held(type_url=SECRET.type_url, name="a", version=version, proof=("a", 1))]


@pytest.mark.parametrize("drop", [("a",), ()])
def test_p11_what_the_client_dropped_or_wants_again_is_no_longer_held(drop: tuple[str, ...]):
    stream = Stream()
    stream.ask("a", holding={"a": resource("a", 1).version})
    stream.ask("a", drop=drop)
    stream.see(a=1)
    assert (stream.exchange(), [type(event) for event in stream.events]) == (({"a": 1}, ()), [Brought, Acked])


@EACH_TYPE
def test_p3_what_was_refused_is_sent_again_in_another_attempt_but_each_attempt_once(rules: TypeRules):
    stream = subscribed(rules, "a", "b", a=1, b=1)
    assert stream.read() == ({"a": 1, "b": 1}, ())
    stream.answer(error="b is bad")
    for attempt in (1, 2):
        tried = {"a": replace(resource("a", 1), attempt=attempt), "b": resource("b", 1)}
        stream.session.on_snapshot(Snapshot(type_url=rules.type_url, resources=tried))
        assert stream.read() == ({"a": 1}, ())
        assert stream.responses[-1].resources[0].version == resource("a", 1).version
        stream.answer(error="so is a")
        assert stream.read() is None


@pytest.mark.parametrize("error", [None, "b is bad"])
@ALL_BUT_SECRETS
def test_a_removal_is_reported_when_its_response_is_answered_even_by_a_refusal(rules: TypeRules, error: str | None):
    stream = subscribed(rules, "a", "b", a=1, b=1)
    stream.exchange()
    stream.see(b=2)
    assert stream.read() == ({"b": 2}, ("a",))
    stream.answer(error=error)
    assert stream.events[-1] == Removed(type_url=rules.type_url, name="a")


@EACH_TYPE
def test_changes_while_a_response_is_under_way_are_merged_into_the_next(rules: TypeRules):
    stream = subscribed(rules, "a", a=1)
    assert stream.read() == ({"a": 1}, ())
    for content in range(2, 9):
        stream.see(a=content)
        assert stream.read() is None
    stream.answer()
    assert stream.exchange() == ({"a": 8}, ())


@EACH_TYPE
def test_what_comes_after_unsubscribing_never_holds_the_dropped_name(rules: TypeRules):
    stream = subscribed(rules, "a", "b", a=1, b=1)
    stream.exchange()
    stream.ask(drop=("a",))
    stream.see(b=2)
    assert stream.exchange() == ({"b": 2}, ())


def test_p13_a_changed_cluster_gets_its_endpoints_once_more():
    session = DeltaSession(rules=(CLUSTER, ENDPOINT))

    def see(**clusters: object) -> list[tuple[str, dict[str, object]]]:
        """Everything that is sent, and accepted, when the clusters are these."""
        session.on_snapshot(Snapshot(type_url=CLUSTER.type_url, resources=resources(**clusters)))
        sent = []
        while (response := session.next_response()) is not None:
            session.on_request(DeltaRequest(type_url=response.type_url, nonce=response.nonce))
            sent.append((response.type_url, contents(response.resources)))
        return sent

    session.on_request(DeltaRequest(type_url=CLUSTER.type_url))
    session.on_request(DeltaRequest(type_url=ENDPOINT.type_url, subscribe=("a", "b", "gone")))
    session.on_snapshot(Snapshot(type_url=ENDPOINT.type_url, resources=resources(a=1, b=2)))
    assert see(a=1, b=1) == [(CLUSTER.type_url, {"a": 1, "b": 1}), (ENDPOINT.type_url, {"a": 1, "b": 2})]
    assert see(a=2, b=1) == [(CLUSTER.type_url, {"a": 2}), (ENDPOINT.type_url, {"a": 1})]
    assert see(a=2, b=1) == []


def test_p14_types_go_in_the_order_given():
    session = DeltaSession(rules=AGGREGATED)
    for rules in reversed(AGGREGATED):
        session.on_snapshot(Snapshot(type_url=rules.type_url, resources=resources(a=1)))
        session.on_request(DeltaRequest(type_url=rules.type_url, subscribe=("a",)))
    sent = list(iter(session.next_response, None))
    assert [response.type_url for response in sent] == [rules.type_url for rules in AGGREGATED]
    assert len({response.nonce for response in sent}) == len(sent)


LONG = tuple(str(n) * 2000 for n in range(9))


@pytest.mark.parametrize(
    ("rules", "requests", "reason"),
    [
        (AGGREGATED, [DeltaRequest(type_url="")], "type_url '' is not served here"),
        ((SECRET,), [DeltaRequest(type_url=CLUSTER.type_url)], "Cluster' is not served here"),
        ((SECRET,), [DeltaRequest(type_url="", subscribe=("a",) * 101)], "101 names"),
        ((SECRET,), [DeltaRequest(type_url="", unsubscribe=("a",) * 101)], "101 names"),
        ((SECRET,), [DeltaRequest(type_url="", initial_versions={str(n): "" for n in range(101)})], "101 names"),
        ((SECRET,), [DeltaRequest(type_url="", subscribe=("n" * 2049,))], "not 2049"),
        ((SECRET,), [DeltaRequest(type_url="", initial_versions={"": "x"})], "not 0"),
        (
            (SECRET,),
            [DeltaRequest(type_url="", subscribe=LONG[:4]), DeltaRequest(type_url="", subscribe=LONG[4:])],
            "18000 char",
        ),
        (
            (SECRET,),
            [DeltaRequest(type_url="", subscribe=tuple(f"{part}{n}" for n in range(60))) for part in "ab"],
            "120 names",
        ),
    ],
)
def test_a_request_that_breaks_the_protocol_is_refused_with_the_offending_value(
    rules: tuple[TypeRules, ...], requests: list[DeltaRequest], reason: str
):
    session = DeltaSession(rules=rules)
    with pytest.raises(InvalidRequest, match=reason):
        [session.on_request(request) for request in requests]


NAMES = ("a", "b", "c")
SEEN = st.dictionaries(st.sampled_from(NAMES), st.integers(0, 3))
ASKED = st.frozensets(st.sampled_from(NAMES), max_size=3)


class DeltaMachine(RuleBasedStateMachine):
    """A client that asks, accepts, refuses, lags and comes back in any order; `kept` is what it holds."""

    kind = SECRET
    wildcard = False

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, object] = {}
        self.names: frozenset[str] = frozenset()
        self.kept: dict[str, object] = {}
        self.connect()

    def connect(self) -> None:
        self.session = DeltaSession(rules=(self.kind,))
        self.nonces: list[str] = []
        self.unanswered: DeltaResponse | None = None
        self.barred: set[tuple[str, object]] = set()
        self.push(self.seen)
        holding = {name: resource(name, content).version for name, content in self.kept.items()}
        wild = ("*",) if self.wildcard else ()
        self.request(subscribe=(*self.names, *wild), initial_versions=holding)

    def request(self, **what: object) -> None:
        events = self.session.on_request(DeltaRequest(type_url=self.kind.type_url, **what))  # type: ignore[arg-type]
        self.check(events)

    def check(self, events: tuple[Event, ...]) -> None:
        for event in events:
            if isinstance(event, Removed):
                assert event.name not in self.kept
            elif isinstance(event, Acked | Held):
                assert event.proof == (event.name, self.kept[event.name])

    @property
    def wanted(self) -> frozenset[str]:
        return frozenset(NAMES) if self.wildcard else self.names

    def is_current(self) -> bool:
        absent = set() if self.kind is SECRET else self.kept.keys() - self.seen.keys()
        present = {name: content for name, content in self.seen.items() if name in self.wanted}
        late = {unit for unit in present.items() if self.kept.get(unit[0]) != unit[1] and unit not in self.barred}
        return not absent and not late

    @rule(seen=SEEN)
    def push(self, seen: dict[str, object]) -> None:
        self.seen = seen
        self.check(self.session.on_snapshot(Snapshot(type_url=self.kind.type_url, resources=resources(**seen))))

    @rule(more=ASKED, fewer=ASKED, stale=st.booleans())
    def resubscribe(self, more: frozenset[str], fewer: frozenset[str], *, stale: bool) -> None:
        """Any time, whatever is under way (P2). Asking again for what it has makes the client wait for an answer (P7)."""
        if self.unanswered is not None:
            return
        dropped = set(more) if self.wildcard else set(more | (fewer & self.names))
        self.kept = {name: content for name, content in self.kept.items() if name not in dropped}
        self.barred = {unit for unit in self.barred if unit[0] not in more | (fewer & self.names)}
        self.names = (self.names - fewer) | more
        self.request(subscribe=tuple(more), unsubscribe=tuple(fewer), nonce="stale" if stale else "")

    @precondition(lambda self: self.unanswered is None)
    @rule()
    def read(self) -> None:
        response = self.session.next_response()
        if response is None:
            return
        assert response.nonce not in self.nonces
        sent = contents(response.resources)
        assert sent or response.removed or self.wildcard
        assert self.kind is not SECRET or not response.removed, "a removal would end warming"
        assert len(sent) == len(response.resources)
        assert sent.keys() <= self.wanted
        assert sent.items() <= self.seen.items(), "only the newest"
        assert not self.barred & set(sent.items()), "never again what was refused"
        assert not self.seen.keys() & set(response.removed)
        self.nonces.append(response.nonce)
        self.unanswered = response

    @precondition(lambda self: self.unanswered is not None)
    @rule(accept=st.booleans())
    def answer(self, *, accept: bool) -> None:
        assert self.unanswered is not None
        response, self.unanswered = self.unanswered, None
        sent = contents(response.resources)
        self.kept = {name: content for name, content in self.kept.items() if name not in response.removed}
        if accept:
            self.kept.update(sent)
            self.barred = {unit for unit in self.barred if unit[0] not in sent}
        else:
            self.barred |= set(sent.items())
        self.request(nonce=response.nonce, error=None if accept else "no")

    @precondition(lambda self: len(self.nonces) > 1)
    @rule(error=st.none() | st.just("no"))
    def lag(self, error: str | None) -> None:
        self.request(nonce=self.nonces[-2], error=error)

    @rule()
    def come_back(self) -> None:
        self.connect()

    @invariant()
    def a_client_that_is_out_of_date_is_being_sent_the_last_snapshot(self) -> None:
        if self.unanswered is None and not self.is_current():
            self.read()
            assert self.unanswered is not None


class EndpointMachine(DeltaMachine):
    """The same client of a type whose absent resources are removed."""

    kind = ENDPOINT


class WildcardMachine(DeltaMachine):
    """The same client with a wildcard beside its names."""

    kind = CLUSTER
    wildcard = True


TestDeltaMachine = DeltaMachine.TestCase
TestEndpointMachine = EndpointMachine.TestCase
TestWildcardMachine = WildcardMachine.TestCase
