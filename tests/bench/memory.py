"""Memory of `meshca up`: idle, and with a thousand workloads, each a process of its own as far as the server can tell."""

import tempfile
from pathlib import Path
from typing import Any

from meshca.client import connect
from meshca.demo.server import register, running_server
from sds.proto import workload_pb2
from tests.bench.process import resident_bytes
from tests.support.thin_client import ThinStream, open_stream
from tests.support.wait import until

SOCKETS = 1000
FETCH = "/SpiffeWorkloadAPI/FetchX509SVID"


async def measure() -> dict[str, Any]:
    """One socket for each workload is how processes of one user are told apart, so a thousand sockets make a thousand workloads."""
    names = [f"w{number}" for number in range(SOCKETS)]
    with tempfile.TemporaryDirectory() as directory:
        async with running_server(Path(directory), names) as server, connect(server.admin_socket) as client:
            idle = resident_bytes(server.pid)
            await register(client, "spiffe://mesh.local/bench", f"unix:uid:{_uid()}")
            ids: set[str] = set()

            def took(_: ThinStream, message: bytes) -> None:
                ids.update(str(svid.x509_svid) for svid in workload_pb2.X509SVIDResponse.FromString(message).svids)

            streams = [
                await open_stream(str(path), FETCH, took, (("workload.spiffe.io", "true"),))
                for path in server.sockets.values()
            ]
            for stream in streams:
                stream.send(b"")
            await until(lambda: len(ids) >= SOCKETS, within=60)
            busy = resident_bytes(server.pid)
            for stream in streams:
                stream.close()
    return {"idle_mib": round(idle / 2**20, 1), "with_1000_workloads_mib": round(busy / 2**20, 1)}


def _uid() -> int:
    return Path("/proc/self").stat().st_uid
