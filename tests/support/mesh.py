"""A small real mesh for end-to-end tests: a server process, two Envoys, an application, and a load that counts every request."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from meshca.bootstrap import BootstrapSpec, Inbound, Outbound
from meshca.client import AdminClient, connect
from meshca.demo.application import running_application
from meshca.demo.envoys import Envoy, running_envoy
from meshca.demo.load import Ask, Tally, keep_asking
from meshca.demo.observe import InUse, look
from meshca.demo.server import Server, register, running_server
from meshca.proto import admin_pb2 as pb
from spiffe.id import SpiffeID
from tests.support.wait import until

FRONTEND = SpiffeID.parse("spiffe://mesh.local/frontend")
BACKEND = SpiffeID.parse("spiffe://mesh.local/backend")
LEAF_SECONDS = 60
SETTLE = "500ms"  # on a busy machine a handshake in flight may take longer than the demo allows it


@dataclass(slots=True, kw_only=True)
class Mesh:
    """What runs. `client` is good for one life of the server: after a restart, use `connect` again."""

    server: Server
    client: AdminClient
    frontend: Envoy
    backend: Envoy
    load: Tally = field(default_factory=Tally)

    async def rotate(self, kind: str) -> list[pb.Progress]:
        """Walk a rotation to its end, through a client of its own."""
        async with connect(self.server.admin_socket) as client:
            return [progress async for progress in client.authorities.Rotate(pb.KindRequest(kind=kind))]

    async def authorities(self, kind: str) -> list[pb.Authority]:
        """The authorities of a kind, as the server lists them."""
        async with connect(self.server.admin_socket) as client:
            return [each for each in (await client.authorities.List(pb.Empty())).authorities if each.kind == kind]

    async def in_use(self) -> tuple[InUse, InUse]:
        """What frontend and backend say that they use."""
        return await look(self.frontend), await look(self.backend)

    @asynccontextmanager
    async def under_load(self, *, pause: float = 0.005) -> AsyncIterator[Tally]:
        """Ask on kept-alive and on new connections for as long as the body runs; at least 50 answers before and after it."""
        kept, fresh = [await self.frontend.port(name) for name in ("kept", "fresh")]
        targets = [(kept, True), (kept, True), (fresh, True), (fresh, False)]
        tasks = [
            asyncio.create_task(keep_asking(Ask(port=p), self.load, pause=pause, kept_alive=k)) for p, k in targets
        ]
        try:
            await self.more_answers(50)
            yield self.load
            await self.more_answers(50)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def more_answers(self, count: int) -> None:
        """Wait for that many more requests to end."""
        goal = self.load.requests + count
        await until(lambda: self.load.requests >= goal)


@asynccontextmanager
async def running_mesh(
    directory: Path, *, delta: bool = False, leaf_seconds: int = LEAF_SECONDS
) -> AsyncIterator[Mesh]:
    """Two Envoys without a router, ready and able to talk."""
    async with AsyncExitStack() as stack:
        application = await stack.enter_async_context(running_application())
        server = await stack.enter_async_context(running_server(directory, ["frontend", "backend"], settle=SETTLE))
        client = await stack.enter_async_context(connect(server.admin_socket))
        await register(client, str(FRONTEND), "socket:frontend", ttl=leaf_seconds)
        await register(client, str(BACKEND), "socket:backend", ttl=leaf_seconds)
        spec = backend_spec(server, application, delta=delta)
        backend = await stack.enter_async_context(running_envoy("backend", spec, directory / "backend"))
        spec = frontend_spec(server, await backend.port("inbound"), delta=delta)
        frontend = await stack.enter_async_context(running_envoy("frontend", spec, directory / "frontend"))
        yield Mesh(server=server, client=client, frontend=frontend, backend=backend)


def backend_spec(server: Server, application: int, *, delta: bool = False) -> BootstrapSpec:
    """The backend: mutual TLS from the frontend only, in front of the application."""
    inbound = Inbound(name="inbound", port=0, address="127.0.0.1", peers=(FRONTEND,), app_port=application)
    return replace(_spec("backend", server, delta=delta), inbound=(inbound,))


def frontend_spec(server: Server, upstream: int, *, delta: bool = False) -> BootstrapSpec:
    """The frontend: two plain listeners towards the backend, one that keeps its connections and one that never does."""
    kept, fresh = (
        Outbound(
            name=name, port=0, host="127.0.0.1", host_port=upstream, peer=BACKEND, max_requests_per_connection=limit
        )
        for name, limit in (("kept", 0), ("fresh", 1))
    )
    return replace(_spec("frontend", server, delta=delta), outbound=(kept, fresh))


def _spec(name: str, server: Server, *, delta: bool) -> BootstrapSpec:
    socket = str(server.sockets[name])
    return BootstrapSpec(node_id=name, node_cluster="test", sds_socket=socket, admin_port=0, delta=delta)
