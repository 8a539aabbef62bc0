"""How long a workload waits: entry created to certificate seen in Envoy, and socket dialled to SVID received."""

import asyncio
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from meshca.bootstrap import BootstrapSpec, Inbound
from meshca.client import AdminClient, connect
from meshca.demo.envoys import Envoy, running_envoy
from meshca.demo.server import register, running_server
from meshca.proto import admin_pb2 as pb
from sds.proto import workload_pb2
from spiffe.id import SpiffeID
from tests.bench.quantiles import quantiles
from tests.support.thin_client import ThinStream, open_stream
from tests.support.wait import until

ROUNDS = 100
COLD_ROUNDS = 25
WARM_ROUNDS = 500
HEADER = (("workload.spiffe.io", "true"),)
FETCH = "/SpiffeWorkloadAPI/FetchX509SVID"


async def entry_to_envoy(rounds: int = ROUNDS) -> dict[str, Any]:
    """Entry created -> certificate seen in Envoy's `/certs`, an Envoy that waits for it all the while."""
    with tempfile.TemporaryDirectory() as directory:
        async with AsyncExitStack() as stack:
            server = await stack.enter_async_context(running_server(Path(directory), ["bench"]))
            client = await stack.enter_async_context(connect(server.admin_socket))
            peer = SpiffeID.parse("spiffe://mesh.local/peer")
            inbound = Inbound(name="inbound", port=0, address="127.0.0.1", peers=(peer,), response="hello")
            spec = BootstrapSpec(
                node_id="bench",
                node_cluster="bench",
                sds_socket=str(server.sockets["bench"]),
                admin_port=0,
                inbound=(inbound,),
            )
            envoy = await stack.enter_async_context(running_envoy("bench", spec, Path(directory) / "envoy", wait=False))
            times = [await _one_entry(client, envoy, number) for number in range(rounds)]
    return {"rounds": len(times), **quantiles(times)}


async def _one_entry(client: AdminClient, envoy: Envoy, number: int) -> float:
    """Replace the entry by one with another SPIFFE ID, and wait until Envoy uses it."""
    spiffe_id = f"spiffe://mesh.local/bench/{number}"
    for entry in (await client.entries.List(pb.ListEntriesRequest())).entries:
        await client.entries.Delete(pb.DeleteEntryRequest(id=entry.id))
    started = time.perf_counter()
    await register(client, spiffe_id, "socket:bench")

    async def loaded() -> bool:
        return any(spiffe_id in leaf.uris for leaf in await envoy.leaves())

    await until(loaded, every=0.001)
    return time.perf_counter() - started


async def dial_to_svid(cold_rounds: int = COLD_ROUNDS, warm_rounds: int = WARM_ROUNDS) -> dict[str, Any]:
    """Socket dialled -> SVID received by a Workload API client. Cold: the first ever of its process; warm: it reconnects."""
    with tempfile.TemporaryDirectory() as directory:
        async with AsyncExitStack() as stack:
            server = await stack.enter_async_context(running_server(Path(directory), ["bench"]))
            client = await stack.enter_async_context(connect(server.admin_socket))
            await register(client, "spiffe://mesh.local/bench", "socket:bench")
            socket = str(server.sockets["bench"])
            cold = [await _in_a_child(socket) for _ in range(cold_rounds)]
            await fetch(socket)  # our own first, which is cold
            warm = [await fetch(socket) for _ in range(warm_rounds)]
    return {name: {"rounds": len(each), **quantiles(each)} for name, each in (("cold", cold), ("warm", warm))}


async def fetch(socket: str) -> float:
    """Seconds from dialling to the first complete answer."""
    answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def took(_: ThinStream, message: bytes) -> None:
        if not answered.done():
            answered.set_result(message)

    started = time.perf_counter()
    stream = await open_stream(socket, FETCH, took, HEADER)
    stream.send(b"")
    message = await answered
    elapsed = time.perf_counter() - started
    stream.close()
    assert len(workload_pb2.X509SVIDResponse.FromString(message).svids) == 1
    return elapsed


async def _in_a_child(socket: str) -> float:
    """The same from a process that the server has never seen: it attests, makes a key and signs."""
    code = f"import asyncio; from tests.bench.latency import fetch; print(asyncio.run(fetch({socket!r})))"
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    out, _ = await child.communicate()
    return float(out)
