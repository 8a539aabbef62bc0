from dataclasses import replace

from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from google.protobuf.any_pb2 import Any

from meshca.router.delivery.publishing import stages
from meshca.router.mesh.endpoints import Place
from meshca.router.mesh.objects import Object
from meshca.router.mesh.table import build
from meshca.router.resources.proxy import Proxy
from meshca.router.resources.view import view
from meshca.router.resources.world import World
from tests.support.routing import OURS, account, endpoint, rule, service, to, virtual

V1, V2 = endpoint("10.0.0.1", version="v1"), endpoint("10.0.0.2", version="v2", identity=account("api-v2"))
ONE, BOTH = service("api", V1), service("api", V1, V2)
NEW = Place(identity=account("api-v2"), address="10.0.0.2", port=80)
CONNECTED = frozenset({account("api"), account("api-v2")})


def world(*objects: Object) -> World:
    return World(own=OURS, table=build(objects))


def told(made: World) -> list[str]:
    """The addresses that callers know."""
    assignment = ClusterLoadAssignment()
    resource = view(made, Proxy(identity=account("web"))).endpoints["outbound|80||api"]
    assert Any.FromString(resource.body).Unpack(assignment)
    return [
        each.endpoint.address.socket_address.address
        for locality in assignment.endpoints
        for each in locality.lb_endpoints
    ]


def listens(made: World) -> bool:
    """Whether the workload that comes or goes takes calls."""
    return len(view(made, Proxy(identity=account("api-v2"), address="10.0.0.2")).listeners) > 1


def test_the_first_world_is_published_at_once():
    wanted = world(BOTH)
    assert list(stages(None, wanted, CONNECTED)) == [wanted]


def test_a_change_that_moves_no_endpoint_has_one_stage():
    wanted = world(BOTH, virtual("api", rule(to("api", "v1"))))
    assert list(stages(world(BOTH), wanted, CONNECTED)) == [wanted]


def test_a_callee_listens_before_anybody_is_told_of_it():
    wanted = world(BOTH)
    first, second, last = stages(world(ONE), wanted, CONNECTED)
    assert first.hidden == {NEW}
    assert (told(first), listens(first)) == (["10.0.0.1"], True)
    assert (told(second), listens(second)) == (["10.0.0.1", "10.0.0.2"], True)
    assert last is wanted


def test_a_callee_whose_proxy_is_not_there_is_not_waited_for():
    wanted = world(BOTH)
    assert list(stages(world(ONE), wanted, ())) == [wanted]


def test_a_callee_listens_for_as_long_as_anybody_is_told_of_it():
    wanted = world(ONE)
    first, last = stages(world(BOTH), wanted, CONNECTED)
    assert (told(first), listens(first)) == (["10.0.0.1"], True)
    assert last is wanted
    assert not listens(last)


def test_a_workload_is_looked_up_once_where_nothing_of_it_changes_and_as_it_is_and_was_where_something_does():
    still = service("still", V1, line=2)
    before = build([BOTH, still])
    stage = World(own=OURS, table=build([ONE, still], before=before), leaving=(before,))
    found = [(host.host, instance.address) for host, instance in stage.places_of(account("api"))]
    assert found == [("api", "10.0.0.1"), ("still", "10.0.0.1"), ("api", "10.0.0.1")]
    assert [instance.address for _, instance in stage.places_of(account("api-v2"))] == ["10.0.0.2"]


def test_what_comes_in_the_middle_goes_on_from_the_stage_that_was_reached():
    reached, *_ = stages(world(ONE), world(BOTH), CONNECTED)
    moved = world(service("api", V1, replace(V2, address="10.0.0.3")))
    first, *_ = stages(reached, moved, CONNECTED)
    assert first.hidden == {replace(NEW, address="10.0.0.3")}
    assert first.leaving == (reached.table, *reached.leaving)


def test_what_is_leaving_does_not_pile_up():
    made = world(ONE)
    for number in range(20):
        wanted = world(service("api", V1, replace(V2, address=f"10.0.1.{number}")))
        made, *_ = stages(made, wanted, CONNECTED)
    assert len(made.leaving) == 4
