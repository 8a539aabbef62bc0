"""kill -9 at every step of a root rotation: whatever was under way, the next start goes on from the journal and nothing is lost."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from meshca.adapters.store_sql import SqlStore
from meshca.client import CallFailed, connect
from meshca.clock import SystemClock
from meshca.demo.server import Server, register, running_server
from meshca.model import Kind, Slots, State
from meshca.proto import admin_pb2 as pb
from sds.endpoint import Endpoint
from sds.workload_client import WorkloadClient, X509Context
from spiffe.id import TrustDomain
from spiffe.x509verify import verify
from tests.support.command import meshca
from tests.support.wait import until

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
MOMENTS = [(seen, delay) for delay in (0.0, 0.005) for seen in range(6)]
CHANGED = '"becomes"', "becomes="


@dataclass
class Witness:
    """A workload that notes whatever would betray a step taken too early, and all that was ever published."""

    complaints: list[str] = field(default_factory=list)
    contexts: list[X509Context] = field(default_factory=list)
    published: dict[int, frozenset[str]] = field(default_factory=dict)
    last_sequence: int = 0
    head: str = ""

    async def watch(self, socket: Path) -> None:
        """Take each message; a new leaf must hold by the bundle that we had already."""
        async for context in WorkloadClient(Endpoint.at(socket)).x509_contexts():
            if context.denied:
                self.complaints.append(f"denied: {context.denied}")
                continue
            (identity,) = context.identities
            known = self.contexts[-1] if self.contexts else context
            serials = [each.identities[0].svid.leaf.serial_number for each in self.contexts[-1:]]
            if identity.svid.leaf.serial_number not in serials:
                verify(identity.svid.chain, known.bundles, SystemClock().now())
            self.contexts.append(context)

    def saw(self, slots: Slots) -> None:
        """Note what was published: no sequence falls or comes again with other content."""
        roots = frozenset(slot.id for slot in slots.of(Kind.ROOT))
        if slots.sequence < self.last_sequence or self.published.setdefault(slots.sequence, roots) != roots:
            self.complaints.append(f"sequence {slots.sequence} after {self.last_sequence}, roots {sorted(roots)}")
        self.last_sequence = slots.sequence


@asynccontextmanager
async def witness(socket: Path) -> AsyncIterator[Witness]:
    seen = Witness()
    task = asyncio.create_task(seen.watch(socket))
    try:
        yield seen
    finally:
        task.cancel()
        (error,) = await asyncio.gather(task, return_exceptions=True)
        assert isinstance(error, asyncio.CancelledError), error


async def journal(server: Server) -> Slots:
    """What the journal on the disk says, whether the server runs or not."""
    async with SqlStore.open(f"sqlite+aiosqlite:///{server.directory}/data/store.db") as store:
        saved = await store.journal.load()
    assert saved is not None
    return saved


def keys(server: Server) -> frozenset[str]:
    return frozenset(path.name.removesuffix(".pem") for path in (server.directory / "data/keys").iterdir())


def changes(server: Server) -> int:
    """How often an authority has changed, by the log."""
    return sum(any(word in line for word in CHANGED) for line in server.log().splitlines())


async def rotate_and_note_heads(server: Server, seen: Witness) -> None:
    """Ask for a rotation, and keep the head of the record as far as it is told, as an operator would."""
    try:
        async with connect(server.admin_socket) as client:
            async for _ in client.authorities.Rotate(pb.KindRequest(kind="root")):
                seen.head = (await client.status.Status(pb.Empty())).audit_head
    except CallFailed:
        pass  # it was killed, which is the point


async def live_and_die(server: Server, seen: Witness, after: int, delay: float) -> None:
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
        seen = await stack.enter_async_context(witness(server.sockets["a"]))
        await until(lambda: seen.contexts)
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
        assert seen.complaints == []
        assert "Traceback" not in server.log()
        verdict = await meshca("audit", "verify", "--head", seen.head, MESHCA_ADMIN_SOCKET=server.admin_socket)
        assert verdict.code == 0, verdict.err
