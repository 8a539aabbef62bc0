"""gRPC programs without a proxy for tests: stock grpcio in processes of its own, told by lines of JSON what to do."""

import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshca.demo.envoys import stop
from meshca.demo.server import Server
from tests.support.children import TREE, python
from tests.support.command import meshca
from tests.support.wait import until

METHOD = "/test.Echo/Say"

CLIENT = """
import json, sys, threading
from collections import Counter
import grpc

target, kind, authority = sys.argv[1:]
options = [("grpc.default_authority", authority)] if authority else []
if kind == "xds":
    channel = grpc.secure_channel(target, grpc.xds_channel_credentials(), options)
else:
    channel = grpc.insecure_channel(target, options)
lasting = threading.Event()
counts, lock = Counter(), threading.Lock()

def call(asked):
    say = channel.unary_unary(asked["method"])
    try:
        answer = say(b"", timeout=asked["timeout"], metadata=asked["metadata"], wait_for_ready=False).decode()
    except grpc.RpcError as error:
        answer = f"{error.code().name} {error.details()}"
    with lock:
        counts[answer] += 1

def load(asked):
    while not lasting.is_set():
        call(asked)

threads = []
for line in sys.stdin:
    asked = json.loads(line)
    match asked["do"]:
        case "ask":
            counts.clear()
            for _ in range(asked["count"]):
                call(asked)
        case "start":
            counts.clear()
            lasting.clear()
            threads = [threading.Thread(target=load, args=(asked,)) for _ in range(asked["count"])]
            for each in threads:
                each.start()
        case "stop":
            lasting.set()
            for each in threads:
                each.join()
    with lock:
        print(json.dumps(counts), flush=True)
"""

SERVER = """
import itertools, json, pathlib, sys
from concurrent.futures import ThreadPoolExecutor
import grpc

address, answer, kind, certs = sys.argv[1:5]
failures = {int(number) for number in sys.argv[5:]}
numbers = itertools.count(1)

def say(request, context):
    if next(numbers) in failures:
        context.abort(grpc.StatusCode.UNAVAILABLE, "as it was told to")
    return answer.encode()

server = grpc.server(ThreadPoolExecutor(8), xds=kind == "xds")
handler = grpc.unary_unary_rpc_method_handler(say)
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", {"Say": handler, "Hide": handler}),))
if kind == "xds":
    server.add_secure_port(address, grpc.xds_server_credentials(grpc.insecure_server_credentials()))
elif kind == "tls":
    key, chain, bundle = (pathlib.Path(certs, name).read_bytes() for name in ("svid.0.key", "svid.0.pem", "bundle.0.pem"))
    server.add_secure_port(address, grpc.ssl_server_credentials([(key, chain)], bundle, require_client_auth=True))
else:
    server.add_insecure_port(address)
server.start()
print("serving", flush=True)
server.wait_for_termination()
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """A client program. Answers are counted by what came back: the answer's text, or code and details."""

    process: asyncio.subprocess.Process

    async def ask(self, count: int = 1, **changes: Any) -> Counter[str]:
        """Call so many times, one after the other."""
        return await self._tell(do="ask", count=count, **changes)

    async def start(self, lanes: int = 2) -> None:
        """Call without end, from so many threads."""
        await self._tell(do="start", count=lanes)

    async def counted(self) -> Counter[str]:
        """What came back so far."""
        return await self._tell(do="count")

    async def stop(self) -> Counter[str]:
        """End what was started, and say what came back."""
        return await self._tell(do="stop")

    async def _tell(self, **asked: Any) -> Counter[str]:
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None
        assert stdout is not None
        whole = {"method": METHOD, "timeout": 20, "metadata": [], **asked}
        stdin.write(json.dumps(whole).encode() + b"\n")
        return Counter(json.loads(await stdout.readline()))


@asynccontextmanager
async def files_of(server: Server, name: str, directory: Path) -> AsyncIterator[Path]:
    """The directory that `meshca svid fetch --watch` keeps fresh for this workload; what it says is in `fetch.log` beside it."""
    place = directory / f"{name}-svid"
    command = [sys.executable, "-m", "meshca", "svid", "fetch", "--watch", "--write", str(place)]
    with (directory / f"{name}-fetch.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *command, "--socket", str(server.sockets[name]), stdout=log, stderr=log
        )
    try:
        await until((place / "bundle.0.pem").exists)
        yield place
    finally:
        await stop(process)


async def bootstrap(directory: Path, certs: Path, router_port: int, *arguments: object) -> Path:
    """The file that the command line prints."""
    printed = await meshca("grpc", "bootstrap", "--certs", certs, "--router", f"127.0.0.1:{router_port}", *arguments)
    assert printed.code == 0, printed.err
    path = directory / f"{certs.name}.json"
    path.write_text(printed.out)
    return path


@asynccontextmanager
async def caller(bootstrapped: Path | None, target: str, authority: str = "") -> AsyncIterator[Caller]:
    """A client of this target: with xDS credentials, or in plaintext if there is no bootstrap."""
    kind = "xds" if bootstrapped else "plain"
    async with _running(python(CLIENT, target, kind, authority), bootstrapped) as process:
        yield Caller(process=process)


@asynccontextmanager
async def serving(
    bootstrapped: Path | None, port: int, answer: str, *failures: int, certs: Path | None = None, wait: bool = True
) -> AsyncIterator[None]:
    """A server with that answer: with xDS credentials, without a bootstrap in plaintext, or mutual TLS of its own with these files.

    With `wait` it listens when the body starts, for which one with xDS credentials must be in the configuration. Its calls of the numbers
    in `failures` end with UNAVAILABLE: not for xDS, since that ends the process from grpcio 1.84 on.
    """
    kind = "xds" if bootstrapped else "tls" if certs else "plain"
    command = python(SERVER, f"127.0.0.1:{port}", answer, kind, certs or "", *failures)
    async with _running(command, bootstrapped) as process:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"serving\n"
        if wait:
            await until(lambda: _is_open(port))
        yield


async def _is_open(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


@asynccontextmanager
async def _running(command: list[str], bootstrapped: Path | None) -> AsyncIterator[asyncio.subprocess.Process]:
    pipe = asyncio.subprocess.PIPE
    environ = os.environ | ({"GRPC_XDS_BOOTSTRAP": str(bootstrapped)} if bootstrapped else {})
    process = await asyncio.create_subprocess_exec(*command, cwd=TREE, env=environ, stdin=pipe, stdout=pipe)
    try:
        yield process
    finally:
        await stop(process)
