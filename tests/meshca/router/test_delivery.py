"""Stories of one proxy: what it is shown, when, and why not. Each is told to both kinds of client where it holds for both."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import ceil, log2

import pytest

from meshca.errors import InvalidInput
from meshca.router.delivery.delivery import DEADLINE, Delivery
from meshca.router.delivery.target import Phase, Target
from sds.xds.delta import DeltaRequest
from sds.xds.edition import Edition
from sds.xds.resource import Resource
from sds.xds.session import Acked, Request, Sent
from tests.support.clock import FakeClock
from tests.support.envoy_model import CDS, EDS, LDS, RDS, Envoy, Stream, made

BOTH = pytest.mark.parametrize("delta", [False, True], ids=["state of the world", "incremental"])
PAST_DEADLINE = DEADLINE.total_seconds() + 1


def target(*clusters: str, to: str = "", route: object = 1, endpoints: object = 1, **contents: object) -> Target:
    """A listener `http` with the route configuration `http`, which sends to the clusters named in `to`; all clusters have endpoints.

    The content of a cluster is 1, or as given.
    """
    uses = frozenset(to.split())
    return Target(
        clusters={name: made(name, contents.get(name, 1), eds=True) for name in clusters},
        endpoints={name: made(name, endpoints) for name in clusters},
        listeners={"http": made("http", 1, routes=["http"])},
        routes={"http": made("http", route, uses=uses)},
        needs={"http": uses},
    )


def connect(envoy: Envoy, wanted: Target, clock: FakeClock | None = None, **how: bool) -> Stream:
    """A new stream on which the Envoy has read nothing yet."""
    clock = clock or FakeClock()
    delivery = Delivery(**how)
    delivery.set_target(wanted, clock.now())
    return Stream(envoy=envoy, delivery=delivery, clock=clock)


def settled(delta: bool, wanted: Target, **envoy: bool) -> Stream:
    """A stream whose Envoy has all of the target."""
    stream = connect(Envoy(delta=delta, **envoy), wanted)
    stream.run()
    assert stream.delivery.standing().phase is Phase.STEADY
    return stream


def seen(stream: Stream, type_url: str) -> dict[str, Resource]:
    """What the proxy may see of a type."""
    return next((dict(each.resources) for each in stream.delivery.shown() if each.type_url == type_url), {})  # type: ignore[call-overload]


def names(stream: Stream, type_url: str) -> set[str]:
    return set(seen(stream, type_url))


def proof(stream: Stream, type_url: str, name: str = "http") -> object:
    """What the proxy sees of one resource: `made` writes its name and content there."""
    return seen(stream, type_url)[name].proof


def types(read: list[tuple[str, dict[str, object]]]) -> list[str]:
    return [type_url for type_url, _ in read]


@BOTH
def test_a_first_connection_gets_clusters_and_endpoints_before_it_is_told_of_any_listener(*, delta: bool):
    stream = connect(Envoy(delta=delta), target("a", "b", to="a"))
    assert [each.type_url for each in stream.delivery.shown()] == [CDS, EDS], "and is not told that it has none"
    standing = stream.delivery.standing()
    assert standing.phase is Phase.WIDEN
    assert [(each.name, each.clusters) for each in standing.waiting] == [("http", ("a",))] * 2
    assert types(stream.run()) == [CDS, EDS, LDS, RDS]
    assert [each.type_url for each in stream.delivery.shown()] == [CDS, EDS, RDS, LDS]
    assert stream.delivery.standing().phase is Phase.STEADY
    assert stream.delivery.next_deadline() is None


@BOTH
def test_a_subset_is_added_before_the_route_that_needs_it(*, delta: bool):
    stream = settled(delta, target("v1", to="v1"))
    stream.target(target("v1", "v2", to="v1 v2", route=2))
    assert (names(stream, CDS), proof(stream, RDS)) == ({"v1", "v2"}, "http 1")
    read = [type_url for type_url, contents in stream.run() if "v2" in contents or type_url == RDS]
    assert read == [CDS, EDS, RDS]
    assert proof(stream, RDS) == "http 2"


@BOTH
def test_rules_that_the_client_has_in_an_older_version_are_replaced_before_a_listener_goes_by_them(*, delta: bool):
    stream = settled(delta, target("a", to="a"))
    wanted = replace(target("a", to="a", route=2), listeners={"http": made("http", 2, routes=["http"])})
    stream.target(wanted)
    assert types(stream.run())[:2] == [RDS, LDS]


@BOTH
def test_a_flip_keeps_the_old_subset_until_the_new_route_is_accepted(*, delta: bool):
    stream = settled(delta, target("v1", to="v1"))
    stream.target(target("v2", to="v2", route=2))
    assert names(stream, CDS) == {"v1", "v2"}
    phases = [stream.delivery.standing().phase]
    while stream.read() is not None:
        phases.append(stream.delivery.standing().phase)
        assert "v1" in names(stream, CDS) or proof(stream, RDS) == "http 2"
        assert stream.envoy.is_served("v1" if stream.envoy.have[RDS]["http"].proof == "http 1" else "v2")
    assert list(dict.fromkeys(phases)) == [Phase.WIDEN, Phase.SWITCH, Phase.NARROW, Phase.STEADY]
    assert (names(stream, CDS), names(stream, EDS)) == ({"v2"}, {"v2"})
    assert stream.envoy.have[CDS].keys() == {"v2"}


@BOTH
def test_a_service_that_is_removed_leaves_after_the_route_to_it(*, delta: bool):
    stream = settled(delta, target("a", "b", to="a b"))
    stream.target(target("a", to="a", route=2))
    assert (names(stream, CDS), proof(stream, RDS)) == ({"a", "b"}, "http 2")
    assert types(stream.run())[0] == RDS
    assert (names(stream, CDS), stream.envoy.have[CDS].keys()) == ({"a"}, {"a"})


@BOTH
@pytest.mark.parametrize(
    ("changed", "type_url"),
    [
        (target("a", "b", to="a", endpoints=2), EDS),
        (target("a", "b", to="a", route=2), RDS),
        (target("a", "b", to="a b", route=2), RDS),
        (target("a", "b", to="a", a=2), CDS),
    ],
    ids=["endpoints", "weights", "a cluster that is there already", "a cluster in use"],
)
def test_a_change_that_needs_nothing_new_does_not_wait(changed: Target, type_url: str, *, delta: bool):
    stream = settled(delta, target("a", "b", to="a"))
    stream.target(changed)
    for each in (CDS, EDS, LDS, RDS):
        assert seen(stream, each) == dict(changed.of(each))
    assert types(stream.run())[0] == type_url
    assert stream.delivery.standing().phase is Phase.STEADY


@BOTH
def test_endpoints_that_change_with_their_cluster_wait_until_it_is_accepted(*, delta: bool):
    stream = settled(delta, target("a", to="a"))
    stream.target(target("a", to="a", endpoints=2, a=2))
    assert (proof(stream, CDS, "a"), proof(stream, EDS, "a")) == ("a 2", "a 1")
    assert stream.delivery.standing().phase is Phase.WIDEN
    stream.run()
    assert proof(stream, EDS, "a") == "a 2"
    assert stream.envoy.have[EDS]["a"].proof == "a 2"
    assert stream.delivery.standing().phase is Phase.STEADY


@BOTH
def test_endpoints_that_change_soon_after_their_cluster_wait_for_it_too(*, delta: bool):
    stream = settled(delta, target("a", to="a"))
    stream.target(target("a", to="a", a=2))
    stream.target(target("a", to="a", a=2, endpoints=2))
    assert proof(stream, EDS, "a") == "a 1"
    stream.run()
    assert proof(stream, EDS, "a") == "a 2"


@BOTH
def test_endpoints_do_not_wait_for_ever_for_a_cluster_that_nobody_answers(*, delta: bool):
    stream = settled(delta, target("a", to="a"))
    stream.target(target("a", to="a", endpoints=2, a=2))
    stream.delivery.shown()
    stream.delivery.on_time(stream.clock.advance(2 * DEADLINE))
    assert proof(stream, EDS, "a") == "a 2"
    stream.target(target("a", to="a", endpoints=3, a=2))
    assert proof(stream, EDS, "a") == "a 2", "the next ones wait for it anew"
    stream.delivery.on_time(stream.clock.advance(2 * DEADLINE))
    assert proof(stream, EDS, "a") == "a 3"


@BOTH
@pytest.mark.parametrize("last", [1, 2, 20])
def test_endpoints_go_at_once_even_while_a_client_says_nothing(last: int, *, delta: bool):
    stream = settled(delta, target("a", to="a"))
    for content in [*range(2, 20), last]:
        stream.target(target("a", to="a", endpoints=content))
        assert proof(stream, EDS, "a") == f"a {content}"
    stream.run()
    assert stream.envoy.have[EDS]["a"].proof == f"a {last}"


@BOTH
@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("named", [False, True])
def test_a_cluster_that_is_refused_is_quarantined_and_nothing_is_pointed_at_it(
    *, delta: bool, named: bool, partial: bool
):
    envoy = Envoy(delta=delta, names_culprits=named, partial=partial, bad={("bad", 1)})
    stream = connect(envoy, target("a", to="a"))
    stream.run()
    stream.target(target("a", "bad", "c", to="a bad c", route=2))
    stream.run()
    standing = stream.delivery.standing()
    (refusal,) = standing.refused
    assert (refusal.type_url, refusal.name, refusal.proof) == (CDS, "bad", "bad 1")
    assert "bad" in refusal.text
    assert [(each.type_url, each.clusters) for each in standing.held_back] == [(RDS, ("bad",))]
    assert (proof(stream, RDS), names(stream, CDS)) == ("http 1", {"a", "c"})
    assert (envoy.have[CDS].keys(), envoy.have[EDS].keys()) == ({"a", "c"}, {"a", "c"})
    assert standing.phase is Phase.STEADY, "what is refused is waited for no more"
    assert len(envoy.nacks) <= 2


@BOTH
def test_a_new_version_of_what_was_refused_is_tried_but_the_refused_one_never_again(*, delta: bool):
    envoy = Envoy(delta=delta, bad={("b", 2)})
    stream = connect(envoy, target("a", "b", to="a b"))
    stream.run()
    for content, kept in ((2, 1), (3, 3), (2, 3), (1, 1)):
        stream.target(target("a", "b", to="a b", b=content))
        stream.run()
        assert envoy.have[CDS]["b"].proof == f"b {kept}"
        assert bool(stream.delivery.standing().refused) == (content == 2)
    assert len(envoy.nacks) == 1


@BOTH
def test_a_refused_route_keeps_its_last_good_version_and_that_its_cluster(*, delta: bool):
    envoy = Envoy(delta=delta, bad={("http", 2)})
    stream = connect(envoy, target("old", to="old"))
    stream.run()
    stream.target(target("new", to="new", route=2))
    stream.run()
    stream.wait(PAST_DEADLINE)
    stream.run()
    assert [refusal.proof for refusal in stream.delivery.standing().refused] == ["http 2"]
    assert (proof(stream, RDS), names(stream, CDS)) == ("http 1", {"old", "new"})
    assert envoy.in_use().keys() <= envoy.have[CDS].keys()
    stream.target(target("new", to="new", route=3))
    stream.run()
    assert (envoy.have[RDS]["http"].proof, envoy.have[CDS].keys()) == ("http 3", {"new"})


@BOTH
def test_a_first_route_that_is_refused_is_not_shown_and_the_next_is(*, delta: bool):
    envoy = Envoy(delta=delta, bad={("http", 2)})
    stream = connect(envoy, target("a", to="a", route=2))
    stream.run()
    assert (names(stream, RDS), names(stream, LDS)) == (set(), {"http"})
    assert [refusal.proof for refusal in stream.delivery.standing().refused] == ["http 2"]
    stream.target(target("a", to="a", route=3))
    stream.run()
    assert envoy.have[RDS]["http"].proof == "http 3"


@BOTH
def test_a_refused_change_of_a_cluster_in_use_holds_no_route_back(*, delta: bool):
    envoy = Envoy(delta=delta, bad={("a", 2)})
    stream = connect(envoy, target("a", to="a"))
    stream.run()
    stream.target(target("a", to="a", route=2, a=2))
    stream.run()
    assert (envoy.have[RDS]["http"].proof, envoy.have[CDS]["a"].proof) == ("http 2", "a 1")
    assert not stream.delivery.standing().held_back


@BOTH
def test_endpoints_that_are_refused_hold_back_what_newly_needs_them(*, delta: bool):
    envoy = Envoy(delta=delta, bad={("b", 9)})
    stream = connect(envoy, target("a", to="a"))
    stream.run()
    wanted = target("a", "b", to="a b", route=2)
    bad = Target(
        clusters=wanted.clusters,
        endpoints={"a": wanted.endpoints["a"], "b": made("b", 9)},
        listeners=wanted.listeners,
        routes=wanted.routes,
        needs=wanted.needs,
    )
    stream.target(bad)
    stream.run()
    assert [each.clusters for each in stream.delivery.standing().held_back] == [("b",)]
    assert proof(stream, RDS) == "http 1"
    stream.target(wanted)
    stream.run()
    assert proof(stream, RDS) == "http 2"


@BOTH
@pytest.mark.parametrize("type_url", [CDS, EDS])
@pytest.mark.parametrize("number", [*range(1, 18), 31, 32, 33, 64])
def test_one_bad_resource_among_n_is_found_in_so_many_refusals(number: int, type_url: str, *, delta: bool):
    clusters = [f"c{index:02}" for index in range(number)]
    for bad in {clusters[0], clusters[number // 2], clusters[-1]}:
        envoy = Envoy(delta=delta, names_culprits=False, partial=False, bad={(bad, "bad")})
        stream = connect(envoy, target(*clusters, **({bad: "bad"} if type_url == CDS else {})))
        if type_url == EDS:
            stream.run()
            wanted = target(*clusters, endpoints=2)
            endpoints = {name: made(name, "bad" if name == bad else 2) for name in clusters}
            stream.target(
                Target(
                    clusters=wanted.clusters,
                    endpoints=endpoints,
                    listeners=wanted.listeners,
                    routes=wanted.routes,
                    needs={},
                )
            )
        stream.run()
        assert [refusal.name for refusal in stream.delivery.standing().refused] == [bad]
        assert len(envoy.nacks) <= ceil(log2(number)) + 1
        assert len(set(envoy.nacks)) == len(envoy.nacks)
        assert envoy.have[type_url].keys() == set(clusters) - ({bad} if type_url == CDS else set())
        fresh = {"1"} if type_url == CDS else {"2"}
        assert {str(each.proof).split()[1] for name, each in envoy.have[type_url].items() if name != bad} <= fresh


@BOTH
def test_several_bad_resources_are_found_one_after_the_other(*, delta: bool):
    clusters = [f"c{index:02}" for index in range(20)]
    bad = {"c03": "bad", "c04": "bad", "c19": "bad"}
    envoy = Envoy(delta=delta, names_culprits=False, partial=False, bad=set(bad.items()))
    stream = connect(envoy, target(*clusters, to="c00", **bad))
    stream.run()
    assert {refusal.name for refusal in stream.delivery.standing().refused} == set(bad)
    assert envoy.have[CDS].keys() == set(clusters) - set(bad)
    assert len(set(envoy.nacks)) == len(envoy.nacks) <= 3 * (ceil(log2(20)) + 1)


@BOTH
def test_a_search_is_not_given_up_for_what_was_never_offered(*, delta: bool):
    """As long as a server is busy, the proxy can not ask for what is tried. It would get once more what it refused."""
    envoy = Envoy(delta=delta, names_culprits=False, partial=False, bad={("b", 1)})
    stream = connect(envoy, target("a", "b", to="a"))
    stream.eager = False
    stream.read()
    stream.wait(PAST_DEADLINE)
    stream.eager = True
    stream.give()
    stream.run()
    assert len(envoy.nacks) == len(set(envoy.nacks)) == 1
    assert [each.name for each in stream.delivery.standing().refused] == ["b"]


@BOTH
def test_what_was_refused_in_company_is_searched_at_once_when_it_is_wanted_again(*, delta: bool):
    envoy = Envoy(delta=delta, names_culprits=False, partial=False, bad={("d", 1)})
    stream = connect(envoy, target("z", to="z"))
    stream.run()
    company = target("z", "a", "b", "c", "d", to="z")
    stream.target(company)
    assert stream.read() is not None
    assert len(envoy.nacks) == 1
    stream.target(target("z", to="z"))
    stream.run()
    stream.target(company)
    stream.run()
    assert [refusal.name for refusal in stream.delivery.standing().refused] == ["d"]
    assert len(set(envoy.nacks)) == len(envoy.nacks)


@BOTH
def test_a_search_with_what_is_not_asked_for_any_more_is_given_up(*, delta: bool):
    """Envoy refused endpoints of two clusters and said not which; then it lost interest in one."""
    envoy = Envoy(delta=delta, names_culprits=False, partial=False, bad={("b", 2)})
    stream = connect(envoy, target("a", "b", "c", to="c"))
    stream.run()
    stream.target(target("a", "b", "c", to="c", endpoints=2))
    del envoy.have[CDS]["a"]
    stream.eager = False
    stream.read()
    stream.eager = True
    stream.give()
    assert stream.delivery.next_deadline() == stream.clock.now() + DEADLINE
    stream.wait(PAST_DEADLINE)
    stream.run()
    assert [refusal.name for refusal in stream.delivery.standing().refused] == ["b"]
    assert envoy.have[EDS]["c"].proof == "c 2"


@BOTH
def test_a_refusal_of_nothing_new_is_told_and_blamed_on_nothing(*, delta: bool):
    envoy = Envoy(delta=delta)
    stream = connect(envoy, target("a", to="a"))
    stream.run()
    stream.target(target("a", "b", to="a"))
    envoy.bad.add(("a", 1))
    envoy.bad.add(("b", 1))
    stream.run()
    assert {each.name for each in stream.delivery.standing().refused} == {"b"}
    objection = stream.delivery.standing().objection
    assert objection == ("" if delta else "a: bad")


@BOTH
def test_a_client_that_says_nothing_is_pointed_at_nothing_new_and_loses_nothing_old(*, delta: bool):
    stream = settled(delta, target("v1", to="v1"))
    stream.target(target("v2", to="v2", route=2))
    deadline = stream.delivery.next_deadline()
    assert deadline == stream.clock.now() + DEADLINE
    stream.wait(PAST_DEADLINE)
    standing = stream.delivery.standing()
    assert (standing.phase, standing.is_late) == (Phase.WIDEN, True)
    assert stream.delivery.next_deadline() is None
    assert (names(stream, CDS), proof(stream, RDS)) == ({"v1", "v2"}, "http 1")
    stream.run()
    assert stream.envoy.have[RDS]["http"].proof == "http 2", "it is not forgotten"


@BOTH
def test_a_client_that_does_not_answer_a_route_keeps_what_the_old_one_needs_and_no_more(*, delta: bool):
    stream = settled(delta, target("v1", "idle", to="v1"))
    stream.target(target("v2", to="v2", route=2))
    while proof(stream, RDS) == "http 1":
        assert stream.read() is not None
    assert names(stream, CDS) == {"v1", "v2", "idle"}
    stream.wait(PAST_DEADLINE)
    assert stream.delivery.standing().phase is Phase.SWITCH
    assert [(each.type_url, each.clusters) for each in stream.delivery.standing().waiting] == [(RDS, ())]
    assert names(stream, CDS) == {"v1", "v2"}
    stream.run()
    assert stream.envoy.have[CDS].keys() == {"v2"}


@BOTH
def test_endless_changes_for_a_client_that_says_nothing_keep_little(*, delta: bool):
    stream = settled(delta, target("v1", to="v1"))
    for number in range(2, 40):
        stream.target(target("v1", to="v1", route=number))
    assert len(stream.delivery._ledgers[RDS].holdings["http"].versions) < 10
    stream.run()
    assert stream.envoy.have[RDS]["http"].proof == "http 39"


@BOTH
def test_a_newer_endpoint_version_than_the_one_accepted_holds_a_route_only_until_the_deadline(*, delta: bool):
    stream = settled(delta, target("a", to="a"))
    stream.target(target("a", "b", to="a b", route=2))
    stream.read()
    for content in range(2, 9):
        stream.target(target("a", "b", to="a b", route=2, endpoints=content))
        stream.read()
        assert proof(stream, RDS) == "http 1"
    stream.wait(PAST_DEADLINE)
    assert proof(stream, RDS) == "http 2"


@BOTH
def test_a_target_in_the_middle_of_another_never_takes_away_what_may_be_in_use(*, delta: bool):
    stream = settled(delta, target("v1", to="v1"))
    stream.target(target("v2", to="v2", route=2))
    while proof(stream, RDS) == "http 1":
        assert stream.read() is not None
    stream.target(target("v3", to="v3", route=3))
    assert (names(stream, CDS), proof(stream, RDS)) == ({"v1", "v2", "v3"}, "http 2")
    while stream.envoy.have[RDS]["http"].proof == "http 1":
        assert stream.read() is not None
    stream.run()
    assert (stream.envoy.have[RDS]["http"].proof, stream.envoy.have[CDS].keys()) == ("http 3", {"v3"})


@BOTH
def test_a_target_that_is_taken_back_before_anybody_answered_leaves_no_trace(*, delta: bool):
    stream = settled(delta, target("v1", to="v1"))
    stream.target(target("v2", to="v2", route=2))
    stream.target(target("v1", to="v1"))
    stream.run()
    assert (proof(stream, RDS), names(stream, CDS), stream.envoy.have[CDS].keys()) == ("http 1", {"v1"}, {"v1"})
    assert stream.delivery.standing().phase is Phase.STEADY


@BOTH
def test_a_cluster_that_comes_back_while_it_leaves_is_shown_once_it_is_gone(*, delta: bool):
    stream = settled(delta, target("a", "b", to="a b"))
    stream.target(target("a", to="a", route=2))
    while "b" in names(stream, CDS):
        assert stream.read() is not None
    stream.target(target("a", "b", to="a b", route=3))
    assert names(stream, CDS) == {"a"}
    stream.run()
    assert (stream.envoy.have[RDS]["http"].proof, stream.envoy.have[EDS].keys()) == ("http 3", {"a", "b"})


def tcp(*listeners: str, cluster: str = "a") -> Target:
    """Listeners that send to a cluster themselves, without endpoints or routes."""
    return Target(
        clusters={cluster: made(cluster, 1)},
        endpoints={},
        listeners={name: made(name, cluster, uses=[cluster]) for name in listeners},
        routes={},
        needs=dict.fromkeys(listeners, frozenset({cluster})),
    )


@BOTH
def test_a_listener_leaves_only_when_what_replaces_it_may_be_shown(*, delta: bool):
    stream = settled(delta, tcp("old"))
    stream.target(tcp("new", cluster="b"))
    assert (names(stream, LDS), names(stream, CDS)) == ({"old"}, {"a", "b"})
    stream.read()
    assert (names(stream, LDS), names(stream, CDS)) == ({"new"}, {"a", "b"}), (
        "the cluster waits for the end of its listener"
    )
    stream.run()
    assert (stream.envoy.have[LDS].keys(), stream.envoy.have[CDS].keys()) == ({"new"}, {"b"})


@BOTH
def test_a_cluster_whose_endpoints_do_not_come_from_here_any_more_keeps_them_until_it_is_accepted(*, delta: bool):
    stream = settled(delta, target("a", to="a"))
    wanted = target("a", to="a")
    fixed = Target(
        clusters={"a": made("a", "fixed")},
        endpoints={},
        listeners=wanted.listeners,
        routes=wanted.routes,
        needs=wanted.needs,
    )
    stream.target(fixed)
    assert names(stream, EDS) == {"a"}
    stream.run()
    stream.target(fixed)
    assert names(stream, EDS) == set()


def test_a_client_that_comes_back_with_everything_is_sent_nothing():
    wanted = target("a", "b", to="a b")
    first = settled(True, wanted)
    again = connect(first.envoy, wanted)
    assert (again.sent, again.delivery.standing().phase) == ([], Phase.STEADY)


def test_a_state_of_the_world_client_that_comes_back_with_everything_is_sent_only_what_it_may_have_dropped():
    """P4: with several names one version does not say what it still has."""
    wanted = target("a", "b", to="a b")
    first = settled(False, wanted)
    again = connect(first.envoy, wanted)
    assert set(types(again.run())) == {EDS, RDS}
    assert again.delivery.standing().phase is Phase.STEADY


def test_an_incremental_client_that_comes_back_with_an_old_configuration_keeps_its_clusters_until_its_routes_are_replaced():
    first = settled(True, target("v1", to="v1"))
    again = connect(first.envoy, target("v2", to="v2", route=2))
    removals = []
    while (response := again.read()) is not None:
        assert again.envoy.in_use().keys() <= again.envoy.have[CDS].keys()
        assert all(map(again.envoy.is_served, again.envoy.in_use()))
        removals += [name for name in getattr(response, "removed", ()) if response.type_url == CDS]
    assert removals == ["v1"]
    assert (again.envoy.have[RDS]["http"].proof, again.envoy.have[CDS].keys()) == ("http 2", {"v2"})


def test_an_incremental_client_keeps_a_listener_that_the_new_configuration_can_not_replace():
    first = settled(True, tcp("in"))
    first.envoy.bad.add(("b", 1))
    again = connect(first.envoy, tcp("in", cluster="b"))
    again.run()
    again.wait(PAST_DEADLINE)
    again.run()
    assert [each.clusters for each in again.delivery.standing().held_back] == [("b",)]
    assert again.envoy.in_use().keys() == again.envoy.have[CDS].keys() == {"a"}


class Hesitant(Envoy):
    """Its requests come one by one: the first is about clusters, the others are made when asked for."""

    def opening(self) -> list[Request | DeltaRequest]:
        first, *self.others = super().opening()
        return [first]


@pytest.mark.parametrize("kept", [(), ("old",), ("same",)])
def test_what_an_incremental_client_tells_late_of_its_listeners_is_not_lost(kept: tuple[str, ...]):
    first = settled(True, tcp("old", "same"))
    hesitant = Hesitant(delta=True, have=first.envoy.have)
    again = connect(hesitant, tcp(*kept))
    assert names(again, LDS) == set(kept), "its clusters are there, so nothing keeps its listeners from being shown"
    assert again.delivery.standing().phase is (Phase.SWITCH if kept else Phase.STEADY)
    for request in hesitant.others:
        again.request(request)
    assert hesitant.have[CDS].keys() == {"a"}
    again.run()
    assert (hesitant.have[LDS].keys(), again.delivery.standing().phase) == (set(kept), Phase.STEADY)


@BOTH
def test_an_answer_from_before_a_removal_does_not_count_for_what_comes_back_after_it(*, delta: bool):
    stream = settled(delta, target("a", to="a"))
    for _ in range(2):
        stream.target(target("a", "b", to="a b", route=2))
        stream.target(target("a", to="a"))
    stream.target(target("a", "b", to="a b", route=2))
    while stream.read() is not None:
        assert all(map(stream.envoy.is_served, stream.envoy.in_use()))
    assert stream.envoy.have[RDS]["http"].proof == "http 2"


def test_a_state_of_the_world_client_that_comes_back_with_an_old_configuration_gets_all_of_the_new_one():
    first = settled(False, target("v1", to="v1"))
    again = connect(first.envoy, target("v2", to="v2", route=2))
    again.run()
    assert (again.envoy.have[RDS]["http"].proof, again.envoy.have[CDS].keys()) == ("http 2", {"v2"})
    assert again.delivery.standing().phase is Phase.STEADY


def test_a_client_that_asks_for_clusters_by_its_routes_is_not_made_to_wait_for_them():
    clock, delivery = FakeClock(), Delivery(gated=False)
    delivery.set_target(target("a", to="a"), clock.now())
    assert [each.type_url for each in delivery.shown()] == [CDS, EDS, RDS, LDS]
    delivery.set_target(target("b", to="b", route=2), clock.now())
    shown: Mapping[str, set[str]] = {each.type_url: set(each.resources) for each in delivery.shown()}
    assert shown[CDS] == {"a", "b"}


def taken(delivery: Delivery, clock: FakeClock, *wanted: tuple[str, str]) -> None:
    """The client asked for these, by type and name, and accepts what is shown."""
    sent = {each.type_url: each.resources for each in delivery.shown()}
    for type_url, name in wanted:
        resource = sent[type_url].get(name)
        assert resource is not None
        delivery.on_event(Sent(type_url=type_url, names=(name,)), clock.now())
        version = resource.version
        delivery.on_event(Acked(type_url=type_url, name=name, version=version, proof=None), clock.now())


def clusters_of(delivery: Delivery) -> set[str]:
    return next(set(each.resources) for each in delivery.shown() if each.type_url == CDS)


@pytest.mark.parametrize("arrived", [True, False])
def test_a_client_that_asks_by_name_keeps_an_old_cluster_until_it_has_what_its_route_leads_to_and_there_is_news(
    arrived: bool,
):
    clock, delivery = FakeClock(), Delivery(gated=False)
    delivery.set_target(target("a", to="a"), clock.now())
    taken(delivery, clock, (LDS, "http"), (RDS, "http"), (CDS, "a"), (EDS, "a"))
    delivery.set_target(target("b", to="b", route=2), clock.now())
    assert (clusters_of(delivery), delivery.standing().phase) == ({"a", "b"}, Phase.SWITCH)
    taken(delivery, clock, (RDS, "http"), (CDS, "b"), *([(EDS, "b")] if arrived else []))
    assert (clusters_of(delivery), delivery.standing().phase) == ({"a", "b"}, Phase.STEADY)
    delivery.set_target(target("b", to="b", route=3), clock.now())
    assert clusters_of(delivery) == ({"b"} if arrived else {"a", "b"})
    taken(delivery, clock, (RDS, "http"))
    assert delivery.standing().phase is Phase.STEADY
    delivery.set_target(target("a", to="a", route=4), clock.now())
    assert "a" in clusters_of(delivery)


def test_what_a_client_that_asks_by_name_never_asked_for_is_not_waited_for_and_is_always_the_newest():
    clock, delivery = FakeClock(), Delivery(gated=False)
    for number in range(20):
        wanted = target(f"c{number}", to=f"c{number}", route=number)
        delivery.set_target(wanted, clock.now())
        assert clusters_of(delivery) - {f"c{number}"} <= {f"c{number - 1}"}
        assert delivery.standing().phase is Phase.STEADY
        (shown,) = (each.resources.get("http") for each in delivery.shown() if each.type_url == RDS)
        assert shown == wanted.routes["http"]
    delivery.set_target(target(), clock.now())
    assert delivery.standing().phase is Phase.STEADY


def test_a_route_that_nobody_asks_for_is_not_waited_for_after_the_deadline():
    stream = settled(True, tcp("in"))
    alone = tcp("in")
    extra = Target(
        clusters=alone.clusters,
        endpoints={},
        listeners=alone.listeners,
        routes={"unused": made("unused", 1, uses=["a"])},
        needs=alone.needs,
    )
    stream.target(extra)
    assert stream.delivery.standing().phase is Phase.SWITCH
    stream.wait(PAST_DEADLINE)
    assert stream.delivery.standing().phase is Phase.STEADY


def test_what_did_not_change_is_the_same_snapshot_and_other_types_are_nothing_to_it():
    stream = settled(True, target("a", to="a"))
    before = stream.delivery.shown()
    stream.delivery.on_event(Acked(type_url="x/Secret", name="a", version="1", proof=None), stream.clock.now())
    stream.target(target("a", to="a"))
    assert all(one is other for one, other in zip(before, stream.delivery.shown(), strict=True))
    stream.target(target("a", to="a", endpoints=2))
    assert [one is other for one, other in zip(before, stream.delivery.shown(), strict=True)] == [
        True,
        False,
        True,
        True,
    ]


def shown(stream: Stream, type_url: str) -> object:
    return next(each.resources for each in stream.delivery.shown() if each.type_url == type_url)


def test_what_is_shown_is_the_very_mapping_that_others_are_shown_who_want_the_same():
    wanted = target("a", "b", to="a b")
    streams = [settled(True, wanted) for _ in range(2)]
    for type_url in (CDS, EDS, LDS, RDS):
        assert {id(shown(stream, type_url)) for stream in streams} == {id(wanted.of(type_url))}
    changed = replace(wanted, endpoints={**wanted.endpoints, "a": made("a", 2)})
    for stream in streams:
        stream.target(changed)
        stream.run()
        assert shown(stream, EDS) is changed.endpoints
        assert stream.envoy.have[EDS] == changed.endpoints


class Unread(Edition):
    """Resources that nobody may go through."""

    def __iter__(self) -> Iterator[str]:
        raise AssertionError("all of it was looked at")

    def items(self) -> object:  # type: ignore[override]
        raise AssertionError("all of it was compared")


def test_endpoints_that_know_what_changed_are_not_compared():
    wanted = replace(target("a", "b", to="a b"), endpoints=Edition({name: made(name, 1) for name in "ab"}))
    stream = settled(True, wanted)
    before = stream.delivery.shown()
    changed = Unread({**wanted.endpoints, "a": made("a", 2)}, before=wanted.endpoints, changed={"a"})
    stream.target(replace(wanted, endpoints=changed))
    stream.run()
    assert stream.envoy.have[EDS]["a"] == made("a", 2)
    assert shown(stream, EDS) is changed
    assert [one is other for one, other in zip(before, stream.delivery.shown(), strict=True)] == [
        True,
        False,
        True,
        True,
    ]


def test_nothing_is_shown_without_a_target():
    delivery = Delivery()
    assert (delivery.shown(), delivery.next_deadline(), delivery.standing().phase) == ((), None, Phase.STEADY)


def test_a_target_whose_needs_are_not_in_it_is_refused():
    delivery = Delivery()
    with pytest.raises(InvalidInput, match="http needs clusters that are not there: b"):
        delivery.set_target(target("a", to="a b"), FakeClock().now())
