"""A whole kernel in memory, on a clock that tests move: restarted as often as they like, with every port replaceable.

kernel = await Kernel.started()
issued = await kernel.leaf("web", holder="p1")    # signed, counted, and p1 holds nothing that it did not get with it
kernel.takes("p1")                                # p1 proves that it holds the published bundle
await kernel.passes(HOUR)                         # time passes, and the rotation ticks
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from meshca.adapters.keys_memory import MemoryKeyManager
from meshca.adapters.store_memory import MemoryAuditLog, MemoryJournal
from meshca.authority.holders import Ledger
from meshca.authority.issue import Issuer, Order
from meshca.authority.keyring import Keyring
from meshca.authority.recorder import Recorder
from meshca.authority.rotation import Rotation
from meshca.authority.slots import MAX_ROOTS, Rules
from meshca.authority.steady import SteadyClock
from meshca.csr import make_csr
from meshca.model import Entry, HolderReport, Issued, KeyType, Kind, Slot, Slots, State
from meshca.ports import AuditLog, Journal, KeyManager
from tests.support.clock import FakeClock
from tests.support.values import OURS, entry

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
RULES = Rules(root_lifetime=365 * DAY, intermediate_lifetime=DAY, longest_ttl=HOUR, settle=timedelta(seconds=10))
KEY_TYPES = {Kind.ROOT: KeyType.EC_P256, Kind.INTERMEDIATE: KeyType.EC_P256}
LEAF_KEY = ec.generate_private_key(ec.SECP256R1())
CSR = make_csr(LEAF_KEY)


@dataclass(kw_only=True)
class Kernel:
    """The parts, wired as the server does it. What the tests script is given to `started`."""

    clock: FakeClock = field(default_factory=FakeClock)
    keys: KeyManager = field(default_factory=MemoryKeyManager)
    journal: Journal = field(default_factory=MemoryJournal)
    audit: AuditLog = field(default_factory=MemoryAuditLog)
    abandon_keys: bool = False
    rules: Rules = RULES
    key_types: Mapping[Kind, KeyType] = field(default_factory=lambda: KEY_TYPES)
    shorten: float = 0.0
    changes: list[Slots] = field(default_factory=list)

    @classmethod
    async def started(cls, **parts: Any) -> Self:
        """A kernel that has loaded what its ports keep."""
        kernel = cls(**parts)
        await kernel.restart()
        return kernel

    async def restart(self) -> None:
        """What a new process does: only the ports remember."""
        self.wire()
        await self.recorder.load()
        self.ledger.restore(await self.recorder.live(), self.clock.now())
        await self.rotation.start()

    def wire(self) -> None:
        """Put the parts together."""
        self.ledger = Ledger()
        self.recorder = Recorder(log=self.audit, clock=self.clock, writer="server")
        self.issuer = Issuer(
            keys=self.keys, recorder=self.recorder, clock=self.clock, default_ttl=HOUR, draw=lambda: self.shorten
        )
        self.rotation = Rotation(
            trust_domain=OURS,
            journal=self.journal,
            keys=Keyring(self.keys, abandon=self.abandon_keys),
            issuer=self.issuer,
            ledger=self.ledger,
            recorder=self.recorder,
            clock=SteadyClock(self.clock),
            rules=lambda: self.rules,
            key_types=self.key_types,
            alarm_after=timedelta(minutes=15),
            on_change=lambda: self.changes.append(self.slots),
        )

    @property
    def slots(self) -> Slots:
        return self.rotation.slots

    @property
    def root(self) -> Slot:
        return self.active(Kind.ROOT)

    @property
    def intermediate(self) -> Slot:
        return self.active(Kind.INTERMEDIATE)

    def active(self, kind: Kind) -> Slot:
        slot = self.slots.active(kind)
        assert slot is not None
        return slot

    def prepared(self, kind: Kind) -> Slot:
        (slot,) = self.slots.of(kind, State.PREPARED)
        return slot

    def states(self) -> str:
        """All authorities in one line: `root old, root active / intermediate active`."""
        return " / ".join(", ".join(f"{s.state}" for s in self.slots.of(kind)) for kind in Kind)

    async def leaf(self, name: str = "web", *, holder: str = "p1", **changes: Any) -> Issued:
        """A leaf in the hands of a process, counted as the server does it."""
        issued = await self.issue(entry(name, **changes), holder=holder)
        assert isinstance(issued, Issued)
        return issued

    async def issue(self, granted: Entry, *, holder: str = "p1", csr: bytes = CSR) -> Issued | Exception:
        (outcome,) = await self.issuer.issue([Order(entry=granted, csr=csr, holder=holder)], self.intermediate)
        if isinstance(outcome, Issued):
            self.ledger.issued(outcome.leaf, self.clock.now())
        return outcome

    def takes(self, holder: str = "p1", **report: Any) -> None:
        """The process proves that it holds what is published now."""
        told = {"bundle": self.slots.bundle.digest} | report
        self.ledger.report(HolderReport(holder=holder, **told), self.clock.now())

    async def passes(self, time: timedelta) -> None:
        """Time passes, then the rotation ticks."""
        self.clock.advance(time)
        await self.rotation.tick()

    def sound(self) -> None:
        """What always holds: at most three roots, at most one active of each kind, and a key for each that signs."""
        assert len(self.slots.of(Kind.ROOT)) <= MAX_ROOTS
        for kind in Kind:
            assert len(self.slots.of(kind, State.ACTIVE)) <= 1
        signing = {slot.id for slot in self.slots.slots if slot.state in {State.PREPARED, State.ACTIVE}}
        assert signing <= self.keys.key_ids() <= {slot.id for slot in self.slots.slots}
        if root := self.slots.active(Kind.ROOT):
            assert self.intermediate.issuer_id == root.id


def root_of(chain: tuple[x509.Certificate, ...], slots: Slots) -> Slot:
    """The published root that signed the intermediate of a chain."""
    return next(root for root in slots.of(Kind.ROOT) if chain[1].issuer == root.certificate.subject)
