"""What the path through two Envoys with mutual TLS adds to a request, against the same application asked directly, in turns."""

import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.bench.quantiles import quantiles
from tests.support.routed import routed_mesh

REQUESTS, TURNS = 4000, 20
LANES = (1, 32)


async def measure(requests: int = REQUESTS, lanes: tuple[int, ...] = LANES) -> dict[str, Any]:
    """By number of connections."""
    with tempfile.TemporaryDirectory() as directory:
        async with routed_mesh(Path(directory), {"api": "v1"}) as mesh:
            await mesh.settled()
            await mesh.ask(50)
            ports = mesh.replicas["api"].app_port, await mesh.envoys["frontend"].port("outbound")
            return {f"{count}_connections": await _in_a_child(*ports, count, requests) for count in lanes}


async def _in_a_child(direct: int, routed: int, lanes: int, requests: int) -> dict[str, Any]:
    """Clients have an interpreter of their own: it is the application that runs here."""
    arguments = map(str, (direct, routed, lanes, requests))
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.bench.path", *arguments, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await child.communicate()
    return dict(json.loads(out))


async def compare(direct: int, routed: int, lanes: int, requests: int) -> dict[str, Any]:
    """Ask both in turns, over connections that stay open."""
    times: dict[int, list[float]] = {direct: [], routed: []}
    open_ = {port: [await asyncio.open_connection("127.0.0.1", port) for _ in range(lanes)] for port in times}
    each = max(1, requests // TURNS // lanes)
    for _ in range(TURNS):
        for port, connections in open_.items():
            await asyncio.gather(*(_ask(*connection, each, times[port]) for connection in connections))
    figures = {name: quantiles(times[port], digits=3) for name, port in (("direct", direct), ("routed", routed))}
    added = {name: round(figures["routed"][name] - figures["direct"][name], 3) for name in ("p50_ms", "p99_ms")}
    return {**figures, "added": added}


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, count: int, times: list[float]) -> None:
    for _ in range(count):
        started = time.perf_counter()
        writer.write(b"GET / HTTP/1.1\r\nhost: api-server\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(int(length.split(b":")[1]))
        times.append(time.perf_counter() - started)
        assert head.startswith(b"HTTP/1.1 200")


if __name__ == "__main__":
    print(json.dumps(asyncio.run(compare(*map(int, sys.argv[1:])))))
