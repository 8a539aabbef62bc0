"""State-of-the-world sessions, rule by rule (P1 to P16), then all of them at once against a model client."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sds.errors import SDSError
from sds.xds.resource import (
    AGGREGATED,
    CLUSTER,
    ENDPOINT,
    LISTENER,
    ROUTE,
    SECRET,
    InvalidRequest,
    Resource,
    Snapshot,
    TypeRules,
    combined_version,
    versions,
)
from sds.xds.session import Acked, Event, Held, Nacked, Removed, Request, Response, SotwSession
from tests.support.xds import contents, resource, resources

EACH_TYPE = pytest.mark.parametrize("rules", AGGREGATED, ids=lambda rules: rules.type_url.rsplit(".", 1)[1])


@dataclass
class Stream:
    """A session and the client at its other end, who has read all that was sent."""

    rules: TypeRules = SECRET
    others: tuple[TypeRules, ...] = ()
    responses: list[Response] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.session = SotwSession(rules=(self.rules, *self.others))

    def ask(self, *names: str, version: str = "", nonce: str | None = None, error: str | None = None) -> None:
        """Send a request; without a nonce with that of the last response."""
        nonce = (self.responses[-1].nonce if self.responses else "") if nonce is None else nonce
        request = Request(type_url=self.rules.type_url, names=names, version=version, nonce=nonce, error=error)
        self.events += self.session.on_request(request)

    def see(self, **wanted: object) -> None:
        """Let the server have these resources, and no others, for the client."""
        self.events += self.session.on_snapshot(Snapshot(type_url=self.rules.type_url, resources=resources(**wanted)))

    def read(self) -> dict[str, object] | None:
        """Return what the next response holds."""
        response = self.session.next_response()
        if response is None:
            return None
        self.responses.append(response)
        return contents(response.resources)


def subscribed(rules: TypeRules, *names: str, **seen: object) -> Stream:
    stream = Stream(rules)
    stream.ask(*names)
    stream.see(**seen)
    return stream


@pytest.mark.parametrize("nonce", ["", "0", "elsewhere"])
@EACH_TYPE
def test_p1_a_request_with_a_stale_nonce_changes_nothing(rules: TypeRules, nonce: str):
    stream = subscribed(rules, "a", a=1, b=1)
    assert stream.read() == {"a": 1}
    stream.ask("b", nonce=nonce, error="refused")
    assert (stream.read(), stream.events) == (None, [])
    stream.ask("a")
    assert [type(event) for event in stream.events] == [Acked]
    assert stream.read() is None


def test_p1_the_first_request_of_a_stream_counts_whatever_its_nonce():
    stream = Stream()
    stream.ask("a", nonce="7")
    stream.see(a=1)
    assert stream.read() == {"a": 1}


def test_p1_each_type_of_a_stream_has_its_own_nonce_and_p4_its_own_version():
    session = SotwSession(rules=AGGREGATED)
    for rules in (CLUSTER, ENDPOINT):
        session.on_request(Request(type_url=rules.type_url, names=("a",)))
        session.on_snapshot(Snapshot(type_url=rules.type_url, resources=resources(a=rules.type_url)))
    clusters, endpoints = session.next_response(), session.next_response()
    assert clusters
    assert endpoints
    assert clusters.version != endpoints.version
    assert clusters.nonce != endpoints.nonce
    assert session.on_request(Request(type_url=ENDPOINT.type_url, names=("a",), nonce=clusters.nonce)) == ()
    assert len(session.on_request(Request(type_url=ENDPOINT.type_url, names=("a",), nonce=endpoints.nonce))) == 1


def test_p1_a_subscription_may_change_before_the_first_response():
    stream = subscribed(SECRET, "a", b=1)
    assert stream.read() is None
    stream.ask("a", "b")
    assert stream.read() == {"b": 1}


@EACH_TYPE
def test_an_ack_names_each_resource_with_its_proof(rules: TypeRules):
    stream = subscribed(rules, "a", "b", a=1, b=2)
    stream.read()
    stream.ask("a", "b", version="whatever")
    assert stream.events == [
        Acked(type_url=rules.type_url, name=name, version=resource(name, content).version, proof=(name, content))
        for name, content in (("a", 1), ("b", 2))
    ]
    stream.ask("a", "b", error="a second answer to the same response means nothing")
    assert len(stream.events) == 2


@pytest.mark.parametrize("error", ["bad certificate", ""])
@EACH_TYPE
def test_p3_an_error_is_a_nack_whatever_the_version_and_text(rules: TypeRules, error: str):
    stream = subscribed(rules, "a", a=1)
    stream.read()
    version = stream.responses[-1].version
    stream.ask("a", version=version, error=error)
    assert stream.events == [
        Nacked(type_url=rules.type_url, names=("a",), versions=(version,), version=version, message=error)
    ]


@pytest.mark.parametrize("rules", [ENDPOINT, ROUTE, SECRET])
def test_p3_what_was_refused_is_sent_again_in_another_attempt_but_each_attempt_once(rules: TypeRules):
    stream = subscribed(rules, "a", "b", a=1, b=1)
    assert stream.read() == {"a": 1, "b": 1}
    stream.ask("a", "b", error="b is bad")
    for attempt in (1, 2):
        tried = {"a": replace(resource("a", 1), attempt=attempt), "b": resource("b", 1)}
        stream.session.on_snapshot(Snapshot(type_url=rules.type_url, resources=tried))
        assert stream.read() == {"a": 1}
        assert stream.responses[-1].version.startswith(resource("a", 1).version)
        stream.ask("a", "b", error="so is a")
        assert stream.read() is None


@pytest.mark.parametrize("rules", [CLUSTER, LISTENER])
def test_what_is_not_in_an_accepted_full_state_response_is_reported_as_removed_once(rules: TypeRules):
    stream = subscribed(rules, a=1, b=1, c=1)
    stream.read()
    stream.ask()
    stream.see(a=1, b=1, d=1)
    stream.read()
    stream.ask(error="d is bad")
    assert not [event for event in stream.events if isinstance(event, Removed)]
    stream.see(a=1)
    stream.read()
    stream.ask()
    stream.see(a=2)
    stream.read()
    stream.ask()
    gone = [event for event in stream.events if isinstance(event, Removed)]
    assert gone == [Removed(type_url=rules.type_url, name=name) for name in "bcd"]


@EACH_TYPE
def test_p3_what_was_refused_is_not_sent_again_unchanged(rules: TypeRules):
    stream = subscribed(rules, "a", a=1)
    stream.read()
    stream.ask("a")
    stream.see(a="bad")
    assert stream.read() == {"a": "bad"}
    stream.ask("a", error="no")
    stream.ask("a", error="no")
    stream.see(a="bad")
    assert stream.read() is None
    stream.see(a="worse")
    assert stream.read() == {"a": "worse"}
    stream.ask("a", error="no")
    stream.see(a="bad")
    assert stream.read() is None
    stream.see(a=1)
    assert stream.read() == {"a": 1}, "going back is a change too: Envoy stores what it refuses"
    stream.ask("a")
    stream.see(a="bad")
    assert stream.read() == {"a": "bad"}, "what made it bad may be gone: something else was accepted since"


@EACH_TYPE
def test_p3_a_new_subscription_is_answered_with_what_an_earlier_one_refused(rules: TypeRules):
    stream = subscribed(rules, "a", "b", a=1, b=1)
    stream.read()
    stream.ask("a", "b", error="no")
    stream.ask("b")
    if rules.full_state:
        stream.read()
        stream.ask("b")
    stream.ask("a", "b")
    assert "a" in (stream.read() or {})


def test_p3_a_client_that_refuses_for_ever_does_not_grow_its_stream():
    stream = subscribed(SECRET, "a")
    for content in range(1500):
        stream.see(a=content)
        assert stream.read() == {"a": content}
        stream.ask("a", error="no")
    assert len(repr(stream.session)) < 200_000


@pytest.mark.parametrize("snapshot_first", [True, False])
def test_p4_a_client_that_comes_back_with_our_version_holds_it_and_gets_silence(*, snapshot_first: bool):
    stream, version = Stream(), resource("a", 1).version
    if snapshot_first:
        stream.see(a=1)
    stream.ask("a", version=version)
    if not snapshot_first:
        assert stream.read() is None
        stream.see()
        stream.see(a=1)
    assert stream.read() is None
    assert stream.events == [Held(type_url=SECRET.type_url, name="a", version=version, proof=("a", 1))]
    stream.see(a=2)
    assert stream.read() == {"a": 2}
    stream.see(a=1)
    stream.ask("a")
    assert stream.read() == {"a": 1}


@pytest.mark.parametrize("content", [1, None])
def test_p4_a_wildcard_that_comes_back_with_our_version_gets_silence_even_if_there_is_nothing(content: int | None):
    stream = Stream(CLUSTER, others=(ENDPOINT,))
    seen = {} if content is None else {"a": content, "b": content}
    stream.ask(version=combined_version(versions(resources(**seen).values())))
    stream.see(**seen)
    assert stream.read() is None
    assert len(stream.events) == len(seen)


def test_p4_another_version_is_answered_in_full():
    stream = Stream()
    stream.ask("a", version="older")
    stream.see(a=1)
    assert stream.read() == {"a": 1}


@pytest.mark.parametrize("others", [(), (ENDPOINT,)], ids=["several names", "several types"])
def test_p4_a_client_that_may_have_dropped_a_part_is_answered_although_its_version_is_ours(
    others: tuple[TypeRules, ...],
):
    stream, seen = Stream(others=others), {"a": 1} if others else {"a": 1, "b": 1}
    stream.ask(*seen, version=combined_version(versions(resources(**seen).values())))
    stream.see(**seen)
    assert (stream.read(), stream.events) == (seen, [])


def test_p4_a_version_is_the_content_whatever_the_way_to_it():
    direct, detour = subscribed(SECRET, "a", "b", a=1, b=2), subscribed(SECRET, "b", "a", a=1, b=1)
    direct.read()
    detour.read()
    detour.ask("b", "a")
    detour.see(b=2, a=1)
    assert detour.read() == {"b": 2}
    assert direct.responses[-1].version == detour.responses[-1].version


def test_p4_a_version_with_a_refused_part_is_not_that_of_the_content():
    clean, refusing = subscribed(SECRET, "a", "b", a=1, b=2), subscribed(SECRET, "a", "b", a=1)
    clean.read()
    refusing.read()
    refusing.ask("a", "b", error="no")
    refusing.see(a=1, b=2)
    assert refusing.read() == {"b": 2}
    assert refusing.responses[-1].version != clean.responses[-1].version
    refusing.ask("a", "b")
    refusing.see(a=2, b=2)
    refusing.read()
    assert refusing.responses[-1].version == combined_version(versions(resources(a=2, b=2).values()))


@pytest.mark.parametrize("rules", [CLUSTER, LISTENER])
def test_p5_a_full_state_response_is_complete_and_absence_deletes(rules: TypeRules):
    stream = subscribed(rules, a=1, b=1)
    assert stream.read() == {"a": 1, "b": 1}
    stream.ask()
    stream.see(a=1, b=2)
    assert stream.read() == {"a": 1, "b": 2}
    stream.ask()
    stream.see(a=1)
    assert stream.read() == {"a": 1}
    stream.ask()
    stream.see()
    assert stream.read() == {}
    stream.ask()
    assert stream.read() is None


@pytest.mark.parametrize("rules", [ENDPOINT, ROUTE, SECRET])
def test_p5_a_partial_response_carries_only_changes_and_absence_is_silence(rules: TypeRules):
    stream = subscribed(rules, "a", "b", a=1, b=1)
    assert stream.read() == {"a": 1, "b": 1}
    stream.ask("a", "b")
    stream.see(a=1, b=2)
    assert stream.read() == {"b": 2}
    stream.ask("a", "b")
    for seen in ({"a": 1}, {}, {"a": 1, "b": 2}):
        stream.see(**seen)
        assert stream.read() is None


@pytest.mark.parametrize(
    ("asked", "rules", "received"),
    [
        ([()], CLUSTER, {"a": 1, "b": 1}),
        ([("*",)], CLUSTER, {"a": 1, "b": 1}),
        ([("*", "a")], CLUSTER, {"a": 1, "b": 1}),
        ([("a",)], CLUSTER, {"a": 1}),
        ([("a",), ()], CLUSTER, None),
        ([("a",), ("*",)], CLUSTER, {"a": 1, "b": 1}),
        ([(), ("a",)], CLUSTER, {"a": 1}),
        ([(), ("a",), ()], CLUSTER, None),
        ([(), ()], CLUSTER, {"a": 1, "b": 1}),
        ([("*",), ()], CLUSTER, None),
        ([("missing",)], CLUSTER, {}),
        ([()], SECRET, None),
        ([("*",)], SECRET, None),
        ([("a",), ()], SECRET, None),
    ],
)
def test_p6_wildcards_are_legacy_or_explicit_and_only_where_the_type_has_them(
    asked: list[tuple[str, ...]], rules: TypeRules, received: dict[str, object] | None
):
    stream = Stream(rules)
    for names in asked:
        stream.ask(*names)
    stream.see(a=1, b=1)
    assert stream.read() == received


@pytest.mark.parametrize("rules", [CLUSTER, LISTENER])
def test_p6_a_wildcard_sees_what_the_snapshot_lists_and_a_name_also_what_it_makes_on_demand(rules: TypeRules):
    class OnDemand(dict[str, object]):
        def __iter__(self) -> Iterator[str]:
            return iter(["listed"])

    session = SotwSession(rules=(rules,))
    session.on_snapshot(Snapshot(type_url=rules.type_url, resources=OnDemand(resources(listed=1, made=1))))  # type: ignore[arg-type]
    session.on_request(Request(type_url=rules.type_url, names=("*",)))
    first = session.next_response()
    assert first
    assert contents(first.resources) == {"listed": 1}
    session.on_request(Request(type_url=rules.type_url, names=("*", "made"), nonce=first.nonce))
    second = session.next_response()
    assert second
    assert contents(second.resources) == {"listed": 1, "made": 1}


@pytest.mark.parametrize("rules", [ENDPOINT, ROUTE, SECRET])
def test_p9_an_unknown_name_is_left_unanswered_until_it_exists(rules: TypeRules):
    stream = subscribed(rules, "a", "late")
    assert stream.read() is None
    stream.see(a=1)
    assert stream.read() == {"a": 1}
    stream.ask("a", "late")
    stream.see(a=1, late=1)
    assert stream.read() == {"late": 1}


@EACH_TYPE
def test_p10_a_name_asked_twice_is_sent_once(rules: TypeRules):
    stream = subscribed(rules, "a", "a", a=1)
    stream.read()
    assert [found.name for found in stream.responses[-1].resources] == ["a"]


@EACH_TYPE
def test_a_name_that_was_dropped_and_is_asked_again_is_sent_again(rules: TypeRules):
    stream = subscribed(rules, "a", "b", a=1, b=1)
    stream.read()
    stream.ask("a")
    assert stream.read() is None
    stream.ask("a", "b")
    assert stream.read() == ({"a": 1, "b": 1} if rules.full_state else {"b": 1})


@EACH_TYPE
def test_what_is_sent_after_unsubscribing_never_holds_the_dropped_name(rules: TypeRules):
    stream = subscribed(rules, "a", "b", a=1, b=1)
    stream.read()
    stream.ask("b")
    stream.see(a=2, b=2)
    assert stream.read() == {"b": 2}


@EACH_TYPE
def test_changes_while_a_response_is_under_way_are_merged_into_the_next(rules: TypeRules):
    stream = subscribed(rules, "a", a=1)
    assert stream.read() == {"a": 1}
    for content in range(2, 9):
        stream.see(a=content)
        assert stream.read() is None
    stream.ask("a")
    assert stream.read() == {"a": 8}


@pytest.mark.parametrize(("changing", "waiting"), [(CLUSTER, ENDPOINT), (LISTENER, ROUTE)])
def test_p13_a_change_makes_those_go_again_that_warm_with_it_and_p14_after_it(changing: TypeRules, waiting: TypeRules):
    session = SotwSession(rules=AGGREGATED)

    def push(rules: TypeRules, content: int) -> None:
        session.on_snapshot(Snapshot(type_url=rules.type_url, resources=resources(a=content)))

    def exchange() -> list[tuple[str, dict[str, object]]]:
        seen = []
        while response := session.next_response():
            seen.append((response.type_url, contents(response.resources)))
            session.on_request(Request(type_url=response.type_url, names=("a",), nonce=response.nonce))
        return seen

    for rules in (waiting, changing):
        push(rules, 1)
        session.on_request(Request(type_url=rules.type_url, names=("a",)))
    assert exchange()[-2:] == [(changing.type_url, {"a": 1}), (waiting.type_url, {"a": 1})]
    push(changing, 2)
    assert exchange() == [(changing.type_url, {"a": 2}), (waiting.type_url, {"a": 1})]
    push(waiting, 2)
    assert exchange() == [(waiting.type_url, {"a": 2})]


@pytest.mark.parametrize(
    ("rules", "request_", "reason"),
    [
        (AGGREGATED, Request(type_url=""), "type_url '' is not served here"),
        (AGGREGATED, Request(type_url="x/unknown"), "type_url 'x/unknown' is not served here"),
        ((SECRET,), Request(type_url=CLUSTER.type_url), "Cluster' is not served here"),
        ((SECRET,), Request(type_url="", names=("a",) * 101), "101 names"),
        ((SECRET,), Request(type_url="", names=("n" * 2049,)), "not 2049"),
        ((SECRET,), Request(type_url="", names=tuple(str(n) * 2000 for n in range(9))), "18000 characters"),
        ((SECRET,), Request(type_url="", names=("",)), "not 0"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_request_that_breaks_the_protocol_is_refused_with_the_offending_value(
    rules: tuple[TypeRules, ...], request_: Request, reason: str
):
    with pytest.raises(InvalidRequest, match=reason):
        SotwSession(rules=rules).on_request(request_)


def test_a_stream_of_one_type_needs_no_type_url():
    session = SotwSession(rules=(SECRET,))
    session.on_request(Request(type_url="", names=("a",)))
    session.on_snapshot(Snapshot(type_url=SECRET.type_url, resources=resources(a=1)))
    assert session.next_response() is not None


@pytest.mark.parametrize(("name", "version"), [("", "v"), ("a", "")])
def test_a_resource_has_a_name_and_a_version(name: str, version: str):
    with pytest.raises(SDSError, match="needs a name and a version"):
        Resource(name=name, version=version, body=b"")


def test_no_body_shows_in_a_repr():
    stream = subscribed(SECRET, "a", a="private key")
    stream.read()
    stream.ask("a")
    assert "private key" not in repr(stream.responses).replace("proof", "")
    assert "private key" not in repr(stream.session)


NAMES = ("a", "b", "c")
SEEN = st.dictionaries(st.sampled_from(NAMES), st.integers(0, 3))
ASKED = st.frozensets(st.sampled_from(NAMES), max_size=3)


class SotwMachine(RuleBasedStateMachine):
    """A client that asks, accepts, refuses, lags and comes back in any order; `kept` is what it holds."""

    kind = SECRET

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, object] = {}
        self.names: frozenset[str] = frozenset()
        self.kept: dict[str, object] = {}
        self.version = ""
        self.connect()

    def connect(self) -> None:
        self.session = SotwSession(rules=(self.kind,))
        self.nonces: list[str] = []
        self.unanswered: Response | None = None
        self.barred: set[object] = set()
        self.push(self.seen)

    def request(self, *, nonce: str | None = None, error: str | None = None, version: str = "") -> None:
        nonce = (self.nonces[-1] if self.nonces else "") if nonce is None else nonce
        names = tuple(self.names)
        request = Request(type_url=self.kind.type_url, names=names, version=version, nonce=nonce, error=error)
        self.check(self.session.on_request(request))

    def check(self, events: tuple[Event, ...]) -> None:
        for event in events:
            if isinstance(event, Removed):
                assert event.name not in self.kept
            elif isinstance(event, Acked | Held):
                assert event.proof == (event.name, self.kept[event.name])

    def read(self) -> None:
        response = self.session.next_response()
        if response is None:
            return
        assert self.unanswered is None, "one response at a time"
        assert response.nonce not in self.nonces
        sent = contents(response.resources)
        assert len(sent) == len(response.resources)
        assert sent.keys() <= self.names
        assert sent.items() <= self.seen.items(), "only the newest"
        assert not self.barred & self.units(sent), "never again what was refused"
        self.check_form(sent)
        self.nonces.append(response.nonce)
        self.unanswered = response

    def units(self, sent: dict[str, object]) -> set[object]:
        """What is refused, or accepted, when a response is."""
        return set(sent.items())

    def check_form(self, sent: dict[str, object]) -> None:
        assert sent, "an empty answer would end warming"

    def accept(self, sent: dict[str, object]) -> None:
        self.kept.update(sent)
        self.barred = {(name, content) for name, content in self.barred if name not in sent}

    def add(self, names: frozenset[str]) -> None:
        self.barred = {(name, content) for name, content in self.barred if name not in names}

    def content_(self) -> dict[str, object]:
        """What the client should hold, were it to accept everything."""
        return {name: content for name, content in self.seen.items() if name in self.names}

    def is_current(self) -> bool:
        return all(
            self.kept.get(name) == content or (name, content) in self.barred
            for name, content in self.content_().items()
        )

    @rule(seen=SEEN)
    def push(self, seen: dict[str, object]) -> None:
        self.seen = seen
        self.check(self.session.on_snapshot(Snapshot(type_url=self.kind.type_url, resources=resources(**seen))))

    @precondition(lambda self: self.unanswered is None)
    @rule(names=ASKED)
    def resubscribe(self, names: frozenset[str]) -> None:
        if added := names - self.names:
            self.add(added)
        self.names = names
        self.kept = {name: content for name, content in self.kept.items() if name in names}
        self.request()

    @precondition(lambda self: self.unanswered is None)
    @rule()
    def receive(self) -> None:
        self.read()

    @precondition(lambda self: self.unanswered is not None)
    @rule(accept=st.booleans())
    def answer(self, *, accept: bool) -> None:
        assert self.unanswered is not None
        sent, version = contents(self.unanswered.resources), self.unanswered.version
        self.unanswered = None
        if accept:
            self.version = version
            self.accept(sent)
        else:
            self.barred |= self.units(sent)
        self.request(error=None if accept else "no")

    @precondition(lambda self: len(self.nonces) > 1)
    @rule(error=st.none() | st.just("no"), names=ASKED)
    def lag(self, error: str | None, names: frozenset[str]) -> None:
        mine, self.names = self.names, names
        self.request(nonce=self.nonces[-2], error=error)
        self.names = mine

    @rule()
    def come_back(self) -> None:
        """Envoy closes the stream of a single secret with its subscription, so its version is never of what it dropped."""
        self.connect()
        complete = self.kept.keys() >= self.names
        self.request(version=self.version if complete or len(self.names) > 1 else "")

    @invariant()
    def a_client_that_is_out_of_date_is_being_sent_the_last_snapshot(self) -> None:
        if self.unanswered is None and self.names and not self.is_current():
            self.read()
            assert self.unanswered is not None


class FullStateMachine(SotwMachine):
    """The same client, of a type whose responses are complete."""

    kind = CLUSTER

    def units(self, sent: dict[str, object]) -> set[object]:
        return {frozenset(sent.items())}

    def check_form(self, sent: dict[str, object]) -> None:
        assert sent == self.content_()

    def accept(self, sent: dict[str, object]) -> None:
        self.kept, self.barred = sent, set()

    def add(self, _names: frozenset[str]) -> None:
        self.barred = set()

    def is_current(self) -> bool:
        return self.kept == self.content_() or frozenset(self.content_().items()) in self.barred

    @precondition(lambda self: self.unanswered is None)
    @rule(names=ASKED.filter(bool))
    def resubscribe(self, names: frozenset[str]) -> None:
        super().resubscribe(names)

    @precondition(lambda self: self.names)
    @rule()
    def come_back(self) -> None:
        super().come_back()


TestSotwMachine = SotwMachine.TestCase
TestFullStateMachine = FullStateMachine.TestCase
