"""Resources of one type that many clients share, edition after edition, each knowing what changed since the one before.

Rules: an edition is never written to, and keeps none of those before it. Who still has the one before sees at once what differs, who has
another one compares.
"""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from weakref import ReferenceType, ref

from sds.xds.resource import Resource


class Edition(dict[str, Resource]):
    """Resources by name."""

    __slots__ = ("__weakref__", "before", "changed")

    def __init__(
        self,
        resources: Mapping[str, Resource],
        before: "Edition | None" = None,
        changed: AbstractSet[str] = frozenset(),
    ) -> None:
        super().__init__(resources)
        self.before: ReferenceType[Edition] | None = ref(before) if before is not None else None
        self.changed = changed

    def following(self, news: Mapping[str, Resource | None]) -> "Edition":
        """The edition with these resources in place of its own, and without those that are None; itself where that is nothing new."""
        changed = {name: each for name, each in news.items() if self.get(name) != each}
        if not changed:
            return self
        merged = {**self, **changed}
        return Edition({name: each for name, each in merged.items() if each}, before=self, changed=changed.keys())


def differing(before: Mapping[str, Resource], after: Mapping[str, Resource]) -> AbstractSet[str]:
    """The names of which these resources are not the same objects."""
    if after is before:
        return frozenset()
    if isinstance(after, Edition) and after.before is not None and after.before() is before:
        return after.changed
    return {name for name, each in after.items() if before.get(name) is not each}.union(before.keys() - after.keys())
