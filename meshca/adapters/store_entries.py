"""What every entry store refuses, as a pure function."""

from collections.abc import Iterable

from meshca.errors import AlreadyExists
from meshca.model import Entry


def refuse_taken(kept: Iterable[Entry], put: Iterable[Entry]) -> None:
    """Raise AlreadyExists when one of `put` has the id, or the SPIFFE ID and selectors, of one kept or of one put before it."""
    ids: set[str] = set()
    rules: dict[object, str] = {}
    for entry in (*kept, *put):
        if entry.id in ids:
            raise AlreadyExists(f"there is an entry {entry.id} already", entry.id)
        first = rules.setdefault((entry.spiffe_id, entry.selectors), entry.id)
        if first != entry.id:
            raise AlreadyExists(
                f"entry {first} has the SPIFFE ID {entry.spiffe_id} and the same selectors already", first
            )
        ids.add(entry.id)
