"""A small real mesh for end-to-end tests: a server process, two Envoys, an application, and a load that counts every request."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from meshca.client import AdminClient, connect
from meshca.demo.app import BACKEND, FRONTEND, backend_spec, frontend_spec
from meshca.demo.application import running_application
from meshca.demo.envoys import Envoy, running_envoy
from meshca.demo.load import Tally, keep_asking
from meshca.demo.observe import InUse, look
from meshca.demo.server import Server, register, running_server
from meshca.proto import admin_pb2 as pb
from tests.support.wait import until

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
        tasks = [asyncio.create_task(keep_asking(p, self.load, pause=pause, kept_alive=k)) for p, k in targets]
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
    """The mesh of the demo, ready and able to talk."""
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
