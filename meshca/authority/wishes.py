"""What an operator may wish for, decided purely: the slots with the wish in them, or a refusal that says what to do instead.

Rules:
- A wish only marks; the rotation walks there step by step, and goes on after a restart, since the mark is in the journal.
- The last usable authority can not be wished away, and there is always room for its successor.
"""

from meshca.authority.slots import MAX_ROOTS, Drop, Prepare, with_activation, with_leaving
from meshca.errors import NotFound, Refused
from meshca.model import Activation, Kind, Leaving, Slot, Slots, State


def get(slots: Slots, slot_id: str) -> Slot:
    """The authority of that id. Raises NotFound."""
    slot = slots.get(slot_id)
    if slot is None:
        raise NotFound(f"there is no authority {slot_id!r}; `meshca authority list` shows those there are")
    return slot


def prepare(slots: Slots, kind: Kind) -> Prepare:
    """Make a successor. Raises Refused while one is prepared, or three roots are published."""
    root = slots.active(Kind.ROOT)
    if root is None:
        raise Refused("no root is active: the server makes one as soon as it can, see `meshca status`")
    for waiting in slots.of(kind, State.PREPARED):
        if kind is Kind.ROOT or waiting.issuer_id == root.id:
            raise Refused(
                f"{kind} {waiting.id} is prepared already: `meshca authority activate {waiting.id}`, or revoke it"
            )
    _check_room(slots, kind)
    return Prepare(kind=kind, root_id="" if kind is Kind.ROOT else root.id)


def activate(slots: Slots, slot_id: str) -> Slots:
    """Let a prepared authority sign as soon as it may. Raises NotFound, Refused."""
    slot = get(slots, slot_id)
    if slot.state is not State.PREPARED:
        raise Refused(f"{slot.kind} {slot_id} is {slot.state}, only a prepared authority can be activated")
    root = slots.get(slot.issuer_id)
    if slot.kind is Kind.INTERMEDIATE and (root is None or root.state is not State.ACTIVE):
        raise Refused(
            f"intermediate {slot_id} becomes active with its root: `meshca authority activate {slot.issuer_id}`"
        )
    return with_activation(slots, slot_id, Activation.AT_ONCE)


def taint(slots: Slots, slot_id: str) -> Slots:
    """Trust an authority no longer: replace it and the leaves below it, then drop it. Raises NotFound, Refused."""
    slot = get(slots, slot_id)
    if slot.state is State.PREPARED:
        raise Refused(
            f"{slot.kind} {slot_id} is only prepared: nothing hangs on it; `meshca authority revoke {slot_id}` drops it"
        )
    if slot.state is State.ACTIVE and not slots.of(slot.kind, State.PREPARED):
        _check_room(slots, slot.kind)
    return with_leaving(slots, {slot_id}, Leaving.TAINTED)


def revoke(slots: Slots, slot_id: str, *, force: bool) -> Slots | Drop:
    """Drop an authority as soon as all below it is replaced; what is only prepared, and by force a root that signs no more, at once.

    An intermediate takes its root with it, since verifiers know only roots: after its leaves, or with them by force.
    Raises NotFound, and Refused for the last usable root.
    """
    slot = get(slots, slot_id)
    if slot.kind is Kind.INTERMEDIATE:
        return with_leaving(slots, {slot_id, slot.issuer_id} if force else {slot_id}, Leaving.REVOKED)
    if force and slot.state in {State.OLD, State.TAINTED}:
        return Drop(id=slot_id, reason="revoked by force")
    if slot.state is State.ACTIVE and not slots.of(Kind.ROOT, State.PREPARED):
        raise Refused(
            f"root {slot_id} is the last usable one: `meshca authority prepare --kind root` first, or taint it"
        )
    return with_leaving(slots, {slot_id}, Leaving.REVOKED)


def rotate(slots: Slots, kind: Kind) -> Slots:
    """Replace all that there is of a kind, with the leaves below it; what is prepared already is what comes next."""
    present = {slot.id for slot in slots.of(kind) if slot.state is not State.PREPARED}
    for slot in slots.of(kind, State.PREPARED):
        slots = with_activation(slots, slot.id, Activation.AT_ONCE)
    return with_leaving(slots, present, Leaving.ROTATED)


def _check_room(slots: Slots, kind: Kind) -> None:
    if kind is Kind.ROOT and len(slots.of(Kind.ROOT)) >= MAX_ROOTS:
        raise Refused(f"{MAX_ROOTS} roots are published, the most there may be: wait until one has left, or revoke one")
