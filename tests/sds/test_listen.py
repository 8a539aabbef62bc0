import asyncio
import os
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from envoy.service.discovery.v3 import discovery_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from sds.errors import SDSError
from sds.gate import GateLimits
from sds.listen import WorkloadLimits
from sds.proto import workload_pb2 as pb
from sds.proto.workload_pb2_grpc import SpiffeWorkloadAPIStub
from tests.support.grants import ScriptedProvider
from tests.support.thin_client import FIRST_WINDOW, ThinStream, open_stream
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


SDS, HEALTH, WORKLOAD = (
    "/envoy.service.secret.v3.SecretDiscoveryService",
    "/grpc.health.v1.Health",
    "/SpiffeWorkloadAPI",
)
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
SINGLE = [f"{SDS}/FetchSecrets", f"{WORKLOAD}/FetchX509SVID", f"{WORKLOAD}/FetchX509Bundles", f"{HEALTH}/Check"]
STREAMS = [f"{SDS}/StreamSecrets", f"{SDS}/DeltaSecrets", REFLECTION]


def say_nothing(channel: grpc.aio.Channel, method: str) -> grpc.aio.Call:
    """Open a call and send no request."""
    return channel.stream_stream(method)(metadata=HEADER)


def watch_health(channel: grpc.aio.Channel, _: str) -> grpc.aio.Call:
    """Open a call that is served until its client has enough."""
    return channel.unary_stream(f"{HEALTH}/Watch")(b"")


@pytest.mark.parametrize(
    ("call", "method"), [(watch_health, "Watch"), *((say_nothing, method) for method in [*SINGLE, *STREAMS])]
)
async def test_one_user_has_so_many_calls_open_and_no_more_whatever_they_are(tmp_path: Path, call: Any, method: str):
    limits = WorkloadLimits(gate=GateLimits(per_uid=2))
    async with serving(tmp_path, limits=limits) as workloads, workloads.channel() as channel:
        calls = [call(channel, method) for _ in range(5)]
        await until(lambda: any(each.done() for each in calls))
        (refused,) = [each for each in calls if each.done()]
        assert await refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await refused.details() == f"uid {os.getuid()} has 4 calls open, which is the limit"
        for each in calls:
            each.cancel()

        async def served() -> bool:
            return await answer(workloads, "/grpc.health.v1.Health/Watch") is None

        await until(served)


@pytest.mark.parametrize("method", [*SINGLE, *STREAMS])
async def test_a_call_without_a_request_ends_and_one_with_it_stays(tmp_path: Path, method: str):
    async with serving(tmp_path, limits=WorkloadLimits(first_request=0.2)) as workloads, workloads.channel() as channel:
        spoken = channel.stream_stream(f"{SDS}/StreamSecrets")()
        await spoken.write(discovery_pb2.DiscoveryRequest(resource_names=["none"]).SerializeToString())
        await until(lambda: workloads.provider.open)
        silent = say_nothing(channel, method)
        assert await silent.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert await silent.details() == "the call has no request after 0.2 s"
        assert not spoken.done()
        spoken.cancel()


@pytest.mark.parametrize("method", SINGLE)
async def test_a_call_that_ends_without_its_request_is_told_so(tmp_path: Path, method: str):
    async with serving(tmp_path) as workloads, workloads.channel() as channel:
        call = say_nothing(channel, method)
        await call.done_writing()
        assert await call.code() is UNIMPLEMENTED
        assert await call.details() == "the call ended without its request"


async def test_a_call_without_the_header_need_not_send_a_request_to_be_refused(tmp_path: Path):
    async with serving(tmp_path) as workloads, workloads.channel() as channel:
        assert await channel.stream_stream(f"{WORKLOAD}/FetchX509SVID")().code() is INVALID


async def test_one_connection_carries_a_hundred_calls_at_once(tmp_path: Path):
    async with serving(tmp_path) as workloads, workloads.channel() as channel:
        stub = SpiffeWorkloadAPIStub(channel)
        streams = [stub.FetchX509SVID(pb.X509SVIDRequest(), metadata=HEADER) for _ in range(101)]
        await until(lambda: len(workloads.provider.open) == 100)
        assert await answer(workloads, f"{HEALTH}/Watch") is None  # by a connection of its own
        assert len(workloads.provider.open) == 100
        for stream in streams[:50]:
            stream.cancel()
        await until(lambda: len(workloads.provider.open) == 51)
        for stream in streams[50:]:
            assert (await stream.read()).svids
            stream.cancel()


async def test_a_user_has_only_so_much_of_unfinished_messages_on_all_connections(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    message = discovery_pb2.DiscoveryRequest(version_info="x" * 50_000).SerializeToString()
    limits = WorkloadLimits(gate=GateLimits(unfinished_bytes=100_000))
    async with serving(tmp_path, limits=limits) as workloads:

        async def stream() -> ThinStream:
            return await open_stream(str(workloads.path), f"{SDS}/StreamSecrets", lambda *_: None)

        streams = [await stream() for _ in range(4)]
        for each in streams:
            each.send_part(message, 40_000)
        await until(lambda: sum(each.closed.done() for each in streams) == 2)
        await until(lambda: workloads.gate.connections == 2)
        assert workloads.counts["gate shed"] == 2
        (told,) = [record for record in caplog.records if record.message == "connection closed"]
        assert told.reason == "100000 bytes of unfinished messages of one user are the limit"
        for each in streams:
            each.close()
        await until(lambda: not workloads.gate.connections)
        whole = await stream()
        for _ in range(5):
            whole.send(message)
        await until(lambda: workloads.provider.open)
        assert workloads.gate.connections == 1
        whole.close()


async def test_what_nobody_reads_yet_is_little(tmp_path: Path):
    """Unless told otherwise grpcio lets every call send 4 MiB ahead."""
    async with serving(tmp_path) as workloads:
        stream = await open_stream(str(workloads.path), f"{SDS}/StreamSecrets", lambda *_: None)
        await until(lambda: stream.initial_window != FIRST_WINDOW)
        assert stream.initial_window == 16 * 1024
        stream.close()
