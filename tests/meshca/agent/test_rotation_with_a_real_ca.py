"""Agent and CA together, without a wire in between: each waits for the other's proof, and nobody is ever without a valid SVID."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from meshca.agent.workloads import Workloads
from meshca.model import Kind, State
from meshca.server.app import CAServer
from sds.provider import Proof, Subscription
from spiffe.x509verify import verify
from tests.meshca.agent.test_workloads import caller
from tests.support.ca import memory_ca
from tests.support.clock import FakeClock
from tests.support.kernel import HOUR
from tests.support.scripted import OURS, ScriptedAttestor
from tests.support.values import entry, selectors
from tests.support.wait import until

PROCESSES = ("one", "two", "three")


class Party:
    """A CA, its agent, and clients that acknowledge what they get, one resource at a time."""

    def __init__(self, directory: Path) -> None:
        self.clock = FakeClock()
        self.ca: CAServer = memory_ca(self.clock, directory)
        self.attestor = ScriptedAttestor()
        for each in PROCESSES:
            self.attestor.sees(each, "unix:uid:0")
        self.serials: dict[str, int] = {}

    def agent(self) -> Workloads:
        return Workloads(
            authority=self.ca.ca,
            attestor=self.attestor,
            clock=self.clock,
            make_key=lambda: ec.generate_private_key(ec.SECP256R1()),
            find=lambda _: caller(),
            nap=0.01,
        )

    async def client(self, name: str, subscription: Subscription) -> None:
        """Take whatever comes, as an Envoy does: the leaf must verify with the bundle that came along."""
        async for grants in subscription.grants.watch():
            if OURS in grants.bundles:
                subscription.delivered(Proof(bundle=grants.bundles[OURS].digest))
            for identity in grants.identities:
                verify(identity.svid.chain, grants.bundles, self.clock.now())
                self.serials[name] = identity.svid.serial
                subscription.delivered(Proof(serials=frozenset({identity.svid.serial})))

    async def rotate(self, kind: Kind) -> None:
        """Ask for a rotation and tick until only the new authority is left."""
        before = self.ca.rotation.slots.active(kind)
        await self.ca.rotation.rotate(kind)

        async def done() -> bool:
            self.clock.advance(timedelta(seconds=1))
            await self.ca.rotation.tick()
            left = self.ca.rotation.slots.of(kind)
            return [slot.state for slot in left] == [State.ACTIVE] and left[0] != before

        await until(done)


@pytest.fixture
async def party(tmp_path: Path) -> AsyncIterator[Party]:
    made = Party(tmp_path)
    await made.ca.start()
    await made.ca.registry.create(entry("web", selectors=selectors("unix:uid:0")))
    agent = made.agent()
    async with AsyncExitStack() as stack:
        tasks = [asyncio.create_task(agent.run())]
        for each in PROCESSES:
            subscription = await stack.enter_async_context(agent.subscribe(caller(each)))
            tasks.append(asyncio.create_task(made.client(each, subscription)))
        await until(lambda: len(made.serials) == len(PROCESSES))
        yield made
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(end) for end in ends} == {asyncio.CancelledError}


@pytest.mark.parametrize("kind", list(Kind))
async def test_a_rotation_walks_to_its_end_on_what_the_agent_proves(party: Party, kind: Kind):
    before = dict(party.serials)
    await party.rotate(kind)
    assert all(party.serials[each] != before[each] for each in PROCESSES)
    assert party.ca.ledger.live_under(party.ca.rotation.slots.of(kind)[0].id, party.clock.now()) == len(PROCESSES)


async def test_when_the_clock_jumps_ahead_and_comes_back_all_have_valid_leaves_each_time(party: Party):
    roots = party.ca.rotation.slots.of(Kind.ROOT)
    for jump in (30 * HOUR, -30 * HOUR):
        before = dict(party.serials)
        party.clock.jump(jump)
        await party.ca.rotation.tick()
        await until(lambda: all(party.serials[each] != before[each] for each in PROCESSES))  # noqa: B023 - awaited here
    assert party.ca.rotation.slots.of(Kind.ROOT) == roots
    assert party.ca.rotation.alarms(party.clock.now()) == ()
