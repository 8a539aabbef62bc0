"""Views made of those before them, world after world, against views made from nothing."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import chain

from hypothesis import given, settings
from hypothesis import strategies as st

from meshca.bootstrap_spec import Transparent
from meshca.router.delivery.publishing import stages
from meshca.router.mesh.objects import (
    MTLSMode,
    Object,
    Parsed,
    PeerAuthentication,
    Protocol,
    Redirect,
    Source,
    Telemetry,
)
from meshca.router.mesh.state import State, following
from meshca.router.resources.outbound import Outbounds
from meshca.router.resources.proxy import Proxy
from meshca.router.resources.proxyless import Proxyless
from meshca.router.resources.view import View, view
from meshca.router.resources.world import World
from meshca.router.resources.worlds import world_of
from sds.xds.edition import differing
from tests.support.policies import allow
from tests.support.policies import rule as policy_rule
from tests.support.routing import OURS, account, endpoint, http, origin, rule, service, tcp, to, virtual

FRONTEND, API, OTHER = account("frontend"), account("api"), account("other")
V1, V2 = endpoint("10.0.0.1", version="v1"), endpoint("10.0.0.2", version="v2")
V3 = endpoint("10.0.0.3", version="v2", identity=OTHER)
DB = {"ports": (tcp(5432),), "line": 2}
OTEL = {"ports": (http(4317, "grpc", protocol=Protocol.GRPC),), "line": 3}
FRIENDS = allow(
    policy_rule(Source(principals=("mesh.local/ns/default/sa/frontend",))), namespace="default", selector={"app": "api"}
)


def telemetry(**said: object) -> Telemetry:
    return Telemetry(origin=origin("Telemetry", "t"), **said)  # type: ignore[arg-type]


def one(*objects: Object) -> tuple[Object, ...]:
    return objects


MESH: Mapping[str, tuple[tuple[Object, ...], ...]] = {
    "api": (
        one(service("api", V1)),
        one(service("api", V1, V2)),
        one(service("api", V1, V2, V3)),
        one(service("api", replace(V1, weight=3), V3)),
    ),
    "db": (one(), one(service("db", V2, **DB)), one(service("db", V1, V2, **DB)), one(service("db", V2, V3, **DB))),
    "otel": (one(service("otel", V3, **OTEL)), one(service("otel", V1, V3, **OTEL))),
    "rules": (
        one(),
        one(virtual("api", rule(to("api", "v2"), source_principals=(OTHER,)), rule(to("api")))),
        one(virtual("api", rule(to("api", "v2")))),
        one(virtual("api", rule(to("api")))),
        one(virtual("api", rule(redirect=Redirect(uri="/elsewhere")))),
    ),
    "spans": (one(), one(virtual("otel", rule(to("api"))))),
    "more": (
        one(),
        one(service("more", V1, line=4)),
        one(service("other", V1, line=4)),
        one(virtual("more", rule(to("api")))),
    ),
    "policy": (one(), one(FRIENDS)),
    "mode": (one(), one(PeerAuthentication(origin=origin("PeerAuthentication", "p"), mode=MTLSMode.PERMISSIVE))),
    "telemetry": (one(), one(telemetry(client_log=True)), one(telemetry(collector="otel", collector_port=4317))),
}
CHANGES = st.sampled_from([(part, kind) for part, kinds in MESH.items() for kind in kinds])
PROXIES = (
    Proxy(identity=FRONTEND),
    Proxy(identity=API, address="10.0.0.1", app_ports={80: 8080}),
    Proxy(identity=OTHER, transparent=Transparent()),
    Proxy(identity=FRONTEND, transparent=Transparent(passes_unknown=True)),
    Proxy(identity=API, is_grpc=True),
)
AWAY = st.sampled_from([set[int](), {0}, {0, 1, 2, 3}, {2, 4}])
"""Who does not look at a world."""


class Mesh:
    """Worlds, each following the one before it."""

    def __init__(self) -> None:
        self.parts = {part: kinds[0] for part, kinds in MESH.items()}
        self.state = State()
        self.world: World | None = None

    def change(self, part: str, kind: tuple[Object, ...]) -> World:
        self.parts[part] = kind
        self.state = following(self.state, Parsed(objects=tuple(chain.from_iterable(self.parts.values()))))
        made = world_of(self.state, OURS)
        self.world = made.following(self.world or made)
        return self.world


def seen(world: World, proxy: Proxy, outbounds: Outbounds, shapes: Proxyless, before: View | None = None) -> View:
    return shapes.view(world, proxy) if proxy.is_grpc else view(world, proxy, outbounds, before)


def anew(world: World, proxy: Proxy) -> View:
    outbounds = Outbounds()
    return seen(replace(world, made={}, proxyless={}), proxy, outbounds, Proxyless(outbounds))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(CHANGES, AWAY), max_size=12))
def test_a_view_that_follows_another_is_as_if_it_were_made_anew_whatever_changed(
    steps: list[tuple[tuple[str, tuple[Object, ...]], set[int]]],
):
    mesh, outbounds, views = Mesh(), Outbounds(), dict[int, View]()
    shapes, before = Proxyless(outbounds), None
    for change, away in [(("api", MESH["api"][0]), set[int]()), *steps]:
        for world in stages(before, mesh.change(*change), {API, OTHER}):
            for number in {*range(len(PROXIES))} - away:
                views[number] = seen(world, PROXIES[number], outbounds, shapes, views.get(number))
                assert views[number] == anew(world, PROXIES[number])
            before = world


def test_a_change_of_endpoints_makes_nothing_anew_but_these_and_these_once_for_all():
    mesh, outbounds = Mesh(), Outbounds()
    callers = Proxy(identity=FRONTEND), Proxy(identity=OTHER, address="10.0.0.9")
    mesh.change("db", (service("db", V2, **DB),))
    first = [view(mesh.change("api", MESH["api"][0]), each, outbounds) for each in callers]
    changed = mesh.change("api", MESH["api"][1])
    second = [view(changed, each, outbounds, before) for each, before in zip(callers, first, strict=True)]
    for before, after in zip(first, second, strict=True):
        assert after.clusters is before.clusters
        assert after.listeners is before.listeners
        assert after.routes is before.routes
        assert after.needs is before.needs
        assert after.endpoints["outbound|5432||db"] is before.endpoints["outbound|5432||db"]
        assert differing(before.endpoints, after.endpoints) is after.endpoints.changed  # type: ignore[attr-defined]
    assert second[0].endpoints is second[1].endpoints
    assert second[0].clusters is second[1].clusters


def test_a_change_of_what_an_identity_may_not_call_changes_nothing_for_it():
    mesh, outbounds, stranger = Mesh(), Outbounds(), Proxy(identity=OTHER)
    mesh.change("policy", (FRIENDS,))
    before = view(mesh.change("db", (service("db", V2, **DB),)), stranger, outbounds)
    after = view(mesh.change("api", MESH["api"][1]), stranger, outbounds, before)
    assert after.endpoints is before.endpoints
    assert after == before


def test_a_transparent_proxy_is_made_anew_where_a_tcp_service_is_somewhere_else():
    mesh, outbounds, caller = Mesh(), Outbounds(), Proxy(identity=FRONTEND, transparent=Transparent())
    first = view(mesh.change("db", MESH["db"][1]), caller, outbounds)
    world = mesh.change("db", MESH["db"][2])
    second = view(world, caller, outbounds, first)
    assert second.clusters is first.clusters
    assert second.listeners["outbound"] != first.listeners["outbound"]
    assert second == anew(world, caller)


def test_a_collector_to_which_no_route_leads_is_where_its_endpoints_are():
    mesh, outbounds, caller, before = Mesh(), Outbounds(), Proxy(identity=FRONTEND), None
    spans = {"telemetry": MESH["telemetry"][2], "spans": MESH["spans"][1]}
    for part, kind in [*spans.items(), *(("otel", MESH["otel"][number]) for number in (1, 0, 1))]:
        world = mesh.change(part, kind)
        before = view(world, caller, outbounds, before)
        assert before == anew(world, caller)


def test_a_host_differs_where_another_identity_may_still_be_in_use_there():
    mesh = Mesh()
    world = mesh.change("api", MESH["api"][0])
    assert not replace(world).differs(world, "api")
    known = replace(world, identities={**world.identities, "api": frozenset({API, OTHER})})
    assert known.differs(world, "api")
    assert not known.differs(world, "otel")


def test_a_callee_is_made_anew_where_its_own_service_changes_and_nowhere_else():
    mesh, outbounds, callee = Mesh(), Outbounds(), PROXIES[1]
    first = view(mesh.change("db", (service("db", V2, **DB),)), callee, outbounds)
    second = view(mesh.change("db", (service("db", V3, V2, **DB),)), callee, outbounds, first)
    third = view(mesh.change("api", MESH["api"][1]), callee, outbounds, second)
    assert "inbound|80||10.0.0.1" in third.listeners
    assert third.listeners == first.listeners
    assert third.listeners is not first.listeners
