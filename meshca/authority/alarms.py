"""What a person must look at, in sentences. Pure."""

from collections.abc import Iterator, Sequence
from datetime import datetime

from meshca.authority.slots import Rules
from meshca.model import Holder, Kind, Slots
from meshca.wording import counted


def alarms(slots: Slots, late: Sequence[Holder], lost: frozenset[str], rules: Rules, now: datetime) -> Iterator[str]:
    """All that is wrong. `late`: holders that are behind for too long, longest first. `lost`: authorities whose key is gone."""
    if late:
        who, first = counted(len(late), "holder has", "holders have"), "" if len(late) == 1 else "first of them "
        yield f"{who} not taken the new bundle since {late[0].since:%Y-%m-%dT%H:%M:%SZ}: {first}{late[0].name}"
    for slot in slots.slots:
        if slot.id in lost:
            yield f"the key of {slot.kind} {slot.id} is gone: it is being replaced"
    for kind in Kind:
        active = slots.active(kind)
        if active is None:
            yield f"there is no active {kind}: nothing new can be signed"
        elif not active.is_valid(now):
            yield f"{kind} {active.id} is not valid now: nothing new can be signed"
        elif active.not_after - now < rules.longest_ttl:
            yield f"{kind} {active.id} ends at {active.not_after:%Y-%m-%dT%H:%M:%SZ} and still signs: leaves get shorter"
