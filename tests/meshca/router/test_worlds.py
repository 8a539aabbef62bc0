import pytest
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
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
from meshca.router.resources.view import View, view
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


def way_in(address: str, *, is_grpc: bool = False, lax: str = LAX) -> tuple[Listener, list[set[str]]]:
    """How the workload is called whose proxy says that it is at this address, or does not say, and whose friends each policy is about."""
    world = world_of(following(State(), Parser(OURS).parse({"mesh.yaml": TWO + GUARDS + lax})), OURS)
    proxy = Proxy(identity=account("api", "shop"), address=address, app_ports={8443: 8080}, is_grpc=is_grpc)
    made = Proxyless(Outbounds()).view(world, proxy) if is_grpc else view(world, proxy)
    listener, manager, routes = Listener(), HttpConnectionManager(), RouteConfiguration()
    name = "meshca/grpc-server/0.0.0.0:8443" if is_grpc else f"inbound|8443||{address or '0.0.0.0'}"
    assert Any.FromString(made.listeners[name].body).Unpack(listener)
    assert listener.filter_chains[0].filters[0].typed_config.Unpack(manager)
    *guards, _ = manager.http_filters
    assert len({each.name for each in guards}) == len(guards)
    said = {each.name: each.typed_config for each in guards}
    if not is_grpc:
        assert Any.FromString(made.routes[manager.rds.route_config_name].body).Unpack(routes)
        said |= routes.typed_per_filter_config
    about = [
        {version for version in ("v1", "v2") if f"friend-of-{version}".encode() in said[each.name].value}
        for each in guards
    ]
    return listener, [each for each in about if each]


@pytest.mark.parametrize("is_grpc", [False, True])
def test_where_a_proxy_does_not_say_which_place_it_is_the_policies_of_all_of_them_hold(is_grpc: bool):
    listener, versions = way_in("", is_grpc=is_grpc)
    assert versions == [{"v1"}, {"v2"}]
    assert len(listener.filter_chains) == 1  # nor is plaintext taken, since not all of them take it


@pytest.mark.parametrize(("address", "version", "chains"), [("10.0.0.1", "v1", 2), ("10.0.0.2", "v2", 1)])
def test_where_it_says_which_only_that_ones_hold(address: str, version: str, chains: int):
    listener, versions = way_in(address)
    assert versions == [{version}]
    assert len(listener.filter_chains) == chains


def test_a_change_of_policies_or_of_who_is_called_there_changes_the_routes_of_http_and_no_listener():
    """A listener that changes lets open connections go on as they were."""

    def seen(text: str) -> View:
        world = world_of(following(State(), Parser(OURS).parse({"mesh.yaml": text})), OURS)
        return view(world, Proxy(identity=account("api", "shop"), app_ports={8443: 8080}))

    def names(made: View) -> list[str]:
        return [name for name in made.routes if name.startswith("inbound")]

    before, after = seen(TWO), seen(TWO + GUARDS)
    (name,) = names(before)
    assert names(after) == [name]
    assert before.listeners == after.listeners
    assert before.routes[name] != after.routes[name]
    assert [each.name for each in after.routes[name].proof] == ["of-v1", "of-v2"]
    assert after.needs[name] == {"inbound|8443||"}
    alike = seen(TWO.replace("version: v2", "version: v1") + GUARDS)
    assert [each.name for each in alike.routes[name].proof] == ["of-v1"]
    assert alike.listeners == before.listeners


@pytest.mark.parametrize(
    ("port", "chains", "warned"), [(8443, 2, []), (80, 1, ["spec.portLevelMtls.80"])], ids=["endpoint's", "service's"]
)
def test_the_mode_of_a_port_is_of_the_endpoints_port_and_one_that_is_of_none_is_warned_of(
    port: int, chains: int, warned: list[str]
):
    lax = LAX.replace("mtls: {mode: PERMISSIVE}", f"portLevelMtls: {{{port}: {{mode: PERMISSIVE}}}}")
    listener, _ = way_in("10.0.0.1", lax=lax)
    assert len(listener.filter_chains) == chains
    state = understood(State(), Files(texts={"a.yaml": TWO + lax}), Parser(OURS), "cluster.local")
    assert [(each.label, each.field) for each in state.warnings] == [("PeerAuthentication shop/lax", f) for f in warned]
    assert all("is called on 80, only on 8443: it is the endpoint's port" in each.text for each in state.warnings)


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


PLAIN = """\
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: plain, namespace: shop}
spec: {mtls: {mode: MODE}}
"""
BY_CALLERS = """\
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: plain, namespace: shop}
spec: {host: api, trafficPolicy: {tls: {mode: TLS}}}
"""


@pytest.mark.parametrize(
    ("text", "warned"),
    [
        (SERVICE + PLAIN.replace("MODE", "DISABLE"), True),
        (SERVICE + PLAIN.replace("MODE", "PERMISSIVE"), False),
        (SERVICE + PLAIN.replace("MODE", "DISABLE") + BY_CALLERS.replace("TLS", "ISTIO_MUTUAL"), True),
        (SERVICE + PLAIN.replace("MODE", "DISABLE") + BY_CALLERS.replace("TLS", "DISABLE"), False),
        (SERVICE.replace("MESH_INTERNAL", "MESH_EXTERNAL") + PLAIN.replace("MODE", "DISABLE"), False),
    ],
    ids=["deaf", "both", "certificates all the same", "plaintext on both sides", "outside"],
)
def test_a_service_that_takes_plaintext_only_while_its_callers_show_certificates_is_warned_of(
    text: str,
    warned: bool,
):
    """Open connections go on, so it would look well until they end."""
    state = understood(State(), Files(texts={"a.yaml": text}), Parser(OURS), "cluster.local")
    assert ["takes plaintext only on 80" in each.text for each in state.warnings] == [True] * warned


@pytest.mark.parametrize(("name", "warned"), [("http", 0), ("htpt", 1)])
def test_a_number_for_a_port_that_no_service_has_is_warned_of(name: str, warned: int):
    workload = f"""\
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: api, namespace: shop}}
spec: {{address: 10.0.0.1, ports: {{{name}: 8443}}, labels: {{app: api}}, serviceAccount: api}}
"""
    chosen = "workloadSelector: {labels: {app: api}}"
    texts = {"a.yaml": SERVICE.replace("endpoints: [{address: 10.0.0.1, serviceAccount: api}]", chosen) + workload}
    warnings = understood(State(), Files(texts=texts), Parser(OURS), "cluster.local").warnings
    assert [(each.label, each.field) for each in warnings] == [("WorkloadEntry shop/api", "spec.ports.htpt")] * warned


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
