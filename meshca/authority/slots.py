"""What is due for the authorities, decided purely from their state, the facts about holders, and the time.

Rules:
- A root is published (in the saved slots) before anything is signed under it, and active only once every holder has the bundle and
  handshakes in flight have settled. An intermediate need not wait: chains carry it.
- Making a root active makes an intermediate below it first; both become active in one saved change.
- An authority leaves when no live leaf is below it and that has settled, or when it has expired; but not while the wall clock has just
  jumped ahead of the steady time (`meshca.authority.steady`), by which all this goes. At most three roots are published.
- An active one that is not valid by the wall clock is replaced as if there were none, and a prepared one made anew.
- One step at a time: whoever performs it asks again, so that a crash between two steps loses nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import ClassVar

from meshca.model import Activation, Kind, Leaving, Slot, Slots, State

MAX_ROOTS = 3
PREPARE_AT = 1 / 2
ACTIVATE_AT = 2 / 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How long things live and settle. `longest_ttl` is the longest leaf in use: two of them must always fit below an authority."""

    root_lifetime: timedelta
    intermediate_lifetime: timedelta
    longest_ttl: timedelta
    settle: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What holders provably have. `held_since`: since when all of them hold the published bundle; None while somebody is behind.

    `free_since`: authorities that no live leaf is below, and since when. `lost`: authorities whose key is gone. `wall`: what the wall
    clock shows, by which others judge what we sign; it may be wrong now, or may have been when an authority was made.
    """

    wall: datetime
    held_since: datetime | None
    live: Mapping[str, int]
    free_since: Mapping[str, datetime]
    lost: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepare:
    """Make a new authority: a root, or an intermediate below the named root."""

    kind: Kind
    root_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Activate:
    """Let a prepared authority sign; a root together with its prepared intermediate."""

    becomes: ClassVar = "active"
    id: str
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """Take an authority out of the slots, a root thereby out of the bundle, and destroy its key."""

    becomes: ClassVar = "dropped"
    id: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Retire:
    """An active root that can sign no more stays in the bundle for the leaves below it, while another takes its place."""

    becomes: ClassVar = "retired"
    id: str
    reason: str


Move = Activate | Retire | Drop
Step = Prepare | Move


def next_step(slots: Slots, facts: Facts, rules: Rules, now: datetime) -> Step | None:
    """The one thing that is due, None when nothing is. `now` is the steady time."""
    return (
        _retire(slots, facts)
        or _drop(slots, facts, rules, now)
        or _root_step(slots, facts, rules, now)
        or _intermediate_step(slots, facts, rules, now)
    )


def _retire(slots: Slots, facts: Facts) -> Retire | None:
    root = slots.active(Kind.ROOT)
    return Retire(id=root.id, reason="its key is gone") if root and root.id in facts.lost else None


def _drop(slots: Slots, facts: Facts, rules: Rules, now: datetime) -> Drop | None:
    for slot in slots.slots:
        if reason := _drop_reason(slots, slot, facts, rules, now):
            return Drop(id=slot.id, reason=reason)
    return None


def _drop_reason(slots: Slots, slot: Slot, facts: Facts, rules: Rules, now: datetime) -> str:
    if slot.not_after <= now:
        return "expired"
    if slot.state is State.PREPARED and slot.leaving is Leaving.REVOKED:
        return "revoked"
    if slot.state is State.PREPARED and not slot.is_valid(facts.wall):
        return "it is not valid now"  # nothing hangs on it
    if slot.state in {State.PREPARED, State.ACTIVE}:
        return "its key is gone" if slot.id in facts.lost else ""
    family = [each for each in slots.slots if slot.id in {each.id, each.issuer_id}]
    if facts.live.get(slot.id) or any(each.state is State.ACTIVE for each in family) or facts.wall > now:
        return ""
    since = [facts.free_since.get(slot.id), *(each.retired_at for each in family)]
    return "no live leaf is below it" if all(_settled(each, rules, now) for each in since if each) else ""


def _root_step(slots: Slots, facts: Facts, rules: Rules, now: datetime) -> Step | None:
    active = _usable(slots, facts, Kind.ROOT)
    prepared = next(iter(slots.of(Kind.ROOT, State.PREPARED)), None)
    if prepared is None:
        wanted = active is None or active.leaving is not Leaving.NO or is_past(active, PREPARE_AT, rules, now)
        room = len(slots.of(Kind.ROOT)) < MAX_ROOTS
        return Prepare(kind=Kind.ROOT) if wanted and room else None
    due = active is None or _is_wanted(prepared, active, rules, now)
    held = not any(facts.live.values()) or _settled(facts.held_since, rules, now)
    return activation_of(slots, prepared) if due and held else None


def activation_of(slots: Slots, root: Slot) -> Step:
    """The next step on the way of a prepared root to activity: its intermediate comes first."""
    below = [slot for slot in slots.of(Kind.INTERMEDIATE, State.PREPARED) if slot.issuer_id == root.id]
    return Activate(id=root.id) if below else Prepare(kind=Kind.INTERMEDIATE, root_id=root.id)


def _intermediate_step(slots: Slots, facts: Facts, rules: Rules, now: datetime) -> Step | None:
    root, active = _usable(slots, facts, Kind.ROOT), _usable(slots, facts, Kind.INTERMEDIATE)
    if root is None:
        return None
    prepared = next((s for s in slots.of(Kind.INTERMEDIATE, State.PREPARED) if s.issuer_id == root.id), None)
    if prepared is None:
        wanted = active is None or active.leaving is not Leaving.NO or is_past(active, PREPARE_AT, rules, now)
        return Prepare(kind=Kind.INTERMEDIATE, root_id=root.id) if wanted and _outlives(root, active) else None
    return Activate(id=prepared.id) if active is None or _is_wanted(prepared, active, rules, now) else None


def _usable(slots: Slots, facts: Facts, kind: Kind) -> Slot | None:
    """The active one of a kind, if it can sign what anybody would take."""
    active = slots.active(kind)
    return active if active and active.is_valid(facts.wall) else None


def _outlives(root: Slot, active: Slot | None) -> bool:
    """Whether a new intermediate could last longer than the present one: it never outlives the root."""
    return active is None or active.leaving is not Leaving.NO or root.not_after > active.not_after


def _is_wanted(prepared: Slot, active: Slot, rules: Rules, now: datetime) -> bool:
    if prepared.activation is Activation.AT_ONCE or active.leaving is not Leaving.NO:
        return True
    return prepared.activation is Activation.BY_TIME and is_past(active, ACTIVATE_AT, rules, now)


def is_past(slot: Slot, share: float, rules: Rules, now: datetime) -> bool:
    """Whether that share of a certificate's life is over, or only two leaf lifetimes are left of it.

    Not before half of its life, whatever leaves there are: else one long entry would have authorities replaced without end.
    """
    life = slot.not_after - slot.not_before
    return now >= min(slot.not_before + life * share, slot.not_after - min(2 * rules.longest_ttl, life / 2))


def signing(slots: Slots) -> tuple[Slot, ...]:
    """Those whose key is still needed: old ones sign nothing any more."""
    return tuple(slot for slot in slots.slots if slot.state in {State.PREPARED, State.ACTIVE})


def _settled(since: datetime | None, rules: Rules, now: datetime) -> bool:
    return since is not None and now - since >= rules.settle


def with_prepared(slots: Slots, slot: Slot) -> Slots:
    """The slots with a new one; a new root changes the bundle and so its sequence (TB-06)."""
    return replace(slots, slots=(*slots.slots, slot), sequence=slots.sequence + (slot.kind is Kind.ROOT))


def moved(slots: Slots, move: Move, now: datetime) -> Slots:
    """The slots after a move."""
    if isinstance(move, Activate):
        return with_active(slots, move.id, now)
    return with_retired(slots, move.id, now) if isinstance(move, Retire) else without(slots, move.id)


def with_active(slots: Slots, slot_id: str, now: datetime) -> Slots:
    """The slots with a prepared one active, and those that it replaces retired. A root takes its prepared intermediate along."""
    chosen = next(slot for slot in slots.slots if slot.id == slot_id)
    rising = {slot_id}
    if chosen.kind is Kind.ROOT:
        rising |= {s.id for s in slots.of(Kind.INTERMEDIATE, State.PREPARED) if s.issuer_id == slot_id}
    kinds = {slot.kind for slot in slots.slots if slot.id in rising}
    return replace(slots, slots=tuple(_after_activation(slot, rising, kinds, now) for slot in slots.slots))


def _after_activation(slot: Slot, rising: set[str], kinds: set[Kind], now: datetime) -> Slot:
    if slot.id in rising:
        return replace(slot, state=State.ACTIVE, activated_at=now)
    if slot.kind in kinds and slot.state is State.ACTIVE:
        distrusted = slot.leaving in {Leaving.TAINTED, Leaving.REVOKED}
        return replace(slot, state=State.TAINTED if distrusted else State.OLD, retired_at=now)
    return slot


def without(slots: Slots, slot_id: str) -> Slots:
    """The slots without one, and without what was prepared below it. A revoked intermediate sends its root after it."""
    gone = next(slot for slot in slots.slots if slot.id == slot_id)
    orphans = {s.id for s in slots.of(Kind.INTERMEDIATE, State.PREPARED) if s.issuer_id == slot_id}
    kept = tuple(slot for slot in slots.slots if slot.id != slot_id and slot.id not in orphans)
    left = replace(slots, slots=kept, sequence=slots.sequence + (gone.kind is Kind.ROOT))
    if gone.kind is Kind.INTERMEDIATE and gone.leaving is Leaving.REVOKED:
        return with_leaving(left, {gone.issuer_id}, Leaving.REVOKED)
    return left


def with_retired(slots: Slots, slot_id: str, now: datetime) -> Slots:
    """The slots with an active one retired before there is another. Its leaves stay: what would replace them chains to it, too."""
    changed = (replace(s, state=State.OLD, retired_at=now) if s.id == slot_id else s for s in slots.slots)
    return replace(slots, slots=tuple(changed))


def with_leaving(slots: Slots, ids: set[str], why: Leaving) -> Slots:
    """The slots with some on their way out. Distrust is never taken back: a tainted one stays tainted when it is rotated."""
    order = list(Leaving)

    def marked(slot: Slot) -> Slot:
        if slot.id not in ids or order.index(slot.leaving) >= order.index(why):
            return slot
        distrusted = slot.state is State.OLD and why in {Leaving.TAINTED, Leaving.REVOKED}
        return replace(slot, leaving=why, state=State.TAINTED if distrusted else slot.state)

    return replace(slots, slots=tuple(map(marked, slots.slots)))


def with_activation(slots: Slots, slot_id: str, when: Activation) -> Slots:
    """The slots with another time for one to become active."""
    changed = (replace(slot, activation=when) if slot.id == slot_id else slot for slot in slots.slots)
    return replace(slots, slots=tuple(changed))
