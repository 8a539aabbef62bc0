"""What real Envoys tell of requests when Telemetry asks them to: who the peers were, in logs, metrics and spans, at no request's cost."""

import asyncio
import json
import math
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from meshca.demo.envoys import running_envoy, stop
from meshca.demo.mesh import free_port
from tests.support.collector import Collector, Span, running_collector
from tests.support.command import meshca
from tests.support.routed import RoutedMesh, routed_mesh, sidecar
from tests.support.wait import until

pytestmark = pytest.mark.envoy

ACCOUNTS = "spiffe://mesh.local/ns/default/sa/"
FRONTEND, API = f"{ACCOUNTS}frontend", f"{ACCOUNTS}api-v1"
ONE = {"api-v1": "v1"}
REQUESTS = 2000
ON, OFF, LAST = "a" * 32, "b" * 32, "f" * 16
LOGGED = """\
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: mesh, namespace: istio-system}
spec:
  accessLogging: [{}]
"""
ONE_REQUEST_EACH = """\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: api-server}
spec: {host: api-server, trafficPolicy: {connectionPool: {http: {maxRequestsPerConnection: 1}}}}
"""
COLLECTOR = """\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: otel}}
spec:
  hosts: [otel]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{{number: 4317, name: grpc, protocol: GRPC}}]
  endpoints: [{{address: 127.0.0.1, ports: {{grpc: {port}}}}}]
"""


def traced(percent: float) -> str:
    return f"""\
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {{name: traces}}
spec:
  tracing:
  - providers: [{{name: otel}}]
    randomSamplingPercentage: {percent}
    customTags: {{team: {{literal: {{value: 100% ours}}}}}}
"""


async def test_a_log_line_names_the_peer_and_a_serial_number_that_leads_to_the_record_of_its_issuance(tmp_path: Path):
    async with routed_mesh(tmp_path, ONE, ("telemetry.yaml", LOGGED), ("connections.yaml", ONE_REQUEST_EACH)) as mesh:
        assert (await mesh.ask(8, path="/public?token=secret")).bad == {}
        await until(lambda: len(mesh.log("api-v1")) == len(mesh.log("frontend")) == 8)
        inbound, outbound = mesh.log("api-v1")[0], mesh.log("frontend")[0]
        assert (inbound["spiffe_id"], inbound["peer_spiffe_id"]) == (API, FRONTEND)
        assert (outbound["spiffe_id"], outbound["peer_spiffe_id"]) == (FRONTEND, API)
        assert (inbound["method"], inbound["path"], inbound["response_code"]) == ("GET", "/public", 200)
        assert outbound["upstream_cluster"] == "outbound|80||api-server"
        assert {each["request_id"] for each in mesh.log("api-v1")} == {
            each["request_id"] for each in mesh.log("frontend")
        }
        assert "secret" not in json.dumps([*mesh.log("api-v1"), *mesh.log("frontend")])
        find = ("audit", "find", "--serial", inbound["peer_serial"], "--admin-socket", mesh.server.admin_socket)
        found = await meshca(*find, "--output", "json")
        assert found.code == 0, found
        records = json.loads(found.out)["records"]
        assert {each["spiffe_id"] for each in records} == {FRONTEND}
        assert {each["serial"] for each in records} == {inbound["peer_serial"]}
        assert [each["kind"] for each in records] == ["issued", "intent"]
        mesh.write("telemetry.yaml", "")
        await mesh.settled()
        # An open connection goes on under the filters that it began with, so each request here has one of its own; and Envoy accepts a
        # listener somewhat before it uses it.
        await until(lambda: is_replaced(mesh))
        assert (await mesh.ask(8)).bad == {}
        assert len(mesh.log("api-v1")) == 8


async def is_replaced(mesh: RoutedMesh) -> bool:
    """Whether the callee uses another listener than before, and drains that one."""
    return any((await mesh.envoys["api-v1"].stats(r"listener_manager\.total_.*_draining$")).values())


async def sent(mesh: RoutedMesh, name: str) -> int:
    """How many spans a proxy says that it has sent."""
    return sum((await mesh.envoys[name].stats(r"spans_sent$")).values())


async def complete(mesh: RoutedMesh, collector: Collector) -> None:
    """Wait until all spans so far are there. They come in order, so we send a last request, and some that push it out."""
    last = LAST + uuid4().hex[:16]
    await mesh.ask(1, lanes=1, header=begun(last, "01"))
    await mesh.ask(5, lanes=1, header=begun(LAST * 2, "01"))

    async def done() -> bool:
        all_sent = [len(collector.of(ACCOUNTS + name)) == await sent(mesh, name) for name in mesh.envoys]
        return all(all_sent) and [each.trace_id for each in collector.spans].count(last) == 2

    await until(done)


def asked(collector: Collector, service: str) -> list[Span]:
    """The spans of a workload but for those that complete() made."""
    return [each for each in collector.of(service) if not each.trace_id.startswith(LAST)]


def begun(trace_id: str, flags: str) -> str:
    """The header of a request that belongs to a trace: W3C Trace Context."""
    return f"traceparent: 00-{trace_id}-{'1' * 16}-{flags}"


async def test_spans_of_both_hops_name_the_peers_and_are_as_many_as_was_asked_for_where_the_trace_begins(
    tmp_path: Path,
):
    async with running_collector() as collector:
        files = (("otel.yaml", COLLECTOR.format(port=collector.port)), ("telemetry.yaml", traced(100)))
        async with routed_mesh(tmp_path, ONE, *files) as mesh:
            assert (await mesh.ask(20, path="/public?token=secret")).bad == {}
            await complete(mesh, collector)
            assert len(asked(collector, FRONTEND)) == len(asked(collector, API)) == 20
            client = collector.of(FRONTEND)[0]
            (server,) = (each for each in collector.of(API) if each.trace_id == client.trace_id)
            assert server.parent_id == client.span_id
            assert (server.service, server.tags["peer_spiffe_id"]) == (API, FRONTEND)
            assert (client.service, client.tags["peer_spiffe_id"]) == (FRONTEND, API)
            assert server.tags["team"] == "100% ours"
            assert int(server.tags["peer_serial"], 16) > 0
            assert server.tags["http.url"] == "http://api-server/public"
            assert not [each for each in collector.spans if "secret" in str(each.tags)]
            mesh.write("telemetry.yaml", traced(12.5))
            await mesh.settled()
            assert (await mesh.ask(REQUESTS)).bad == {}
            await complete(mesh, collector)
            seen = len(asked(collector, FRONTEND)) - 20
            assert len(asked(collector, API)) == seen + 20  # a trace has no gaps
            off = (seen - REQUESTS * 0.125) / math.sqrt(REQUESTS * 0.125 * 0.875)
            print(f"12.5 %: {seen} of {REQUESTS}, {off:+.2f} sigma")
            assert abs(off) < 4
            await mesh.ask(100, header=begun(OFF, "00"))
            await mesh.ask(20, header=begun(ON, "01"))
            await complete(mesh, collector)
            traces = Counter(each.trace_id for each in collector.spans)
            assert (traces[OFF], traces[ON]) == (0, 40)


async def test_a_collector_that_dies_or_says_nothing_costs_no_request_and_is_used_again_when_it_is_back(tmp_path: Path):
    async with AsyncExitStack() as first:
        collector = await first.enter_async_context(running_collector())
        files = (("otel.yaml", COLLECTOR.format(port=collector.port)), ("telemetry.yaml", traced(100)))
        async with routed_mesh(tmp_path, ONE, *files) as mesh:
            async with mesh.under_load() as under:
                await until(lambda: collector.spans)
                await first.aclose()
                await mesh.more(under, 1000)
                async with mute(collector.port):
                    await mesh.more(under, 1000)
                async with running_collector(collector.port) as second:
                    await until(lambda: second.spans)
            print(f"{under.total} requests while the collector was up, dead, mute and up: {dict(under.bad)} failed")
            assert under.bad == {}


IN_THE_MESH = """\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: otel}}
spec:
  hosts: [otel]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{{number: 4317, name: grpc, protocol: GRPC}}]
  endpoints: [{{address: 127.0.0.1, ports: {{grpc: {port}}}, serviceAccount: otel}}]
"""


async def test_a_collector_in_the_mesh_is_sent_spans_by_mutual_tls_only(tmp_path: Path):
    port = free_port()
    async with running_collector() as collector, AsyncExitStack() as stack:
        files = (("otel.yaml", IN_THE_MESH.format(port=port)), ("telemetry.yaml", traced(100)))
        async with routed_mesh(tmp_path, {"api-v1": "v1", "otel": "v1"}, *files) as mesh:
            mesh.write("services.yaml", mesh.services("api-v1"))
            await stop(mesh.envoys["otel"].process)
            spec = sidecar(mesh.server, "otel", mesh.running.port, app_ports={port: collector.port})
            mesh.envoys["otel"] = await stack.enter_async_context(running_envoy("otel", spec, tmp_path / "second"))
            await mesh.settled()
            await mesh.ask(40)
            await until(lambda: collector.of(FRONTEND) and collector.of(API))
            taken = await mesh.envoys["otel"].stats(rf"listener\.127\.0\.0\.1_{port}\.ssl\.handshake$")
            assert sum(taken.values()) >= 2
            assert collector.of(f"{ACCOUNTS}otel") == []  # or each delivery of spans would make another


@asynccontextmanager
async def mute(port: int) -> AsyncIterator[None]:
    """Take connections on this port, and never answer."""
    heard: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _, writer: heard.append(writer), "127.0.0.1", port)
    try:
        yield
    finally:
        server.close()
        for each in heard:
            each.close()
