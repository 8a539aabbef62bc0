"""SDS fan-out: many connections with one stream each against one server process, all through the gate."""

import asyncio
import tempfile
import time
from pathlib import Path
from typing import Any

from envoy.config.core.v3 import base_pb2
from envoy.service.discovery.v3 import discovery_pb2

from meshca.client import AdminClient, connect
from meshca.demo.server import Server, register, running_server
from meshca.proto import admin_pb2 as pb
from tests.bench.process import cpu_seconds, resident_bytes
from tests.support.thin_client import ThinStream, open_stream
from tests.support.wait import until

CONNECTIONS = 2000
AT_ONCE = 200
WARM = 20
METHOD = "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets"
SECRET = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
EXTENSIONS = 516  # what Envoy 1.40 lists of itself: 62 kB of node


async def measure(connections: int = CONNECTIONS) -> dict[str, Any]:
    """Both kinds of first request, each against a fresh server."""
    nodes = {"minimal": base_pb2.Node(id="bench"), "envoy_node": _envoy_node()}
    return {name: await _measure(node, connections) for name, node in nodes.items()}


async def _measure(node: base_pb2.Node, connections: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as directory:
        async with running_server(Path(directory), ["bench"]) as server, connect(server.admin_socket) as client:
            await register(client, "spiffe://mesh.local/bench", "socket:bench")
            return await _fan_out(server, client, node, connections)


async def _fan_out(server: Server, client: AdminClient, node: base_pb2.Node, connections: int) -> dict[str, Any]:
    first = discovery_pb2.DiscoveryRequest(node=node, type_url=SECRET, resource_names=["ROOTCA"]).SerializeToString()
    crowd = Crowd(first)
    socket = str(server.sockets["bench"])
    warm = await crowd.open(socket, WARM)  # lazy imports and pools are not a connection's cost
    before, started = resident_bytes(server.pid), time.perf_counter()
    streams = await crowd.open(socket, connections)
    opened, after = time.perf_counter() - started, resident_bytes(server.pid)
    goal = crowd.messages + connections + WARM
    cpu, started = cpu_seconds(server.pid), time.perf_counter()
    await client.authorities.Prepare(pb.KindRequest(kind="root"))
    await until(lambda: crowd.messages >= goal, within=60, every=0.005)
    delivered, spent = time.perf_counter() - started, cpu_seconds(server.pid) - cpu
    for stream in (*warm, *streams):
        stream.close()
    return {
        "connections": connections,
        "first_request_bytes": len(first),
        "kib_per_connection": round((after - before) / connections / 1024, 1),
        "seconds_to_open_all": round(opened, 2),
        "seconds_to_deliver_a_bundle_to_all": round(delivered, 3),
        "cpu_microseconds_per_push": round(spent / (connections + WARM) * 1e6, 1),
    }


class Crowd:
    """Clients that subscribe to one secret and acknowledge whatever comes."""

    def __init__(self, first: bytes) -> None:
        self._first = first
        self.messages = 0

    async def open(self, socket: str, count: int) -> list[ThinStream]:
        """Open that many streams and wait until each has its first answer."""
        goal = self.messages + count
        streams: list[ThinStream] = []
        for start in range(0, count, AT_ONCE):
            some = [open_stream(socket, METHOD, self._took) for _ in range(min(AT_ONCE, count - start))]
            opened = await asyncio.gather(*some)
            for stream in opened:
                stream.send(self._first)
            streams += opened
        await until(lambda: self.messages >= goal, within=120)
        return streams

    def _took(self, stream: ThinStream, message: bytes) -> None:
        response = discovery_pb2.DiscoveryResponse.FromString(message)
        names = {"resource_names": ["ROOTCA"], "type_url": SECRET}
        ack = discovery_pb2.DiscoveryRequest(version_info=response.version_info, response_nonce=response.nonce, **names)
        stream.send(ack.SerializeToString())
        self.messages += 1


def _envoy_node() -> base_pb2.Node:
    extensions = [
        base_pb2.Extension(
            name=f"envoy.filters.http.some_extension_{number}",
            category="envoy.filters.http",
            type_urls=[f"envoy.ext.v3.E{number}"],
        )
        for number in range(EXTENSIONS)
    ]
    node = base_pb2.Node(id="bench", user_agent_name="envoy", extensions=extensions)
    node.metadata["padding"] = "x" * max(0, 62_000 - node.ByteSize())
    return node
