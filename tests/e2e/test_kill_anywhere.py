"""kill -9 at every step of a root rotation: whatever was under way, the next start goes on from the journal and nothing is lost."""

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from meshca.adapters.store_sql import SqlStore
from meshca.client import CallFailed, connect
from meshca.demo.server import Server, register, running_server
from meshca.model import Kind, Slots, State
from meshca.proto import admin_pb2 as pb
from spiffe.id import TrustDomain
from tests.support.command import meshca
from tests.support.wait import until
from tests.support.witness import witness

OURS = TrustDomain("mesh.local")
SETTINGS = """\
trust_domain = "mesh.local"
data_dir = "{directory}/data"
admin_socket = "{directory}/admin.sock"

[http]
enabled = false

[authority]
settle = "20ms"
tick = "10ms"
"""
# A life ends when so many changes of authorities were logged, and so many seconds after.
MOMENTS = [*((seen, 0.0) for seen in range(6)), *((seen, 0.005) for seen in (1, 2, 4))]
CHANGED = '"becomes"', "becomes="


@dataclass
class Seen:
    """What was ever published, by sequence, and the last head of the record that anybody was told."""

    published: dict[int, frozenset[str]] = field(default_factory=dict)
    last: int = 0
    head: str = ""

    def saw(self, slots: Slots) -> None:
        """No sequence falls or comes again with other content."""
        roots = frozenset(slot.id for slot in slots.of(Kind.ROOT))
        assert slots.sequence >= self.last
        assert self.published.setdefault(slots.sequence, roots) == roots
        self.last = slots.sequence


async def journal(server: Server) -> Slots:
    """What the journal on the disk says, whether the server runs or not."""
    async with SqlStore.open(f"sqlite:///{server.directory}/data/store.db") as store:
        saved = await store.journal.load()
    assert saved is not None
    return saved


def keys(server: Server) -> frozenset[str]:
    """Those that authorities have; what was just made at a kill is set aside."""
    return frozenset(path.stem for path in (server.directory / "data/keys").glob("*.pem"))


def changes(server: Server) -> int:
    """How often an authority has changed, by the log."""
    return sum(any(word in line for word in CHANGED) for line in server.log().splitlines())


async def rotate_and_note_heads(server: Server, seen: Seen) -> None:
    """Ask for a rotation, and keep the head of the record as far as it is told, as an operator would."""
    try:
        async with connect(server.admin_socket) as client:
            async for _ in client.authorities.Rotate(pb.KindRequest(kind="root")):
                seen.head = (await client.status.Status(pb.Empty())).audit_head
    except CallFailed:
        pass  # it was killed, which is the point


async def live_and_die(server: Server, seen: Seen, after: int, delay: float) -> None:
    """One life: rotate, and be killed at this moment, or once the rotation has ended."""
    begun = changes(server)
    rotation = asyncio.create_task(rotate_and_note_heads(server, seen))
    await until(lambda: rotation.done() or changes(server) - begun >= after, every=0.001)
    await asyncio.sleep(delay)  # the moment of the kill is the subject here
    await server.kill()
    await rotation


def counts(slots: Slots) -> Mapping[str, int]:
    return {f"{kind} {state}": len(slots.of(kind, state)) for kind in Kind for state in State if slots.of(kind, state)}


@pytest.mark.slow
async def test_whenever_it_is_killed_a_rotation_goes_on_from_the_journal_and_nothing_is_lost(tmp_path: Path):
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(running_server(tmp_path, ["a"], settings=SETTINGS))
        async with connect(server.admin_socket) as client:
            await register(client, "spiffe://mesh.local/a", "socket:a")
        workload = await stack.enter_async_context(witness(server.sockets["a"]))
        seen = Seen()
        first = await journal(server)
        struck = set()
        for after, delay in MOMENTS:
            await live_and_die(server, seen, after, delay)
            slots = await journal(server)
            seen.saw(slots)
            struck.add(str(counts(slots)))
            assert len(slots.of(Kind.ROOT)) <= 3
            assert len(slots.of(Kind.ROOT, State.ACTIVE)) == len(slots.of(Kind.INTERMEDIATE, State.ACTIVE)) == 1
            await server.start()
            async with connect(server.admin_socket) as client:
                await client.audit.Verify(pb.VerifyAuditRequest(head=seen.head))

        async def at_rest() -> bool:
            slots = await journal(server)
            seen.saw(slots)
            return counts(slots) == {"root active": 1, "intermediate active": 1}

        await until(at_rest)
        last = await journal(server)
        await until(lambda: keys(server) == {slot.id for slot in last.slots})
        assert not {slot.id for slot in first.slots} & {slot.id for slot in last.slots}
        assert len(struck) >= 3, f"it was only ever struck at {struck}"
        assert workload.denials == []
        assert "Traceback" not in server.log()
        verdict = await meshca("audit", "verify", "--head", seen.head, MESHCA_ADMIN_SOCKET=server.admin_socket)
        assert verdict.code == 0, verdict.err
