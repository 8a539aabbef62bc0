from meshca.router.mesh.objects import Object, Parsed, Problem
from meshca.router.mesh.state import State, following
from meshca.router.mesh.table import ClusterKey
from tests.support.routing import endpoint, rule, service, to, virtual

API = service("api", endpoint("10.0.0.1", version="v1"))
CANARY = virtual("api", rule(to("api", "v1")))
BROKEN = Problem(file="mesh.yaml", line=5, label="VirtualService default/api", field="spec.http", text="is wrong")
UNREADABLE = Problem(file="mesh.yaml", line=1, label="", field="", text="can not be read")


def read(*objects: Object, problems: tuple[Problem, ...] = ()) -> Parsed:
    return Parsed(objects=objects, problems=problems)


def clusters(state: State) -> list[ClusterKey]:
    return [key for host in state.table.hosts.values() for route in host.routes for key in route.clusters]


GOOD = following(State(), read(API, CANARY))


def test_what_is_good_is_served():
    assert clusters(GOOD) == [ClusterKey("api", 80, "v1")]
    assert set(GOOD.good) == {"ServiceEntry default/api", "VirtualService default/api"}
    assert GOOD.problems == ()


def test_a_broken_object_keeps_its_last_good_version_and_is_told():
    after = following(GOOD, read(API, problems=(BROKEN,)))
    assert clusters(after) == clusters(GOOD)
    assert after.problems == (BROKEN,)


def test_a_file_that_can_not_be_read_keeps_all_that_it_said():
    after = following(GOOD, read(problems=(UNREADABLE,)))
    assert after.good == GOOD.good
    assert after.problems == (UNREADABLE,)


def test_what_may_have_moved_to_a_file_that_can_not_be_read_is_not_gone():
    elsewhere = Problem(file="renamed.yaml", line=3, label="", field="", text="this is not YAML")
    gone = Problem(file="/etc/mesh", line=1, label="", field="", text="can not be read: no such directory")
    assert following(GOOD, read(API, problems=(elsewhere,))).good == GOOD.good
    assert following(GOOD, read(problems=(gone,))).good == GOOD.good


def test_an_object_that_nobody_wrote_any_more_is_gone():
    after = following(GOOD, read(API))
    assert clusters(after) == []
    assert set(after.good) == {"ServiceEntry default/api"}


def test_a_reference_that_leads_nowhere_now_keeps_the_version_whose_did():
    after = following(GOOD, read(API, virtual("api", rule(to("api", "v9")))))
    assert clusters(after) == clusters(GOOD)
    assert ["v9" in problem.text for problem in after.problems] == [True]
    assert following(after, read(API, CANARY)).problems == ()


def test_a_reference_that_never_led_anywhere_takes_no_part():
    after = following(State(), read(API, virtual("api", rule(to("api", "v9")))))
    assert clusters(after) == []
    assert set(after.good) == {"ServiceEntry default/api"}


def test_where_not_even_the_last_good_version_holds_any_more_nothing_is_served():
    after = following(GOOD, read(CANARY))
    assert clusters(after) == []
    assert after.good == {}
    assert [problem.label for problem in after.problems] == ["VirtualService default/api"]


def test_a_new_service_waits_while_a_file_can_not_be_read_that_may_hold_its_policies():
    other = service("other", endpoint("10.0.0.2"), line=9)
    blind = following(GOOD, read(API, CANARY, other, problems=(UNREADABLE,)))
    assert set(blind.table.services) == {"api"}
    assert [problem.label for problem in blind.problems] == ["", "ServiceEntry default/other"]
    assert set(following(blind, read(API, CANARY, other)).table.services) == {"api", "other"}
