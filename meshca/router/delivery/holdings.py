"""What one client may have of one resource, as far as its answers tell. Pure.

Rules:
- Whatever was shown since the version that it accepted last may be in use. A refused response may have changed a part, so its versions
  count until another is accepted, or until they are known to be what was refused.
- An answer must not be taken for one to an earlier showing. So a listener or route is not shown again in a version that may still be
  under way, and nothing that was taken away before the client told that it dropped it.
- A client that answers nothing makes us wait, not grow.
"""

from dataclasses import dataclass, field
from itertools import takewhile

from sds.xds.resource import Resource

ABSENT = ""
"""Stands for the version of a resource that is taken away."""

_MOST = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """A version that was shown. Without a resource the client brought it along, so we know neither body nor needs.

    `needs` are the clusters that it refers to; None means that it may refer to any.
    """

    resource: Resource | None
    needs: frozenset[str] | None = frozenset()


def brought(version: str) -> "Holding":
    """Return the holding of a resource that the client came with."""
    return Holding(versions={version: Version(resource=None, needs=None)}, good=version, answered=True, sent=True)


@dataclass(slots=True, kw_only=True)
class Holding:
    """One resource of one client."""

    versions: dict[str, Version] = field(default_factory=dict)
    """What the client may have, oldest first. The last one is what it is shown."""
    good: str = ""
    """The version that it accepted last, empty if there is none or it was taken away since."""
    answered: bool = True
    """Whether the last one was accepted or refused."""
    sent: bool = False
    """Whether the client was ever sent any of it: a name that it does not ask for is not."""

    @property
    def last(self) -> str:
        """The version that is shown, if any."""
        return next(reversed(self.versions), ABSENT)

    @property
    def settled(self) -> bool:
        """Whether the client can have nothing but what is shown."""
        return self.answered and len(self.versions) <= 1

    @property
    def good_needs(self) -> frozenset[str]:
        """The clusters of the version that was accepted last, as far as they are known."""
        return (self.versions[self.good].needs or frozenset()) if self.good in self.versions else frozenset()

    @property
    def is_leaving(self) -> bool:
        """Whether it was taken away, and the client did not say yet that it dropped it."""
        return not self.answered and self.last == ABSENT

    def may_show(self, version: str) -> bool:
        """Whether an answer to this version could only be one to this showing of it."""
        if self.answered or version == self.last:
            return True
        return not self.is_leaving and version not in self.versions and len(self.versions) < _MOST

    def show(self, version: str, value: Version) -> None:
        """Take note of what the client is shown now."""
        self.versions.pop(version, None)
        self.versions[version] = value
        self.answered = False
        if version == ABSENT:
            self.good = ""
        if len(self.versions) > _MOST + 1:  # not reached by what `may_show` says
            del self.versions[next(older for older in self.versions if older != self.good)]

    def accept(self, version: str) -> None:
        """The client has this version, so what was shown before it is gone."""
        self.sent = True
        if version in self.versions:
            for older in takewhile(lambda older: older != version, tuple(self.versions)):
                del self.versions[older]
            self.good = "" if self.last == ABSENT else version
            self.answered = self.answered or version == self.last

    def refuse(self, version: str) -> None:
        """The client refused a response with this version, perhaps for something else in it."""
        self.sent = True
        self.answered = self.answered or version == self.last

    def convict(self, version: str) -> None:
        """It was this version that was refused, so the client does not use it."""
        self.versions.pop(version, None)

    def forget_unsent(self) -> None:
        """What never went to the client is not with it."""
        if not self.sent:
            last, self.answered = self.last, True
            self.versions = {version: value for version, value in self.versions.items() if version == last != ABSENT}
