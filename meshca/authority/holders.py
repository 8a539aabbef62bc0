"""Who holds which leaf and which bundle: the proof that activation and narrowing wait for. The Distribution port, in memory.

Rules:
- A leaf is *live* until it expires, is replaced by a newer one that its process provably holds, or its process is gone.
- After a restart the leaves come from the record and nobody is known to hold any bundle: silence is not proof.
- Nothing here waits or decides: `slots.plan` does, from the facts that this gives.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from meshca.model import Holder, HolderReport, Leaf


@dataclass(slots=True, kw_only=True)
class _Process:
    """One holder: its live leaves by serial, and the bundle it holds."""

    leaves: dict[int, Leaf] = field(default_factory=dict)
    bundle: str = ""


class Ledger:
    """The holders. Every method takes `now` and reads no clock."""

    def __init__(self) -> None:
        self._processes: dict[str, _Process] = {}
        self._live: dict[str, int] = defaultdict(int)
        self._freed: dict[str, datetime] = {}
        self._published = ""
        self._behind_since: dict[str, datetime] = {}
        self._held_since: datetime | None = None

    def restore(self, leaves: Iterable[Leaf], now: datetime) -> None:
        """Take up the live leaves of an earlier life. Of one process and entry only the newest may be in use, but nothing proves it."""
        for leaf in leaves:
            self._processes.setdefault(leaf.holder, _Process())
            self.issued(leaf, now)

    def publish(self, digest: str, now: datetime) -> None:
        """From now on this is the bundle that all are to hold."""
        if digest != self._published:
            self._published = digest
            self._behind_since = {name: now for name, process in self._processes.items() if process.bundle != digest}
            self._note_held(now)

    def issued(self, leaf: Leaf, now: datetime) -> None:
        """Count a leaf, from before it leaves us.

        A process seen for the first time gets the published bundle along with its first leaf, and can use neither without the other: so it
        does not hold up what already waits. From the next bundle on, its own word counts.
        """
        process = self._processes.setdefault(leaf.holder, _Process(bundle=self._published))
        process.leaves[leaf.serial] = leaf
        self._count(leaf, 1, now)
        if process.bundle != self._published:
            self._behind_since.setdefault(leaf.holder, now)
        self._note_held(now)

    def report(self, report: HolderReport, now: datetime) -> None:
        """Learn what a holder has. Unknown holders and serials are ignored."""
        process = self._processes.get(report.holder)
        if process is None:
            return
        process.bundle = report.bundle
        serials = set(process.leaves) if report.gone else report.replaced | _superseded(process, report.held)
        for serial in serials & process.leaves.keys():
            self._count(process.leaves.pop(serial), -1, now)
        if not process.leaves:
            del self._processes[report.holder]
        self._judge(report.holder, now)

    def expire(self, now: datetime) -> None:
        """Forget leaves whose time is over, and holders that have none left. A clock that was set back starts the waits anew."""
        self._held_since = min(self._held_since, now) if self._held_since else None
        self._freed = {name: min(at, now) for name, at in self._freed.items()}
        for name, process in list(self._processes.items()):
            for serial in [serial for serial, leaf in process.leaves.items() if leaf.not_after <= now]:
                self._count(process.leaves.pop(serial), -1, now)
            if not process.leaves:
                del self._processes[name]
                self._judge(name, now)

    def behind(self, digest: str, now: datetime) -> tuple[Holder, ...]:
        """See the port."""
        names = [name for name, process in self._processes.items() if process.bundle != digest]
        holders = [self._holder(name, now) for name in names]
        return tuple(sorted(holders, key=lambda holder: (holder.since, holder.name)))

    def live_under(self, authority_id: str, now: datetime) -> int:  # noqa: ARG002 - leaves that expired are forgotten by `expire`
        """See the port."""
        return self._live.get(authority_id, 0)

    def leaves_under(self, authority_id: str) -> tuple[Leaf, ...]:
        """The live leaves that chain to this authority."""
        leaves = (leaf for process in self._processes.values() for leaf in process.leaves.values())
        return tuple(leaf for leaf in leaves if authority_id in {leaf.intermediate_id, leaf.root_id})

    def held_since(self) -> datetime | None:
        """Since when every holder has the published bundle; None while somebody is behind."""
        return self._held_since

    def free_since(self, authority_id: str) -> datetime | None:
        """Since when no live leaf is below the authority, if there ever was one; None while there is, or never was."""
        return None if self._live.get(authority_id) else self._freed.get(authority_id)

    def earliest_expiry(self) -> datetime | None:
        """When the first live leaf ends; None while there is none."""
        ends = (leaf.not_after for process in self._processes.values() for leaf in process.leaves.values())
        return min(ends, default=None)

    def names(self) -> frozenset[str]:
        """The names of all holders."""
        return frozenset(self._processes)

    def callers(self, entry_id: str) -> tuple[frozenset[str], ...]:
        """For each holder of a live leaf of this entry, the ids of the other entries of which it has one."""
        held = (frozenset(leaf.entry_id for leaf in process.leaves.values()) for process in self._processes.values())
        return tuple(entry_ids - {entry_id} for entry_ids in held if entry_id in entry_ids)

    def _judge(self, name: str, now: datetime) -> None:
        """Note whether a holder is behind."""
        process = self._processes.get(name)
        if process is None or process.bundle == self._published:
            self._behind_since.pop(name, None)
        else:
            self._behind_since.setdefault(name, now)
        self._note_held(now)

    def _note_held(self, now: datetime) -> None:
        self._held_since = None if self._behind_since else self._held_since or now

    def _count(self, leaf: Leaf, change: int, now: datetime) -> None:
        for authority in (leaf.intermediate_id, leaf.root_id):
            self._live[authority] += change
            if not self._live[authority]:
                self._freed[authority] = now

    def _holder(self, name: str, now: datetime) -> Holder:
        process = self._processes[name]
        return Holder(
            name=name,
            spiffe_ids=tuple(sorted({leaf.spiffe_id for leaf in process.leaves.values()})),
            bundle=process.bundle,
            since=self._behind_since.get(name, now),
            expires=max(leaf.not_after for leaf in process.leaves.values()),
        )


def _superseded(process: _Process, held: frozenset[int]) -> set[int]:
    """Leaves of an earlier life of ours: issued before one of the same entry that the process now provably uses.

    In the order in which they were recorded, which no clock can turn round.
    """
    superseded, newer = set(), set()
    for serial, leaf in reversed(process.leaves.items()):
        if leaf.entry_id in newer:
            superseded.add(serial)
        elif serial in held:
            newer.add(leaf.entry_id)
    return superseded
