from collections.abc import Sequence
from typing import Any

import pytest
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.trace.v3.opentelemetry_pb2 import OpenTelemetryConfig
from envoy.extensions.access_loggers.file.v3.file_pb2 import FileAccessLog
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from envoy.extensions.filters.network.tcp_proxy.v3.tcp_proxy_pb2 import TcpProxy
from envoy.extensions.tracers.opentelemetry.samplers.v3.parent_based_sampler_pb2 import ParentBasedSamplerConfig
from envoy.extensions.tracers.opentelemetry.samplers.v3.trace_id_ratio_based_sampler_pb2 import (
    TraceIdRatioBasedSamplerConfig,
)
from envoy.type.v3.percent_pb2 import FractionalPercent
from google.protobuf.any_pb2 import Any as AnyMessage

from meshca.router.mesh.objects import MILLION, Object, Parsed, Protocol, Source, Telemetry
from meshca.router.mesh.state import State, following
from meshca.router.mesh.table import ClusterKey, build
from meshca.router.resources.proxy import Proxy
from meshca.router.resources.telemetry import DEFAULT_SAMPLING, Telling, telling
from meshca.router.resources.view import View, view
from meshca.router.resources.worlds import world_of
from sds.xds.resource import Node
from spiffe.id import SpiffeID
from tests.support.policies import allow
from tests.support.policies import rule as policy_rule
from tests.support.routing import OURS, account, endpoint, http, origin, rule, service, tcp, to, virtual, workload

FRONTEND, API, OTEL = account("frontend"), account("api"), account("otel")
KEY = ClusterKey("otel", 4317)
LABELS = {"app": "api"}
COLLECTOR = service(
    "otel", endpoint("10.0.0.9", identity=OTEL), ports=(http(4317, "grpc", protocol=Protocol.GRPC), http(4318, "http"))
)
SERVICE = service("api", endpoint("10.0.0.1"))
DATABASE = service("db", endpoint("10.0.0.1"), ports=(tcp(5432),))
ROOT = "istio-system"
TO_OTEL = {"collector": "otel", "collector_port": 4317}


def telemetry(name: str = "t", namespace: str = "default", line: int = 1, **said: Any) -> Telemetry:
    return Telemetry(origin=origin("Telemetry", name, namespace=namespace, line=line), **said)


def told(*written: Telemetry, namespace: str = "default", labels: dict[str, str] | None = None) -> Telling:
    table = build((COLLECTOR, *written))
    assert table.problems == ()
    return telling(table.reporting, namespace, LABELS if labels is None else labels)


def state(*objects: Object) -> State:
    return following(State(), Parsed(objects=objects))


def seen(proxy: Proxy, *objects: Object) -> View:
    made = state(*objects)
    assert made.problems == ()
    return view(world_of(made, OURS), proxy)


def filters(made: View, name: str) -> Sequence[Any]:
    listener = Listener()
    assert AnyMessage.FromString(made.listeners[name].body).Unpack(listener)
    return [chain.filters[-1].typed_config for chain in listener.filter_chains]


def manager(made: View, name: str) -> HttpConnectionManager:
    found = HttpConnectionManager()
    assert filters(made, name)[0].Unpack(found)
    return found


def sampling(config: OpenTelemetryConfig) -> int:
    outer, root = ParentBasedSamplerConfig(), TraceIdRatioBasedSamplerConfig()
    assert config.sampler.typed_config.Unpack(outer)
    assert outer.wrapped_sampler.typed_config.Unpack(root)
    assert root.sampling_percentage.denominator == FractionalPercent.MILLION
    return root.sampling_percentage.numerator


def inbound(made: View) -> str:
    return next(name for name in made.listeners if name.startswith("inbound"))


# What holds where.


def test_nothing_written_is_nothing_told():
    assert told() == Telling()


def test_the_workloads_own_says_more_than_its_namespaces_and_that_more_than_the_meshs_field_by_field():
    mesh = telemetry("a", ROOT, **TO_OTEL, sampling=1, server_log=True, tags=(("a", "b"),))
    namespaces = telemetry("b", sampling=2, client_log=True)
    own = telemetry("c", selector=LABELS, sampling=3, server_log=False)
    found = told(own, namespaces, mesh)
    assert (found.collector, found.sampling, found.tags) == (KEY, 3, (("a", "b"),))
    assert (found.client_log, found.server_log) == (True, False)
    assert [each.name for each in found.origins] == ["a", "b", "c"]
    assert told(own, namespaces, mesh, labels={}).sampling == 2
    assert told(own, namespaces, mesh, namespace="other").sampling == 1


def test_of_several_alike_the_first_holds():
    later, first = telemetry("a", line=9, client_log=False), telemetry("b", line=2, client_log=True)
    assert told(later, first).client_log


def test_spans_are_one_in_a_hundred_unless_said_otherwise_and_none_where_they_are_switched_off():
    assert told(telemetry(**TO_OTEL)).sampling == DEFAULT_SAMPLING == MILLION // 100
    assert told(telemetry("a", ROOT, **TO_OTEL), telemetry("b", sampling=0)).sampling == 0
    assert told(telemetry("a", ROOT, **TO_OTEL), telemetry("b", tracing=False)).collector is None
    assert told(telemetry("a", ROOT, **TO_OTEL, tracing=False), telemetry("b", tracing=True)).collector == KEY


# Where spans go.


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (
            {"collector": "nobody"},
            "there is no service nobody.default.svc.cluster.local; a ServiceEntry with `hosts: [nobody]` would do, too",
        ),
        ({"collector": "otel"}, "otel has ports 4317, 4318: say which by otel:PORT"),
        ({"collector": "otel", "collector_port": 1}, "otel has no port 1, only 4317, 4318"),
        (
            {"collector": "otel", "collector_port": 4318},
            "spans go by OTLP over gRPC, but port 4318 of otel speaks HTTP",
        ),
    ],
)
def test_a_provider_must_be_a_service_that_takes_spans(said: dict[str, Any], text: str):
    made = state(COLLECTOR, telemetry(**said, client_log=True))
    assert [str(each) for each in made.problems] == [
        f"mesh.yaml:1: Telemetry default/t: spec.tracing[0].providers[0].name: {text}"
    ]
    assert made.table.reporting == ()


def test_a_collector_that_is_gone_keeps_the_last_good_telemetry_only_as_long_as_it_holds():
    before = state(COLLECTOR, telemetry(**TO_OTEL))
    changed = telemetry(collector="nobody", sampling=5)
    after = following(before, Parsed(objects=(COLLECTOR, changed)))
    assert after.table.reporting == before.table.reporting
    assert len(after.problems) == 1


def test_a_sampling_rate_without_a_provider_is_warned_of():
    warned = state(COLLECTOR, telemetry(sampling=5)).warnings
    assert [each.text for each in warned] == ["there are no spans: no Telemetry names a service as provider for them"]
    assert state(COLLECTOR, telemetry(sampling=5), telemetry("mesh", ROOT, **TO_OTEL)).warnings == ()


# What proxies are told.


def test_without_telemetry_a_proxy_logs_and_traces_nothing():
    made = seen(Proxy(identity=API, address="10.0.0.1"), SERVICE)
    for name in ("outbound", inbound(made)):
        found = manager(made, name)
        assert not found.access_log
        assert not found.HasField("tracing")


def test_spans_go_to_the_collectors_cluster_in_the_share_that_was_asked_for_under_the_proxys_own_identity():
    made = seen(Proxy(identity=API, address="10.0.0.1"), SERVICE, COLLECTOR, telemetry(**TO_OTEL, sampling=2500))
    assert KEY.name in made.clusters
    for name in ("outbound", inbound(made)):
        tracing = manager(made, name).tracing
        exported = OpenTelemetryConfig()
        assert tracing.provider.typed_config.Unpack(exported)
        assert exported.grpc_service.envoy_grpc.cluster_name == KEY.name
        assert exported.service_name == str(API)
        assert sampling(exported) == 2500
        assert KEY.name in made.needs[name]
        assert [each.name for each in made.listeners[name].proof] == ["t"]


def test_a_collector_that_no_route_leads_to_is_there_all_the_same():
    elsewhere = virtual("otel", rule(to("api")))
    made = seen(Proxy(identity=FRONTEND), SERVICE, COLLECTOR, elsewhere, telemetry(**TO_OTEL))
    assert KEY.name in made.clusters
    assert KEY.name in made.endpoints


def test_tags_of_users_do_not_speak_for_the_peer():
    made = seen(
        Proxy(identity=API, address="10.0.0.1"),
        SERVICE,
        COLLECTOR,
        telemetry(**TO_OTEL, tags=(("team", "a"), ("peer_spiffe_id", "me"))),
    )
    tags = {each.tag: each.value for each in manager(made, inbound(made)).tracing.custom_tags}
    assert tags["team"] == "a"
    assert tags["peer_spiffe_id"] == "%DOWNSTREAM_PEER_URI_SAN%"
    assert tags["peer_serial"] == "%DOWNSTREAM_PEER_SERIAL%"


def test_who_may_not_call_the_collector_traces_nothing_and_the_collector_does_not_trace_itself():
    objects = (SERVICE, COLLECTOR, telemetry("mesh", ROOT, **TO_OTEL))
    keeps_out = allow(policy_rule(Source(principals=(f"{OURS}/ns/default/sa/frontend",))), namespace="default")
    assert manager(seen(Proxy(identity=FRONTEND), *objects, keeps_out), "outbound").HasField("tracing")
    stranger = seen(Proxy(identity=API), *objects, keeps_out)
    assert not manager(stranger, "outbound").HasField("tracing")
    assert KEY.name not in stranger.clusters
    own = seen(Proxy(identity=OTEL, address="10.0.0.9"), *objects)
    assert not manager(own, inbound(own)).HasField("tracing")


def test_a_log_is_kept_by_the_side_that_was_asked_into_the_proxys_own_file():
    proxy = Proxy(identity=API, address="10.0.0.1", log_path="/var/log/mesh.json")
    made = seen(proxy, SERVICE, telemetry(server_log=True))
    assert not manager(made, "outbound").access_log
    (log,) = manager(made, inbound(made)).access_log
    file = FileAccessLog()
    assert log.typed_config.Unpack(file)
    assert file.path == "/var/log/mesh.json"
    assert file.log_format.json_format["peer_serial"] == "%DOWNSTREAM_PEER_SERIAL%"


def test_a_log_goes_to_standard_output_where_no_file_is_named_and_tcp_connections_have_one_too():
    made = seen(Proxy(identity=API, address="10.0.0.1"), DATABASE, telemetry(client_log=True, server_log=True))
    for name in (inbound(made), "127.0.0.1_5432"):
        proxy = TcpProxy()
        assert filters(made, name)[0].Unpack(proxy)
        assert [each.name for each in proxy.access_log] == ["envoy.access_loggers.stdout"]


def test_metrics_that_name_the_peer_are_there_if_asked_for():
    made = seen(Proxy(identity=API, address="10.0.0.1"), SERVICE, telemetry(metrics=True))
    assert [each.name for each in manager(made, inbound(made)).access_log] == ["envoy.access_loggers.stats"]


def test_a_caller_that_is_in_no_service_is_known_by_its_workload_entry_else_by_its_identity():
    job = workload("job", endpoint("10.0.0.7", identity=FRONTEND), namespace="batch")
    theirs = telemetry("a", "batch", selector=LABELS, client_log=True)
    assert manager(seen(Proxy(identity=FRONTEND), job, theirs), "outbound").access_log
    assert not manager(seen(Proxy(identity=FRONTEND), theirs), "outbound").access_log
    assert manager(seen(Proxy(identity=FRONTEND), telemetry(client_log=True)), "outbound").access_log
    assert not manager(seen(Proxy(identity=SpiffeID(OURS, "/x")), telemetry(client_log=True)), "outbound").access_log


def test_a_proxy_says_where_its_log_goes():
    node = Node(texts={"meshca.access-log": "/var/log/mesh.json"})
    assert Proxy.read(API, node).log_path == "/var/log/mesh.json"


def test_no_metric_of_ours_ends_its_label_at_a_dot():
    assert (
        ClusterKey("api.default.svc.cluster.local", 80, "v1").stat_name
        == "outbound|80|v1|api_default_svc_cluster_local"
    )


def test_a_changed_telemetry_and_a_changed_workload_take_effect_in_the_next_world():
    worlds = [
        world_of(state(*objects), OURS)
        for objects in (
            (SERVICE,),
            (SERVICE, telemetry(client_log=True, selector={"app": "web"})),
            (
                service("api", endpoint("10.0.0.1", labels={"app": "web"})),
                telemetry(client_log=True, selector={"app": "web"}),
            ),
        )
    ]
    logs, before = [], worlds[0]
    for world in worlds:
        before = world.following(before)
        logs.append(bool(manager(view(before, Proxy(identity=API)), "outbound").access_log))
    assert logs == [False, False, True]
    last = world_of(state(SERVICE, telemetry(client_log=True)), OURS).following(worlds[0])
    assert manager(view(last, Proxy(identity=API)), "outbound").access_log
