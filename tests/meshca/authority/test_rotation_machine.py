"""Any order of leaves, words of holders, wishes, time, restarts and lost keys; and what always holds of it.

The model knows what every process really has in its hands: its leaf, and the bundle by which it judges others. It takes new ones
whenever it likes, late or never, and tells only the truth. While nobody forces anything, no process meets a peer that it can not verify.
"""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from meshca.errors import MeshcaError, NotFound, Refused
from meshca.model import HolderReport, Issued, Kind, Slots, State
from spiffe.bundle import Bundle, BundleSet
from spiffe.x509verify import verify
from tests.support.kernel import RULES, Kernel

MINUTE = timedelta(minutes=1)
FAST = replace(
    RULES, root_lifetime=40 * MINUTE, intermediate_lifetime=12 * MINUTE, longest_ttl=2 * MINUTE, settle=MINUTE / 6
)
KINDS, PROCESSES = st.sampled_from(Kind), st.sampled_from(["p1", "p2", "p3"])


@dataclass
class Process:
    """What a process has: the leaf that it shows to others, leaves that are on their way, and the bundle that it judges by."""

    leaf: Issued
    bundle: Bundle
    coming: list[Issued] = field(default_factory=list)


class Rotations(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.processes: dict[str, Process] = {}
        self.published: list[Slots] = []

    def teardown(self) -> None:
        self.loop.close()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    @property
    def now(self) -> datetime:
        return self.kernel.clock.now()

    @initialize()
    def start(self) -> None:
        self.kernel = Kernel(rules=FAST)
        self.kernel.changes = self.published
        self.run(self.kernel.restart())

    @rule(name=PROCESSES)
    def is_issued_a_leaf(self, name: str) -> None:
        """A new process gets the bundle along; one that has a leaf gets the new one when it takes it."""
        with suppress(AssertionError, MeshcaError):
            self.kernel.intermediate  # noqa: B018 - between the end of one and the beginning of the next there may be none
            issued = self.run(self.kernel.leaf("web", holder=name, ttl=2 * MINUTE))
            if name in self.processes:
                self.processes[name].coming.append(issued)
            else:
                self.processes[name] = Process(leaf=issued, bundle=self.kernel.slots.bundle)

    @rule(name=PROCESSES)
    def takes_what_is_published(self, name: str) -> None:
        """Bundle first, then the newest leaf, as an agent delivers them; then it says so."""
        if process := self.processes.get(name):
            process.bundle = self.kernel.slots.bundle
            if process.coming:
                process.leaf = process.coming[-1]
                process.coming.clear()
            self.says(name)
            self.run(self.kernel.rotation.tick())

    @rule(name=PROCESSES)
    def says_what_it_has(self, name: str) -> None:
        if name in self.processes:
            self.says(name)

    def says(self, name: str) -> None:
        process = self.processes[name]
        held = frozenset({process.leaf.leaf.serial})
        told = HolderReport(holder=name, bundle=process.bundle.digest, held=held)
        self.kernel.ledger.report(told, self.now)

    @rule(name=PROCESSES)
    def ends(self, name: str) -> None:
        if self.processes.pop(name, None):
            self.kernel.ledger.report(HolderReport(holder=name, gone=True), self.now)

    @rule(seconds=st.integers(1, 120))
    def time_passes(self, seconds: int) -> None:
        self.run(self.kernel.passes(timedelta(seconds=seconds)))
        self.processes = {n: each for n, each in self.processes.items() if each.leaf.leaf.not_after > self.now}

    @rule(seconds=st.integers(1, 30))
    def the_clock_is_set_back_a_little(self, seconds: int) -> None:
        self.kernel.clock.jump(-timedelta(seconds=seconds))
        self.run(self.kernel.rotation.tick())

    @rule(minutes=st.integers(2, 60))
    def the_clock_jumps_ahead_for_a_moment(self, minutes: int) -> None:
        for by in (minutes, -minutes):
            self.kernel.clock.jump(by * MINUTE)
            self.run(self.kernel.rotation.tick())

    @rule()
    def restarts(self) -> None:
        self.run(self.kernel.restart())

    @rule(kind=KINDS)
    def is_told_to_rotate(self, kind: Kind) -> None:
        self.run(self.kernel.rotation.rotate(kind))

    @rule(kind=KINDS)
    def is_told_to_prepare(self, kind: Kind) -> None:
        with suppress(Refused, NotFound):
            self.run(self.kernel.rotation.prepare(kind))

    @rule(kind=KINDS, number=st.integers(0, 3))
    def is_told_to_activate(self, kind: Kind, number: int) -> None:
        with suppress(Refused, NotFound):
            self.run(self.kernel.rotation.activate(self.some(kind, number), force=False))

    @rule(kind=KINDS, number=st.integers(0, 3))
    def is_told_to_taint(self, kind: Kind, number: int) -> None:
        with suppress(Refused, NotFound):
            self.run(self.kernel.rotation.taint(self.some(kind, number)))

    @rule(kind=KINDS, number=st.integers(0, 3), hurry=st.booleans())
    def is_told_to_revoke(self, kind: Kind, number: int, hurry: bool) -> None:
        """By force only an intermediate: its root still waits for every holder."""
        with suppress(Refused, NotFound):
            force = hurry and kind is Kind.INTERMEDIATE
            self.run(self.kernel.rotation.revoke(self.some(kind, number), force=force))

    def some(self, kind: Kind, number: int) -> str:
        """One of a kind."""
        there = self.kernel.slots.of(kind)
        return there[number % len(there)].id if there else ""

    @rule(kind=KINDS)
    def loses_a_key(self, kind: Kind) -> None:
        if active := self.kernel.slots.active(kind):
            self.kernel.keys.delete(active.id)
            self.run(self.kernel.rotation.tick())

    @invariant()
    def every_process_verifies_every_other(self) -> None:
        """While a clock that was set back is before the start of a leaf, no CA can help; but the path to a root holds."""
        for peer in self.processes.values():
            now = max(self.now, *(each.not_valid_before_utc for each in peer.leaf.chain))
            if peer.leaf.leaf.not_after > now:
                for judge in self.processes.values():
                    verify(peer.leaf.chain, BundleSet([judge.bundle]), now)

    @invariant()
    def the_slots_are_sound(self) -> None:
        slots = self.kernel.slots
        assert len(slots.of(Kind.ROOT)) <= 3
        assert len(slots.of(Kind.ROOT, State.ACTIVE)) <= 1
        assert len(slots.of(Kind.INTERMEDIATE, State.ACTIVE)) <= 1
        assert {s.id for s in slots.slots if s.state in {State.PREPARED, State.ACTIVE}} <= self.kernel.keys.key_ids()
        if active := slots.active(Kind.INTERMEDIATE):
            assert slots.get(active.issuer_id) in slots.of(Kind.ROOT, State.ACTIVE, State.OLD, State.TAINTED)

    @invariant()
    def the_sequence_rises_with_each_change_of_the_bundle(self) -> None:
        for before, after in zip(self.published, self.published[1:], strict=False):
            assert after.sequence == before.sequence + (after.bundle.digest != before.bundle.digest)
        del self.published[:-1]


TestRotations = Rotations.TestCase
TestRotations.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
