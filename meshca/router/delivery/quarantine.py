"""Which resources of one type a client is not to be shown, because it refused them or may have. Pure.

Rules:
- A refusal that names resources quarantines these. One that names none of those that were new in it starts a search: half of them are
  tried, the others held back, and so on, so that one bad resource among n costs at most log2(n) + 1 refusals.
- While a search is on, only its trial and what was accepted before are shown: no other news may spoil the answer.
- What was refused is not shown again, whatever was shown in between. What was merely in its company goes in another attempt.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TypeVar

from sds.xds.resource import Resource

_QUOTED = re.compile(r'["\']([^"\'\s]+)["\']')
_PREFIXED = re.compile(r"(?<![^\s(,])([^\s(,]+):(?=\s|$)")
_MOST = 10_000
_MOST_DOUBTS = 16
_NONE: dict[str, str] = {}

_T = TypeVar("_T")


def blamed(names: Iterable[str], text: str) -> frozenset[str]:
    """Return the names that a refusal's text speaks of: `"name"` or `name:`."""
    return frozenset(names).intersection([*_QUOTED.findall(text), *_PREFIXED.findall(text)])


@dataclass(slots=True, kw_only=True)
class Quarantine:
    """What one client refused of one type."""

    refused: dict[tuple[str, str], str] = field(default_factory=dict)
    """Name and version -> the client's words."""
    suspects: dict[str, str] = field(default_factory=dict)
    """Name -> version of those of which one is bad; empty when no search is on."""
    trial: frozenset[str] = frozenset()
    """Those of the suspects that are shown."""
    _wanted: Mapping[str, Resource] = field(default_factory=dict)
    _doubts: list[dict[str, str]] = field(default_factory=list)
    """Sets of which something is bad. One that is not wanted in full waits: what is sent now is not what was refused."""
    _attempts: dict[tuple[str, str], int] = field(default_factory=dict)
    _text: str = ""
    _since: datetime | None = None
    _unsent: frozenset[str] = frozenset()

    @property
    def is_idle(self) -> bool:
        """Whether it admits everything as it is."""
        return not (self.refused or self._doubts or self._attempts)

    def admits(self, resource: Resource, good: str) -> bool:
        """Whether the client may be shown this resource; `good` is the version of it that it accepted."""
        if self.refuses(resource):
            return False
        return not self.suspects or resource.version == good or resource.name in self.trial

    def refuses(self, resource: Resource) -> bool:
        """Whether the client refused this version."""
        return (resource.name, resource.version) in self.refused

    def attempt(self, resource: Resource) -> Resource:
        """Return a resource so that it is sent although it was in a refused response."""
        number = self._attempts.get((resource.name, resource.version), 0)
        return replace(resource, attempt=number) if number else resource

    def try_again(self, name: str, version: str) -> None:
        """Have a version sent once more that was in a refused response."""
        _bound(self._attempts)
        self._attempts[name, version] = self._attempts.get((name, version), 0) + 1

    def on_target(self, wanted: Mapping[str, Resource]) -> None:
        """Take in what the client is to have from now on."""
        self._wanted = wanted
        self._search()

    def on_nack(self, changed: Mapping[str, str], text: str) -> Mapping[str, str]:
        """Take in a refusal of a response in which these (name -> version) were new to the client; return what is to blame."""
        names = blamed(changed, text) or (changed.keys() if len(changed) == 1 else ())
        guilty = {name: changed[name] for name in names}
        self._text = text
        for unit in changed.items():
            self.try_again(*unit)
        if guilty:
            self._refuse(guilty)
        else:
            self._doubts = [dict(changed), *self._doubts[: _MOST_DOUBTS - 1]]
        self._search()
        return guilty

    def on_ack(self, name: str, version: str) -> Mapping[str, str]:
        """Take in that a version was accepted; return what is to blame for a refusal before, if that is clear now."""
        self._attempts.pop((name, version), None)
        if not self._doubts:
            return _NONE
        guilty: dict[str, str] = {}
        for doubt in self._doubts:
            if doubt.get(name) == version:
                del doubt[name]
                guilty |= doubt if len(doubt) == 1 else {}
        self._refuse(guilty)
        self._unsent -= {name}
        self._search()
        return guilty

    def on_shown(self, now: datetime) -> None:
        """Take in that the session has what is to be shown: only now can the client ask for it or not."""
        self._since = self._since or now

    def on_sent(self, names: Iterable[str]) -> None:
        """Take in what the client was sent."""
        self._unsent = self._unsent.difference(names)

    def on_time(self, now: datetime, patience: timedelta) -> None:
        """Give up a search with what the client does not ask for: it can not tell, and what it asks for is not what it refused."""
        if (deadline := self.deadline(patience)) is not None and now >= deadline:
            self._doubts = [doubt for doubt in self._doubts if doubt is not self.suspects]
            self._search()

    def deadline(self, patience: timedelta) -> datetime | None:
        """When to give up on what the client does not ask for."""
        return self._since + patience if self._unsent and self._since is not None else None

    def _refuse(self, guilty: Mapping[str, str]) -> None:
        for unit in guilty.items():
            _bound(self.refused)
            self.refused[unit] = self._text
            self._attempts.pop(unit, None)
        self._doubts = [doubt for doubt in self._doubts if guilty.items().isdisjoint(doubt.items())]

    def _search(self) -> None:
        """Try half of the smallest doubt that matters now, and the other half once all of that was accepted."""
        suspects = min(filter(self._is_wanted, self._doubts), key=len, default=_NONE)
        if suspects is self.suspects and self.trial.intersection(suspects):
            return
        self.suspects, self._since = suspects, None
        self.trial = self._unsent = frozenset(sorted(suspects)[: len(suspects) // 2])

    def _is_wanted(self, doubt: Mapping[str, str]) -> bool:
        return all(name in self._wanted and self._wanted[name].version == version for name, version in doubt.items())


def _bound(kept: dict[tuple[str, str], _T]) -> None:
    """A client that refuses for ever makes us forget, not grow."""
    if len(kept) >= _MOST:
        kept.clear()
