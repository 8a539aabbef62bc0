"""Run `meshca up` as a user would: a child process with a directory of its own, talked to over its sockets only.

It can be killed and started again.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from meshca.client import AdminClient, CallFailed, connect
from meshca.demo.envoys import stop
from meshca.errors import CannotStart, MeshcaError
from meshca.proto import admin_pb2 as pb

READY_SECONDS = 30.0
POLL_SECONDS = 0.02

SETTINGS = """\
trust_domain = "{trust_domain}"
data_dir = "{directory}/data"
admin_socket = "{directory}/admin.sock"

[http]
enabled = false

[authority]
settle = "{settle}"
tick = "50ms"
"""


@dataclass(slots=True, kw_only=True)
class Server:
    """A `meshca up` in a directory of its own. `sockets` are the workload sockets by name."""

    directory: Path
    trust_domain: str
    sockets: Mapping[str, Path]
    settings: str = ""
    settle: str = "200ms"
    router: str = ""
    """TOML of the section `router`."""
    process: asyncio.subprocess.Process | None = field(default=None, init=False)

    @property
    def admin_socket(self) -> str:
        """Where administrators ask."""
        return str(self.directory / "admin.sock")

    @property
    def pid(self) -> int:
        """The process id. Raises MeshcaError when it does not run."""
        if self.process is None:
            raise MeshcaError("the server does not run")
        return self.process.pid

    def log(self) -> str:
        """What the server has logged so far, over all its starts."""
        return (self.directory / "server.log").read_text()

    async def start(self) -> None:
        """Start it and wait until it is ready. Raises CannotStart."""
        self._write_settings()
        with self._open_log() as log:
            self.process = await asyncio.create_subprocess_exec(
                *self._command(), stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, env=_environment()
            )
        await self._until_ready()

    async def stop(self) -> None:
        """Ask it to drain and end."""
        if self.process is not None:
            await stop(self.process)

    async def kill(self) -> None:
        """End it as a crash would: nothing is flushed, nothing is said."""
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()

    def _open_log(self) -> BinaryIO:
        return (self.directory / "server.log").open("ab")

    def _command(self) -> Sequence[str]:
        sockets = [f"--socket={name}={path}" for name, path in self.sockets.items()]
        return [sys.executable, "-m", "meshca", "up", f"--config={self.directory / 'meshca.toml'}", *sockets]

    def _write_settings(self) -> None:
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        base = SETTINGS.format(trust_domain=self.trust_domain, directory=self.directory, settle=self.settle)
        base += self.router
        (self.directory / "meshca.toml").write_text(self.settings.format(directory=self.directory) or base)

    async def _until_ready(self) -> None:
        try:
            async with asyncio.timeout(READY_SECONDS):
                while not await self._ready():
                    if self.process is not None and self.process.returncode is not None:
                        raise CannotStart(f"meshca ended at start: {self.log()[-2000:]}")
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError as error:
            raise CannotStart(f"meshca was not ready within {READY_SECONDS:g} s: {self.log()[-2000:]}") from error

    async def _ready(self) -> bool:
        try:
            async with connect(self.admin_socket) as client:
                return bool((await client.status.Status(pb.Empty())).ready)
        except CallFailed:
            return False


@asynccontextmanager
async def running_server(
    directory: Path,
    sockets: Sequence[str],
    *,
    trust_domain: str = "mesh.local",
    settings: str = "",
    settle: str = "200ms",
    router: str = "",
) -> AsyncIterator[Server]:
    """Run a server with workload sockets of these names until the context ends. `{directory}` in the settings (TOML) is filled in.

    `router` is the section of that name, if it is to run one.
    """
    paths = {name: directory / f"{name}.sock" for name in sockets}
    server = Server(
        directory=directory, trust_domain=trust_domain, sockets=paths, settings=settings, settle=settle, router=router
    )
    try:
        await server.start()
        yield server
    finally:
        await server.stop()


async def register(client: AdminClient, spiffe_id: str, *selectors: str, ttl: int | None = None) -> str:
    """Create an entry and return its id. `ttl` is in seconds."""
    entry = pb.Entry(spiffe_id=spiffe_id, selectors=selectors)
    if ttl is not None:
        entry.ttl.FromSeconds(ttl)
    return str((await client.entries.Create(pb.CreateEntryRequest(entry=entry))).id)


def _environment() -> dict[str, str]:
    """Our environment without what would configure the server behind our back."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("MESHCA_", "SPIFFE_", "NOTIFY_"))}
