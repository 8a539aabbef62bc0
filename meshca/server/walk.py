"""A rotation in words, for a person who waits: what each authority waits for, and how far a walk has come. Pure."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from meshca.model import Activation, Holder, Kind, Leaf, Leaving, Slot, Slots, State
from meshca.wording import counted

LeavesUnder = Callable[[str], Sequence[Leaf]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One line of progress. `name` is stable: prepared, waiting, activated, replacing, dropped, done."""

    name: str
    text: str
    authority_id: str = ""
    behind: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """A rotation that somebody watches: `leaving` are the ids that were in use when it began."""

    kind: Kind
    leaving: frozenset[str]

    @classmethod
    def begin(cls, kind: Kind, slots: Slots) -> "Walk":
        """Everything of the kind but a prepared successor is to leave."""
        return cls(kind=kind, leaving=frozenset(slot.id for slot in slots.of(kind) if slot.state is not State.PREPARED))

    def steps(
        self, before: Slots, after: Slots, *, behind: Sequence[Holder], leaves_under: LeavesUnder
    ) -> Iterator[Step]:
        """What has changed between two looks, then what is waited for now, or `done`."""
        yield from self._changes(before, after)
        present = {slot.id for slot in after.of(self.kind)}
        if not present & self.leaving:
            yield Step(name="done", text=f"the {self.kind} is replaced")
            return
        prepared = after.of(self.kind, State.PREPARED)
        if prepared and self.kind is Kind.ROOT:
            yield Step(name="waiting", text=waiting(behind), authority_id=prepared[0].id, behind=len(behind))
        elif not prepared:
            leaves = [leaf for each in sorted(present & self.leaving) for leaf in leaves_under(each)]
            yield Step(name="replacing", text=_replacing(self.kind, leaves), behind=len(leaves))

    def _changes(self, before: Slots, after: Slots) -> Iterator[Step]:
        was = {slot.id: slot.state for slot in before.of(self.kind)}
        now = {slot.id: slot.state for slot in after.of(self.kind)}
        for slot_id, state in now.items():
            if slot_id not in was:
                text = f"{self.kind} {slot_id[:8]} is prepared" + (" and published" if self.kind is Kind.ROOT else "")
                yield Step(name="prepared", text=text, authority_id=slot_id)
            if state is State.ACTIVE and was.get(slot_id) is not State.ACTIVE:
                yield Step(name="activated", text=f"{self.kind} {slot_id[:8]} signs from now on", authority_id=slot_id)
        for slot_id in was.keys() - now.keys():
            yield Step(name="dropped", text=f"{self.kind} {slot_id[:8]} is gone", authority_id=slot_id)


def following(slot: Slot, *, behind: Sequence[Holder], leaves: Sequence[Leaf]) -> str:
    """What comes next for an authority, and after what. `leaves` are the live ones below it, once it has retired."""
    distrusted = f"{slot.leaving}; " if slot.leaving in {Leaving.TAINTED, Leaving.REVOKED} else ""
    return distrusted + _next(slot, behind, leaves)


def _next(slot: Slot, behind: Sequence[Holder], leaves: Sequence[Leaf]) -> str:
    match slot.state:
        case State.PREPARED if slot.activation is Activation.BY_HAND:
            return f"waits for `meshca authority activate {slot.id}`"
        case State.PREPARED:
            return f"becomes active: {waiting(behind)}"
        case State.ACTIVE if slot.leaving is not Leaving.NO:
            return "is replaced as soon as its successor is ready"
        case State.ACTIVE:
            return "signs; its successor is prepared at half of its life"
        case _ if leaves:
            below = counted(len(leaves), "live leaf", "live leaves")
            return f"leaves once {below} below it are replaced or have expired, {_last(leaves)}"
        case _:
            return "leaves as soon as that has settled: no live leaf is below it"


def waiting(behind: Sequence[Holder]) -> str:
    """Whom an activation waits for, the one first who has been behind the longest."""
    if not behind:
        return "every holder has the new bundle; settling"
    who = counted(len(behind), "holder", "holders")
    return f"waits for {who} to take the new bundle, first {behind[0].name}, {_until(behind[0].expires)} at most"


def _replacing(kind: Kind, leaves: Sequence[Leaf]) -> str:
    if not leaves:
        return f"no leaf is left below the old {kind}; settling"
    return f"{counted(len(leaves), 'leaf', 'leaves')} below the old {kind} to be replaced, {_last(leaves)}"


def _last(leaves: Sequence[Leaf]) -> str:
    last = max(leaves, key=lambda leaf: leaf.not_after)
    return f"the last to end is of {last.holder}, {_until(last.not_after)}"


def _until(at: datetime) -> str:
    return f"until {at:%H:%M:%S}Z"
