"""Authority keys in memory: for tests, and for authorities that shall end with the process.

Rules: thread-safe, since each dict operation is one step. The keys can not be pickled, and no repr shows them.
"""

from meshca.adapters.keys import key_id, new_key
from meshca.errors import KeyGone
from meshca.model import AuthorityKey, KeyType


class MemoryKeyManager:
    """The KeyManager port over a dict. Nothing outlives the process."""

    def __init__(self) -> None:
        self._keys: dict[str, AuthorityKey] = {}

    def generate(self, key_type: KeyType) -> tuple[str, AuthorityKey]:
        """See the port."""
        key = new_key(key_type)
        made = key_id(key)
        self._keys[made] = key
        return made, key

    def load(self, key_id: str) -> AuthorityKey:
        """See the port."""
        try:
            return self._keys[key_id]
        except KeyError:
            raise KeyGone(f"no key {key_id} in memory: keys do not outlive the process here") from None

    def delete(self, key_id: str) -> None:
        """See the port."""
        self._keys.pop(key_id, None)

    def set_aside(self, key_id: str) -> None:
        """See the port. Nobody could find it in memory, so it is forgotten."""
        self.delete(key_id)

    def key_ids(self) -> frozenset[str]:
        """See the port."""
        return frozenset(self._keys)
