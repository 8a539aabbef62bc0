"""What `entry apply` does: decided from what there is and what is wanted. Pure.

Rules:
- Entries are the same when SPIFFE ID and selectors are.
- Each belongs to a source, and is changed and pruned only by that one. One that is of no source was made by hand: it is left as it is
  where that is what is wanted, so that what `entry list` prints changes nothing, and is taken under a source only when told so.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from meshca.errors import InvalidInput, Refused
from meshca.model import Entry

T = TypeVar("T")
U = TypeVar("U")

_MOST_TOLD = 20
_MOST_CHARACTERS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What `apply` did, or would do."""

    created: tuple[Entry, ...] = ()
    updated: tuple[Entry, ...] = ()
    deleted: tuple[Entry, ...] = ()
    unchanged: tuple[Entry, ...] = ()


def each_of(given: Iterable[T], read: Callable[[T], U]) -> list[U]:
    """What is read of each entry. Raises InvalidInput, or Refused if that is all that was raised, with a numbered line for each bad one."""
    made: list[U] = []
    wrong: list[tuple[int, InvalidInput | Refused]] = []
    for number, item in enumerate(given, start=1):
        try:
            made.append(read(item))
        except (InvalidInput, Refused) as error:
            wrong.append((number, error))
    if wrong:
        kind = InvalidInput if any(isinstance(error, InvalidInput) for _, error in wrong) else Refused
        raise kind(_told(wrong))
    return made


def _told(wrong: Iterable[tuple[int, Exception]]) -> str:
    """A line for each, as many as the status of a call can carry."""
    lines = [f"entry {number}: {error}"[:_MOST_CHARACTERS] for number, error in wrong]
    more = [f"and {len(lines) - _MOST_TOLD} more"] if len(lines) > _MOST_TOLD else []
    return "\n".join([*lines[:_MOST_TOLD], *more])


def plan_apply(
    present: Iterable[Entry], wanted: Sequence[Entry], source: str, *, prune: bool = False, adopt: bool = False
) -> Applied:
    """Decide what makes the entries those wanted; `source` is that of those that name none, and the one that is pruned.

    Raises InvalidInput when two wanted entries are the same, and Refused for those that belong to others.
    """
    known = {_key(entry): entry for entry in present}
    targets: set[tuple[object, ...]] = set()

    def decide(entry: Entry) -> tuple[str, Entry]:
        if _key(entry) in targets:
            raise InvalidInput(f"another one has SPIFFE ID {entry.spiffe_id} and the same selectors, too")
        targets.add(_key(entry))
        return _change(known.get(_key(entry)), replace(entry, source=entry.source or source), adopt=adopt)

    changes = each_of(wanted, decide)
    kinds = {
        kind: tuple(entry for each, entry in changes if each == kind) for kind in ("created", "updated", "unchanged")
    }
    gone = tuple(entry for key, entry in known.items() if prune and entry.source == source and key not in targets)
    return Applied(**kinds, deleted=gone)


def _change(old: Entry | None, wanted: Entry, *, adopt: bool) -> tuple[str, Entry]:
    """What becomes of one entry. Raises Refused if it belongs to another source."""
    if old is None:
        return "created", wanted
    new = replace(wanted, id=old.id, created_at=old.created_at)
    if new == old or (not (old.source or adopt) and replace(new, source="") == old):
        return "unchanged", old
    if old.source == new.source or (adopt and not old.source):
        return "updated", new
    if old.source:
        raise Refused(f"{old.spiffe_id} is entry {old.id} of source {old.source!r}, not {new.source!r}")
    raise Refused(f"{old.spiffe_id} is entry {old.id}, made by hand: --adopt takes it under source {new.source!r}")


def _key(entry: Entry) -> tuple[object, ...]:
    return (entry.spiffe_id, entry.selectors)
