"""What somebody at a terminal is told of a rotation that he does not see to its end, and of an authority that is trusted no longer."""

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from meshca.client import connect
from meshca.csr import make_csr
from meshca.demo.server import Server, running_server
from meshca.proto import admin_pb2 as pb
from tests.support.command import meshca

CSR = make_csr(ec.generate_private_key(ec.SECP256R1()))


@asynccontextmanager
async def held_up(directory: Path) -> AsyncIterator[Server]:
    """A server with a minted leaf: a rotation of its root waits for that."""
    async with running_server(directory, ["a"]) as server:
        async with connect(server.admin_socket) as client:
            await client.svids.Mint(pb.MintRequest(spiffe_id="spiffe://mesh.local/m", csr=CSR))
        yield server


async def interrupted(_: Server, command: asyncio.subprocess.Process) -> None:
    command.send_signal(signal.SIGINT)


async def killed(server: Server, _: asyncio.subprocess.Process) -> None:
    await server.kill()


async def stopped(server: Server, _: asyncio.subprocess.Process) -> None:
    await server.stop()


@pytest.mark.parametrize(
    ("end", "code", "told"),
    [
        (interrupted, 130, "the server goes on by itself: "),
        (killed, 4, "the server ended in the middle of it, and goes on after its next start: "),
        (stopped, 4, "the server ended in the middle of it, and goes on after its next start: "),
    ],
)
async def test_whoever_does_not_see_the_end_of_a_rotation_is_told_what_becomes_of_it(
    tmp_path: Path, end: Callable[[Server, asyncio.subprocess.Process], Awaitable[None]], code: int, told: str
):
    async with held_up(tmp_path) as server:
        flags = ["authority", "rotate", "--kind", "root", "--admin-socket", server.admin_socket]
        command = await asyncio.create_subprocess_exec(sys.executable, "-m", "meshca", *flags, stdout=PIPE, stderr=PIPE)
        assert command.stdout is not None
        while b"waiting" not in (line := await command.stdout.readline()):
            assert line
        await end(server, command)
        _, said = await command.communicate()
        see = "`meshca authority list` and `meshca status` show how far it is\n"
        assert (command.returncode, said.decode()) == (code, told + see)


async def test_a_tainted_authority_is_shown_as_such_while_it_is_replaced(tmp_path: Path):
    async with held_up(tmp_path) as server:
        async with connect(server.admin_socket) as client:
            found = (await client.authorities.List(pb.Empty())).authorities
            (root,) = [each.id for each in found if each.kind == "root"]
        tainted = await meshca("authority", "taint", root, MESHCA_ADMIN_SOCKET=server.admin_socket)
        assert "state        active, tainted" in tainted.out
        listed = await meshca("authority", "list", MESHCA_ADMIN_SOCKET=server.admin_socket)
        assert "root          active, tainted  " in listed.out
        assert f"root {root[:8]}: tainted; is replaced as soon as its successor is ready" in listed.out
