"""Memory of `meshca up`: idle, and with a thousand workloads, each a process of its own as far as the server can tell."""

import asyncio
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from meshca.client import connect
from meshca.demo.server import register, running_server
from sds.proto import workload_pb2
from tests.bench.process import resident_bytes
from tests.support.thin_client import ThinStream, open_stream

WORKLOADS = 1000
FETCH = "/SpiffeWorkloadAPI/FetchX509SVID"
HEADER = (("workload.spiffe.io", "true"),)


async def measure(workloads: int = WORKLOADS) -> dict[str, Any]:
    """One socket for each workload is how processes of one user are told apart, so a thousand sockets make a thousand workloads."""
    idle, _ = await _measure(["main"])
    listening, busy = await _measure([f"w{number}" for number in range(workloads)])
    figures = {"idle": idle, "idle_with_their_sockets": listening, "with_workloads": busy}
    return {"workloads": workloads, **{f"{name}_mib": round(size / 2**20, 1) for name, size in figures.items()}}


async def _measure(names: Sequence[str]) -> tuple[int, int]:
    """Bytes before and after all sockets have a workload with an SVID and an open stream."""
    with tempfile.TemporaryDirectory() as directory:
        async with running_server(Path(directory), names) as server, connect(server.admin_socket) as client:
            before = resident_bytes(server.pid)
            await register(client, "spiffe://mesh.local/bench", f"unix:uid:{os.getuid()}")
            streams = [await _served(str(path)) for path in server.sockets.values()]
            after = resident_bytes(server.pid)
            for stream in streams:
                stream.close()
    return before, after


async def _served(socket: str) -> ThinStream:
    """An open stream of the Workload API that has its first SVID."""
    answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def took(_: ThinStream, message: bytes) -> None:
        if not answered.done():
            answered.set_result(message)

    stream = await open_stream(socket, FETCH, took, HEADER)
    stream.send(b"")
    assert len(workload_pb2.X509SVIDResponse.FromString(await answered).svids) == 1
    return stream
