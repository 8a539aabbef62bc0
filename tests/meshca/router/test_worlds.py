import pytest
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from google.protobuf.any_pb2 import Any

from meshca.router.directory import Files
from meshca.router.mesh.state import State, following
from meshca.router.parsing.kinds import Parser
from meshca.router.resources.outbound import Outbounds
from meshca.router.resources.proxy import Proxy
from meshca.router.resources.proxyless import Proxyless
from meshca.router.resources.view import view
from meshca.router.resources.world import visible
from meshca.router.resources.worlds import understood, world_of
from tests.support.routing import OURS, account

SERVICE = """\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: api, namespace: shop}
spec:
  hosts: [api]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}]
  endpoints: [{address: 10.0.0.1, serviceAccount: api}]
---
"""
POLICY = """\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: METADATA
spec: {rules: [{from: [{source: {principals: ["mesh.local/ns/default/sa/friend"]}}]}]}
"""


def is_open(metadata: str) -> bool:
    """Whether a stranger may call the service under a policy with this metadata."""
    texts = {"mesh.yaml": SERVICE + POLICY.replace("METADATA", metadata)}
    world = world_of(following(State(), Parser(OURS).parse(texts)), OURS)
    return visible(world, world.table.services["api"], account("stranger"))


@pytest.mark.parametrize(
    "metadata",
    [
        "{namespace: shop}",
        "{name: [guard], namespace: shop}",
        "{name: guard, namespace: Shop_1}",
        "[guard]",
        "{name: guard, namespace: shop, labels: 5}",
    ],
)
def test_a_policy_of_which_nobody_knows_where_it_belongs_opens_nothing(metadata: str):
    assert not is_open(metadata)


def test_a_policy_that_is_broken_closes_its_own_namespace_only():
    assert is_open("{name: guard, namespace: elsewhere, labels: 5}")


TWO = SERVICE.replace(
    "endpoints: [{address: 10.0.0.1, serviceAccount: api}]",
    """endpoints:
  - {address: 10.0.0.1, ports: {http: 8443}, serviceAccount: api, labels: {version: v1}}
  - {address: 10.0.0.2, ports: {http: 8443}, serviceAccount: api, labels: {version: v2}}
  - {address: 10.0.0.3, ports: {http: 8443}, serviceAccount: api, labels: {version: v2}}""",
)
GUARDS = "---\n".join(
    POLICY.replace("METADATA", f"{{name: of-{version}, namespace: shop}}")
    .replace("sa/friend", f"sa/friend-of-{version}")
    .replace("spec: {", f"spec: {{selector: {{matchLabels: {{version: {version}}}}}, ")
    for version in ("v1", "v2")
)
LAX = """\
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: lax, namespace: shop}
spec: {selector: {matchLabels: {version: v1}}, mtls: {mode: PERMISSIVE}}
"""


def way_in(address: str, *, is_grpc: bool = False) -> Listener:
    """How the workload is called whose proxy says that it is at this address, or does not say."""
    world = world_of(following(State(), Parser(OURS).parse({"mesh.yaml": TWO + GUARDS + LAX})), OURS)
    proxy = Proxy(identity=account("api", "shop"), address=address, app_ports={8443: 8080}, is_grpc=is_grpc)
    made = Proxyless(Outbounds()).view(world, proxy) if is_grpc else view(world, proxy)
    name = "meshca/grpc-server/0.0.0.0:8443" if is_grpc else f"inbound|8443||{address or '0.0.0.0'}"
    listener = Listener()
    assert Any.FromString(made.listeners[name].body).Unpack(listener)
    return listener


def filters_of(listener: Listener) -> list[tuple[str, set[str]]]:
    """The names of the filters of its first chain, and whose friends each of them is about."""
    manager = HttpConnectionManager()
    assert listener.filter_chains[0].filters[0].typed_config.Unpack(manager)
    return [
        (each.name, {version for version in ("v1", "v2") if f"friend-of-{version}".encode() in each.typed_config.value})
        for each in manager.http_filters
    ]


@pytest.mark.parametrize("is_grpc", [False, True])
def test_where_a_proxy_does_not_say_which_place_it_is_the_policies_of_all_of_them_hold(is_grpc: bool):
    names, versions = zip(*filters_of(way_in("", is_grpc=is_grpc)), strict=True)
    assert versions == (set(), {"v1"}, {"v2"}, set())
    assert len(set(names)) == len(names)
    assert len(way_in("", is_grpc=is_grpc).filter_chains) == 1  # nor is plaintext taken, since not all of them take it


@pytest.mark.parametrize(("address", "version", "chains"), [("10.0.0.1", "v1", 2), ("10.0.0.2", "v2", 1)])
def test_where_it_says_which_only_that_ones_hold(address: str, version: str, chains: int):
    assert [about for _, about in filters_of(way_in(address))] == [set(), {version}, set()]
    assert len(way_in(address).filter_chains) == chains


@pytest.mark.parametrize("written", ["kind: AuthorizationPolicies", "kind: AuthorisationPolicy", "# no kind"])
def test_a_slip_in_the_kind_of_a_policy_opens_nothing(written: str):
    texts = {
        "mesh.yaml": SERVICE
        + POLICY.replace("METADATA", "{name: g, namespace: shop}").replace("kind: AuthorizationPolicy", written)
    }
    world = world_of(following(State(), Parser(OURS).parse(texts)), OURS)
    assert not visible(world, world.table.services["api"], account("stranger"))


def test_a_policy_whose_selector_nobody_fulfils_is_warned_of():
    policy = POLICY.replace("METADATA", "{name: guard, namespace: shop}")
    slip = policy.replace("spec: {", "spec: {selector: {matchLabels: {app: slip}}, ")
    state = understood(State(), Files(texts={"a.yaml": SERVICE + slip}), Parser(OURS), "cluster.local")
    assert [(each.label, each.field) for each in state.warnings] == [
        ("AuthorizationPolicy shop/guard", "spec.selector")
    ]
    assert understood(State(), Files(texts={"a.yaml": SERVICE + policy}), Parser(OURS), "cluster.local").warnings == ()


def test_two_policies_of_one_name_that_differ_open_nothing_and_two_that_do_not_are_one():
    policy = POLICY.replace("METADATA", "{name: guard, namespace: shop}")
    texts = {
        "a.yaml": SERVICE + policy,
        "b.yaml": SERVICE.replace("name: api", "name: other").replace("[api]", "[other]")
        + policy.replace("friend", "stranger"),
    }
    world = world_of(following(State(), Parser(OURS).parse(texts)), OURS)
    for caller in ("friend", "stranger"):
        assert not visible(world, world.table.services["api"], account(caller))
    same = world_of(following(State(), Parser(OURS).parse({"a.yaml": SERVICE + policy + "---\n" + policy})), OURS)
    assert visible(same, same.table.services["api"], account("friend"))
