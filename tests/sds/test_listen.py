import asyncio
import os
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from sds.errors import SDSError
from sds.gate import GateLimits
from sds.listen import WorkloadLimits
from sds.proto import workload_pb2 as pb
from sds.proto.workload_pb2_grpc import SpiffeWorkloadAPIStub
from tests.support.grants import ScriptedProvider
from tests.support.wait import until
from tests.support.workloads import HEADER, Workloads, serving

INVALID, UNIMPLEMENTED = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED


async def answer(workloads: Workloads, method: str, *metadata: tuple[str, str]) -> grpc.StatusCode | None:
    """The status of a call with an empty request; None if it is served."""
    async with workloads.channel() as channel:
        call = channel.unary_stream(method)(b"", metadata=metadata)
        try:
            await call.read()
        except grpc.aio.AioRpcError as error:
            return error.code()
        if call.done():
            return await call.code()
        call.cancel()
        return None


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        (("workload.spiffe.io", "True"),),
        (("workload.spiffe.io", "false"),),
        (("workload.spiffe.io", ""),),
        (("workload.spiffe.io", "true,true"),),
        (("workload.spiffe.io", "true"), ("workload.spiffe.io", "true")),
        (("workload.spiffe.io", "true"), ("workload.spiffe.io", "false")),
        (("broker.spiffe.io", "true"),),
    ],
)
@pytest.mark.parametrize(
    "method",
    [
        "/SpiffeWorkloadAPI/FetchX509SVID",
        "/SpiffeWorkloadAPI/FetchX509Bundles",
        "/SpiffeWorkloadAPI/FetchJWTSVID",
        "/SpiffeWorkloadAPI/FetchWITSVID",
        "/SpiffeWorkloadAPI/NoSuchCall",
        "/no.such.Service/Call",
    ],
)
async def test_a_call_without_exactly_one_true_header_is_invalid(tmp_path: Path, method: str, metadata: tuple):
    async with serving(tmp_path) as workloads:
        assert await answer(workloads, method, *metadata) is INVALID


@pytest.mark.parametrize(
    ("method", "code"),
    [
        ("/SpiffeWorkloadAPI/FetchX509SVID", None),
        ("/SpiffeWorkloadAPI/FetchWITSVID", UNIMPLEMENTED),
        ("/SpiffeWorkloadAPI/NoSuchCall", UNIMPLEMENTED),
        ("/no.such.Service/Call", UNIMPLEMENTED),
    ],
)
async def test_with_the_header_a_call_is_served_or_unimplemented(tmp_path: Path, method: str, code: object):
    async with serving(tmp_path) as workloads:
        assert await answer(workloads, method, *HEADER) is code


async def test_health_and_reflection_answer_without_the_header(tmp_path: Path):
    async with serving(tmp_path) as workloads, workloads.channel() as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", "SpiffeWorkloadAPI", "envoy.service.secret.v3.SecretDiscoveryService"):
            checked = await health.Check(health_pb2.HealthCheckRequest(service=service))
            assert checked.status == health_pb2.HealthCheckResponse.SERVING
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        requests = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol="SpiffeWorkloadAPI"),
            reflection_pb2.ServerReflectionRequest(
                file_containing_symbol="envoy.service.secret.v3.SecretDiscoveryService"
            ),
        ]
        listed, workload, sds = [each async for each in stub.ServerReflectionInfo(iter(requests))]
    assert {service.name for service in listed.list_services_response.service} == {
        "SpiffeWorkloadAPI",
        "envoy.service.secret.v3.SecretDiscoveryService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    assert pb.DESCRIPTOR.serialized_pb in workload.file_descriptor_response.file_descriptor_proto
    assert sds.file_descriptor_response.file_descriptor_proto


async def test_health_says_so_when_the_server_drains(tmp_path: Path):
    stack = AsyncExitStack()
    workloads = await stack.enter_async_context(serving(tmp_path))
    async with workloads.channel() as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service="SpiffeWorkloadAPI"))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        closing = asyncio.create_task(stack.aclose())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()
        await closing
    assert not workloads.path.exists()


async def test_who_dialled_which_socket_is_who_is_served(tmp_path: Path):
    async with serving(tmp_path, names=("web", "db")) as workloads:
        for name in ("web", "db"):
            async with grpc.aio.insecure_channel(f"unix:{tmp_path / name}") as channel:
                stream = SpiffeWorkloadAPIStub(channel).FetchX509SVID(pb.X509SVIDRequest(), metadata=HEADER)
                await stream.read()
                (subscription,) = workloads.provider.open
                assert (subscription.caller.socket, subscription.caller.pid) == (name, os.getpid())
                stream.cancel()
            await until(lambda: not workloads.provider.open)


async def test_two_hundred_clients_that_come_at_once_are_all_served(tmp_path: Path):
    async with serving(tmp_path) as workloads, AsyncExitStack() as stack:

        async def fetch() -> int:
            channel = await stack.enter_async_context(workloads.channel())
            stream = SpiffeWorkloadAPIStub(channel).FetchX509SVID(pb.X509SVIDRequest(), metadata=HEADER)
            return len((await stream.read()).svids)

        assert await asyncio.gather(*(fetch() for _ in range(200))) == [1] * 200
        assert workloads.gate.connections == 200


async def test_a_bad_socket_path_stops_the_start_and_leaves_no_other_socket(tmp_path: Path):
    (tmp_path / "db").write_text("precious")
    with pytest.raises(SDSError, match="db"):
        async with serving(tmp_path, names=("web", "db")):
            pass
    assert (tmp_path / "db").read_text() == "precious"
    assert not (tmp_path / "web").exists()


CLIENT = """
import asyncio, sys
import grpc
async def main():
    async with grpc.aio.insecure_channel("unix:" + sys.argv[1]) as channel:
        stream = channel.unary_stream("/SpiffeWorkloadAPI/FetchX509SVID")(b"", metadata=[("workload.spiffe.io", "true")])
        await stream.read()
        print("served", flush=True)
        await stream.read()
asyncio.run(main())
"""


async def test_a_stream_of_a_process_that_was_killed_ends(tmp_path: Path):
    async with serving(tmp_path, ScriptedProvider()) as workloads:
        client = await asyncio.create_subprocess_exec(
            sys.executable, "-c", CLIENT, str(workloads.path), stdout=subprocess.PIPE
        )
        assert await client.stdout.readline() == b"served\n"
        (subscription,) = workloads.provider.open
        assert subscription.caller.pid == client.pid
        client.kill()
        await client.wait()
        assert not subscription.caller.alive()
        await until(lambda: not workloads.provider.open)
        assert workloads.gate.connections == 0


async def test_a_connection_that_is_shed_is_counted(tmp_path: Path):
    async with serving(tmp_path, limits=WorkloadLimits(gate=GateLimits(total=0))) as workloads:
        reader, writer = await asyncio.open_unix_connection(workloads.path)
        assert await reader.read() == b""
        assert workloads.counts["gate shed"] == 1
        writer.close()


@pytest.mark.parametrize(
    ("limits", "size"), [(WorkloadLimits(), 2 * 1024 * 1024), (WorkloadLimits(message_bytes=1000), 2000)]
)
async def test_a_message_larger_than_the_limit_is_refused(tmp_path: Path, limits: WorkloadLimits, size: int):
    async with serving(tmp_path, limits=limits) as workloads, workloads.channel() as channel:
        stream = channel.stream_stream("/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets")()
        await stream.write(b"x" * size)
        assert await stream.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("silent", [True, False], ids=["SDS streams that say nothing", "health watches"])
async def test_one_user_has_so_many_calls_open_and_no_more_whatever_they_are(tmp_path: Path, *, silent: bool):
    limits = WorkloadLimits(gate=GateLimits(per_uid=2))
    async with serving(tmp_path, limits=limits) as workloads, workloads.channel() as channel:

        def call() -> grpc.aio.Call:
            if silent:
                return channel.stream_stream("/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets")()
            return channel.unary_stream("/grpc.health.v1.Health/Watch")(b"")

        calls = [call() for _ in range(9)]
        await until(lambda: any(each.done() for each in calls))
        (refused,) = [each for each in calls if each.done()]
        assert await refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await refused.details() == f"uid {os.getuid()} has 8 calls open, which is the limit"
        for each in calls:
            each.cancel()

        async def served() -> bool:
            return await answer(workloads, "/grpc.health.v1.Health/Watch") is None

        await until(served)
