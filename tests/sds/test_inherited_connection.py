"""What becomes of a connection whose process has ended while somebody else still holds it open."""

import asyncio
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest
from envoy.service.secret.v3.sds_pb2_grpc import SecretDiscoveryServiceStub

from sds.proto import workload_pb2 as pb
from sds.proto.workload_pb2_grpc import SpiffeWorkloadAPIStub
from sds.splice import Joint
from tests.support.wait import until
from tests.support.workloads import HEADER, serving

LENDER = """
import socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
socket.send_fds(socket.socket(fileno=int(sys.argv[2])), [b"x"], [connection.fileno()])
sys.stdin.read()
"""


@asynccontextmanager
async def borrowed(workload_socket: Path, relay: Path) -> AsyncIterator[tuple[Process, grpc.aio.Channel]]:
    """A process that dialled the socket, and a channel over its very connection."""
    ours, theirs = socket.socketpair()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", LENDER, workload_socket, str(theirs.fileno()), pass_fds=[theirs.fileno()], stdin=PIPE
    )
    theirs.close()
    _, [connection], *_ = await asyncio.to_thread(socket.recv_fds, ours, 1, 1)
    ours.close()
    ended = asyncio.Event()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(relay))
        listener.listen()
        async with grpc.aio.insecure_channel(f"unix:{relay}") as channel:
            channel.get_state(try_to_connect=True)
            dialled, _ = await asyncio.to_thread(listener.accept)
            lent = socket.socket(fileno=connection)
            for each in (dialled, lent):
                each.setblocking(False)
            joint = Joint(on_loss=lambda: None, on_end=ended.set)
            await joint.connect(dialled, lent)
            yield process, channel
        joint.abort()
        await ended.wait()


@pytest.mark.parametrize("protocol", ["SDS", "Workload API"])
async def test_the_heir_of_a_connection_gets_nothing_more_once_its_process_has_ended(tmp_path: Path, protocol: str):
    async with serving(tmp_path) as workloads:
        async with borrowed(workloads.path, tmp_path / "relay") as (process, channel):
            if protocol == "SDS":
                stream = SecretDiscoveryServiceStub(channel).StreamSecrets()
                await stream.write(DiscoveryRequest(resource_names=["default"]))
            else:
                stream = SpiffeWorkloadAPIStub(channel).FetchX509SVID(pb.X509SVIDRequest(), metadata=HEADER)
            assert await stream.read()
            (subscription,) = workloads.provider.open
            assert subscription.caller.pid == process.pid
            process.kill()
            await process.wait()
            assert workloads.gate.connections == 1, "the connection is still there"
            workloads.provider.grant("/web")
            assert await stream.code() is grpc.StatusCode.PERMISSION_DENIED
            assert f"pid {process.pid} " in await stream.details()
            again = SecretDiscoveryServiceStub(channel).StreamSecrets()
            await again.write(DiscoveryRequest(resource_names=["default"]))
            assert await again.code() is grpc.StatusCode.PERMISSION_DENIED
        await until(lambda: workloads.gate.connections == 0)
