"""A routed mesh for end-to-end tests: a CA process, a router, real Envoys as sidecars, and applications that say which they are."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from meshca.bootstrap import BootstrapSpec, RouterLink
from meshca.client import connect
from meshca.clock import SystemClock
from meshca.demo.envoys import Envoy, running_envoy
from meshca.demo.mesh import free_port
from meshca.demo.server import Server, register, running_server
from meshca.router.app import RouterSettings, Running, running_router
from meshca.router.directory import read
from sds.endpoint import Endpoint
from spiffe.id import SpiffeID
from tests.support.wait import until

TRUST_DOMAIN = "mesh.local"
ROUTER = SpiffeID.parse(f"spiffe://{TRUST_DOMAIN}/meshca/router")
FRONTEND = SpiffeID.parse(f"spiffe://{TRUST_DOMAIN}/ns/default/sa/frontend")
ACCESS_LOG = "access.json"

SERVICES = """\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata:
  name: api-server
spec:
  hosts: [api-server]
  location: MESH_INTERNAL
  resolution: STATIC
  ports:
  - {{number: 80, name: http, protocol: HTTP}}
  workloadSelector:
    labels: {{app: api-server}}
"""
WORKLOAD = """\
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata:
  name: {name}
spec:
  address: 127.0.0.1
  ports: {{http: {port}}}
  labels: {{app: api-server, version: "{version}"}}
  serviceAccount: {account}
"""


@dataclass(slots=True, kw_only=True)
class Behaviour:
    """How an application behaves, and what it saw: `status` is what it answers with, once `released`."""

    status: int = 200
    released: asyncio.Event = field(default_factory=asyncio.Event)
    calls: int = 0

    def __post_init__(self) -> None:
        self.released.set()


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """One application with its sidecar. `port` is where the sidecar takes calls, `app_port` the application's own."""

    name: str
    version: str
    port: int
    app_port: int
    account: str
    behaviour: Behaviour = field(default_factory=Behaviour)

    @property
    def entry(self) -> str:
        """Its WorkloadEntry."""
        return WORKLOAD.format(name=self.name, port=self.port, version=self.version, account=self.account)


@dataclass(slots=True, kw_only=True)
class Answers:
    """What came back: bodies of good answers by text, and what else came by reason."""

    good: Counter[str] = field(default_factory=Counter)
    bad: Counter[str] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        """All of them."""
        return self.good.total() + self.bad.total()


@dataclass(slots=True, kw_only=True)
class RoutedMesh:
    """What runs. `envoys` has the frontend's and those of the replicas, by name."""

    server: Server
    config: Path
    replicas: Mapping[str, Replica]
    settings: RouterSettings
    router: AsyncExitStack
    running: Running
    envoys: dict[str, Envoy]

    async def stop_router(self) -> None:
        """End the router."""
        await self.router.aclose()

    async def start_router(self) -> None:
        """Start it anew, on the port that it had."""
        self.settings = replace(self.settings, port=self.running.port)
        self.running = await self.router.enter_async_context(running_router(self.settings))

    def services(self, *names: str) -> str:
        """The service with these replicas, all if none is named."""
        wanted = [each for name, each in self.replicas.items() if not names or name in names]
        return SERVICES.format() + "".join(each.entry for each in wanted)

    def write(self, name: str, text: str) -> None:
        """Put a file into the configuration directory, whole."""
        temporary = self.config / f".{name}"
        temporary.write_text(text)
        temporary.rename(self.config / name)

    async def ask(self, count: int, answers: Answers | None = None, *, lanes: int = 8, **asked: str) -> Answers:
        """Send so many requests from an application (`caller`, else the frontend's), over several connections at once."""
        answers = answers or Answers()
        port = await self.envoys[asked.pop("caller", "frontend")].port("outbound")
        share, rest = divmod(count, lanes)
        async with asyncio.TaskGroup() as tasks:
            for lane in range(lanes):
                tasks.create_task(_ask(port, share + (lane < rest), answers, **asked))
        return answers

    @asynccontextmanager
    async def under_load(self, *, lanes: int = 4) -> AsyncIterator[Answers]:
        """Keep asking for as long as the body runs; at least 50 answers before and after it."""
        answers = Answers()
        port = await self.envoys["frontend"].port("outbound")
        lasting = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(lanes):
                tasks.create_task(_ask_until(port, lasting, answers))
            await self.more(answers)
            yield answers
            await self.more(answers)
            lasting.set()

    async def more(self, answers: Answers, count: int = 50) -> None:
        """Wait for that many more answers."""
        goal = answers.total + count
        await until(lambda: answers.total >= goal)

    def log(self, name: str) -> list[dict[str, Any]]:
        """The lines of a proxy's access log so far."""
        path = self.envoys[name].directory / ACCESS_LOG
        lines = path.read_text().split("\n")[:-1] if path.exists() else []  # without the one that is being written
        return [json.loads(line) for line in lines]

    async def settled(self) -> None:
        """Wait until each proxy has, and has accepted, what the directory says now."""
        files = read(self.config)

        def done() -> bool:
            router = self.running.router
            return self.running.files == files and self.running.is_settled and len(router.clients) == len(self.envoys)

        await until(done, every=0.005)


async def _ask_until(port: int, end: asyncio.Event, answers: Answers) -> None:
    while not end.is_set():
        await _ask(port, 20, answers)


async def _ask(
    port: int,
    count: int,
    answers: Answers,
    *,
    host: str = "api-server",
    path: str = "/",
    method: str = "GET",
    header: str = "x-nothing: here",
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    request = f"{method} {path} HTTP/1.1\r\nhost: {host}\r\n{header}\r\n\r\n".encode()
    for _ in range(count):
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next(line.split(":")[1] for line in head.lower().split("\r\n") if line.startswith("content-length:"))
        body = (await reader.readexactly(int(length))).decode().strip()
        status = head.split(" ", 2)[1]
        if status == "200":
            answers.good[body] += 1
        else:
            answers.bad[f"{status} {body}"] += 1
    writer.close()


@asynccontextmanager
async def application(answer: str, behaviour: Behaviour | None = None) -> AsyncIterator[int]:
    """An HTTP/1.1 application that says the same to everybody; yields its port."""
    body, how = f"{answer}\n".encode(), behaviour or Behaviour()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                how.calls += 1
                await how.released.wait()
                writer.write(b"HTTP/1.1 %d Said\r\ncontent-length: %d\r\n\r\n%s" % (how.status, len(body), body))
        except (EOFError, OSError):
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield int(server.sockets[0].getsockname()[1])


@asynccontextmanager
async def forwarder(port: int) -> AsyncIterator[int]:
    """A port that leads to another, byte for byte: what an attacker on the way would be."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while content := await reader.read(65536):
            writer.write(content)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs, ours = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pump(reader, ours), pump(theirs, writer), return_exceptions=True)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield int(server.sockets[0].getsockname()[1])


def sidecar(
    mesh_server: Server,
    name: str,
    router_port: int,
    *,
    app_ports: Mapping[int, int],
    outbound_port: int = 0,
    access_log: str = "",
    incremental: bool = True,
) -> BootstrapSpec:
    """The bootstrap of one sidecar, as `meshca envoy bootstrap --router` prints it."""
    link = RouterLink(
        host="127.0.0.1",
        port=router_port,
        identity=ROUTER,
        address="127.0.0.1",
        outbound_port=outbound_port,
        app_ports=app_ports,
        access_log=access_log,
        incremental=incremental,
    )
    return BootstrapSpec(
        node_id=name,
        node_cluster="test",
        sds_socket=str(mesh_server.sockets[name]),
        admin_port=0,
        delta=True,
        router=link,
    )


@asynccontextmanager
async def routed_mesh(
    directory: Path, versions: Mapping[str, str], *files: tuple[str, str], incremental: bool = True
) -> AsyncIterator[RoutedMesh]:
    """Run it: a frontend, and for each name a replica of api-server of that version. `files` are further configuration."""
    async with AsyncExitStack() as stack:
        names = ["frontend", *versions]
        server = await stack.enter_async_context(running_server(directory, [*names, "router"]))
        behaviours = {name: Behaviour() for name in versions}
        replicas = {
            name: Replica(
                name=name,
                version=version,
                port=free_port(),
                app_port=await stack.enter_async_context(application(version, behaviours[name])),
                account=name,
                behaviour=behaviours[name],
            )
            for name, version in versions.items()
        }
        async with connect(server.admin_socket) as client:
            await register(client, str(ROUTER), "socket:router")
            for name in names:
                await register(client, f"spiffe://{TRUST_DOMAIN}/ns/default/sa/{name}", f"socket:{name}")
        config = directory / "config"
        config.mkdir()
        (config / "services.yaml").write_text(SERVICES.format() + "".join(each.entry for each in replicas.values()))
        for name, text in files:
            (config / name).write_text(text)
        settings = RouterSettings(
            directory=config,
            endpoint=Endpoint.at(server.sockets["router"]),
            port=0,
            status_socket=directory / "router-status.sock",
            now=SystemClock().now,
        )
        router = await stack.enter_async_context(AsyncExitStack())
        running = await router.enter_async_context(running_router(settings))
        mesh = RoutedMesh(
            server=server,
            config=config,
            replicas=replicas,
            settings=settings,
            router=router,
            running=running,
            envoys={},
        )
        for name in [*versions, "frontend"]:
            ports = {replicas[name].port: replicas[name].app_port} if name in replicas else {}
            log = str(directory / name / ACCESS_LOG)
            spec = sidecar(server, name, running.port, app_ports=ports, access_log=log, incremental=incremental)
            mesh.envoys[name] = await stack.enter_async_context(running_envoy(name, spec, directory / name))
        yield mesh
