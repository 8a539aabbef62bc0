"""After a restart all clients come back at once. Every one of them is served, and none by being asked to come again."""

import asyncio
from pathlib import Path

import pytest
from envoy.service.discovery.v3 import discovery_pb2

from meshca.client import connect
from meshca.demo.server import register, running_server
from tests.support.thin_client import ThinStream, open_stream

CLIENTS = 2000
METHOD = "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets"
SECRET = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"


async def served(socket: str) -> ThinStream:
    """Dial, subscribe, and wait for the answer."""
    answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    stream = await open_stream(socket, METHOD, lambda _, message: answer.done() or answer.set_result(message))
    request = discovery_pb2.DiscoveryRequest(type_url=SECRET, resource_names=["default"])
    stream.send(request.SerializeToString())
    done, _ = await asyncio.wait([answer, stream.closed], timeout=60, return_when=asyncio.FIRST_COMPLETED)
    assert answer in done
    assert len(discovery_pb2.DiscoveryResponse.FromString(answer.result()).resources) == 1
    return stream


async def dial_until_there(socket: str) -> ThinStream:
    """As a proxy does: dial again and again while the server is away."""
    while True:
        try:
            return await served(socket)
        except (FileNotFoundError, ConnectionRefusedError, BlockingIOError):
            await asyncio.sleep(0.05)


@pytest.mark.slow
async def test_two_thousand_clients_that_come_back_at_once_are_all_served(tmp_path: Path):
    async with running_server(tmp_path, ["crowd"]) as server, connect(server.admin_socket) as client:
        await register(client, "spiffe://mesh.local/crowd", "socket:crowd")
        await server.kill()
        waiting = [asyncio.create_task(dial_until_there(str(server.sockets["crowd"]))) for _ in range(CLIENTS)]
        await server.start()
        streams = await asyncio.gather(*waiting)
        assert len(streams) == CLIENTS
        for stream in streams:
            stream.close()
        await asyncio.gather(*(stream.closed for stream in streams))
