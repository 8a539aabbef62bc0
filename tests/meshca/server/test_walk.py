"""What a person reads while a rotation goes on: each change once, then whom it waits for."""

from dataclasses import replace
from datetime import timedelta

import pytest

from meshca.model import Activation, Holder, Kind, Leaf, Leaving, Slot, Slots, State
from meshca.server.walk import Walk, following
from spiffe.id import SpiffeID
from tests.support.clock import START
from tests.support.pki import CA
from tests.support.values import OURS, slot

WEB = SpiffeID(OURS, "/web")
OLD = replace(slot(CA.create(str(OURS), subject="old").certificate), state=State.ACTIVE)
NEW = replace(slot(CA.create(str(OURS), subject="new").certificate), state=State.PREPARED)
LATE = Holder(name="unix/7/1/web", spiffe_ids=(WEB,), bundle="", since=START, expires=START + timedelta(minutes=1))
LEAF = Leaf(
    serial=1,
    spiffe_id=WEB,
    entry_id="web",
    holder="mint/0",
    intermediate_id="i",
    root_id=OLD.id,
    issued_at=START,
    not_after=START + timedelta(hours=1),
)


def slots(*of: Slot) -> Slots:
    return Slots(trust_domain=OURS, slots=of)


def told(
    before: Slots, after: Slots, *, behind: tuple[Holder, ...] = (), leaves: tuple[Leaf, ...] = ()
) -> list[tuple[str, str]]:
    walk = Walk.begin(Kind.ROOT, slots(OLD))
    return [(step.name, step.text) for step in walk.steps(before, after, behind=behind, leaves_under=lambda _: leaves)]


def test_a_walk_tells_each_change_once_and_whom_it_waits_for():
    active, old = replace(NEW, state=State.ACTIVE), replace(OLD, state=State.OLD)
    assert told(slots(OLD), slots(OLD, NEW), behind=(LATE,)) == [
        ("prepared", f"root {NEW.id[:8]} is prepared and published"),
        ("waiting", "waits for 1 holder to take the new bundle, first unix/7/1/web, until 00:01:00Z at most"),
    ]
    assert told(slots(OLD, NEW), slots(OLD, NEW)) == [("waiting", "every holder has the new bundle; settling")]
    assert told(slots(OLD, NEW), slots(old, active), leaves=(LEAF,)) == [
        ("activated", f"root {NEW.id[:8]} signs from now on"),
        ("replacing", "1 leaf below the old root to be replaced, the last to end is of mint/0, until 01:00:00Z"),
    ]
    assert told(slots(old, active), slots(old, active)) == [
        ("replacing", "no leaf is left below the old root; settling")
    ]
    assert told(slots(old, active), slots(active)) == [
        ("dropped", f"root {OLD.id[:8]} is gone"),
        ("done", "the root is replaced"),
    ]


@pytest.mark.parametrize(
    ("state", "live", "text"),
    [
        ({"state": State.PREPARED, "activation": Activation.BY_HAND}, 0, "waits for `meshca authority activate"),
        ({"state": State.PREPARED}, 0, "becomes active: waits for 1 holder"),
        ({"state": State.ACTIVE}, 2, "its successor is prepared at half of its life"),
        (
            {"state": State.ACTIVE, "leaving": Leaving.TAINTED},
            2,
            "tainted; is replaced as soon as its successor is ready",
        ),
        ({"state": State.ACTIVE, "leaving": Leaving.ROTATED}, 2, "is replaced as soon as its successor is ready"),
        (
            {"state": State.OLD},
            1,
            "leaves once 1 live leaf below it are replaced or have expired, the last to end is of mint/0, until 01:00:00Z",
        ),
        ({"state": State.TAINTED, "leaving": Leaving.REVOKED}, 2, "revoked; leaves once 2 live leaves below it"),
        ({"state": State.OLD}, 0, "no live leaf is below it"),
    ],
)
def test_each_state_says_what_comes_next(state: dict[str, object], live: int, text: str):
    assert text in following(replace(NEW, **state), behind=(LATE,), leaves=[LEAF] * live)
