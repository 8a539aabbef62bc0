"""Which authorities have their keys: who has lost theirs, and what becomes of a key that nobody has.

Rules:
- One lost key is replaced, since another authority still signs meanwhile. If no active authority has its key, that is no loss but a disk
  that is not mounted, or half a restore: then nothing is touched, until somebody puts the keys back or says that they are gone.
- Keys that no authority has are set aside, not destroyed: the store that they belong to may be put back.
"""

import logging
from collections.abc import Iterable

from meshca.authority.slots import signing
from meshca.errors import CannotStart, KeyGone
from meshca.model import AuthorityKey, KeyType, Slots, State
from meshca.ports import KeyManager

logger = logging.getLogger(__name__)


class Keyring:
    """The keys of a trust domain's authorities. `abandon`: somebody said that keys which are not there are gone for good."""

    def __init__(self, keys: KeyManager, *, abandon: bool) -> None:
        self._keys = keys
        self._abandon = abandon
        self._unreadable: frozenset[str] = frozenset()

    def check(self, saved: Slots) -> None:
        """Look at all keys anew. Raises CannotStart, having changed nothing, when no active authority has its key."""
        gone = {slot.id: text for slot in signing(saved) if (text := self._trouble(slot.id))}
        active = [slot for slot in saved.slots if slot.state is State.ACTIVE]
        if active and not self._abandon and all(slot.id in gone for slot in active):
            raise CannotStart(_all_gone(f"{slot.kind} {slot.id}: {gone[slot.id]}" for slot in active))
        for stray in self._keys.key_ids() - {slot.id for slot in saved.slots}:
            # Made just before a kill, or of a store that is newer than this one.
            logger.warning("key of no authority set aside", extra={"key_id": stray})
            self._keys.set_aside(stray)
        self._unreadable = frozenset(gone)

    def check_empty(self) -> None:
        """Raise CannotStart if there are keys, where there should be none yet."""
        if self._keys.key_ids():
            raise CannotStart(
                "there are keys of authorities, but the store is new: restore the store they belong to, or move them away"
            )

    def lost(self, slots: Slots) -> frozenset[str]:
        """The authorities whose key is needed and gone."""
        there = self._keys.key_ids() - self._unreadable
        return frozenset(slot.id for slot in signing(slots)) - there

    def generate(self, key_type: KeyType) -> tuple[str, AuthorityKey]:
        """See the port."""
        return self._keys.generate(key_type)

    def load(self, slot_id: str) -> AuthorityKey:
        """The key of an authority. Raises KeyGone; from then on it counts as lost."""
        try:
            return self._keys.load(slot_id)
        except KeyGone:
            self._unreadable |= {slot_id}
            raise

    def delete(self, slot_id: str) -> None:
        """See the port."""
        self._keys.delete(slot_id)

    def _trouble(self, slot_id: str) -> str:
        """Why there is no such key; empty where there is."""
        try:
            self._keys.load(slot_id)
        except KeyGone as error:
            return str(error)
        return ""


def _all_gone(missing: Iterable[str]) -> str:
    return "\n  ".join(
        [
            "no active authority has its key:",
            *missing,
            "Put the keys back (is their disk mounted? a backup has them) and start again: nothing was changed.",
            "If they are gone for good, start once with `meshca up --abandon-keys`. Then nothing is signed until each holder of a leaf has",
            "the next root, or its leaf has ended: `meshca status` says who, and `meshca authority activate --force` does not wait.",
        ]
    )
