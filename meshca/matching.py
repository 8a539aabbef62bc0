"""Which registration entries a caller's selectors fit, and which nearly. Pure.

Rules:
- An entry matches when all its selectors are among the caller's, and only until it expires.
- The order never depends on the order of the entries: the default comes first, then age decides, then id (WA-72).
- A hint is unique among the entries of one caller: the first that has it keeps it (WA-26).
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from heapq import nsmallest
from itertools import islice

from meshca.errors import InvalidInput
from meshca.model import Entry, Selector

# What our attestors can vouch for, and how a person is told.
_VOUCHED = (
    ("unix:uid:1000 and unix:gid:1000", re.compile(r"unix:[ug]id:(?:0|[1-9]\d{0,9})", re.ASCII)),
    ("unix:user:NAME and unix:group:NAME", re.compile(r"unix:(?:user|group):.+")),
    (
        "unix:path:/ABSOLUTE/PATH (as the kernel says it: no //, /./ or /../)",
        re.compile(r"unix:path:(?:/(?!\.\.?(?:/|\Z))[^/]+)+"),
    ),
    ("unix:sha256:64-HEX-DIGITS", re.compile(r"unix:sha256:[0-9a-f]{64}")),
    ("socket:NAME", re.compile(r"socket:.+")),
)


def check_vouched(selector: Selector) -> None:
    """Raise InvalidInput for a selector that no attestor ever vouches for: an entry with it would wait for nobody, silently."""
    if not any(form.fullmatch(str(selector)) for _, form in _VOUCHED):
        known = ", ".join(words for words, _ in _VOUCHED)
        raise InvalidInput(f"selector {str(selector)!r} is one that no process can have: there are {known}")


OF_THE_PROGRAM = frozenset({"path", "sha256"})
"""The kinds that tell what a process runs, not who runs it: any user may run that program, and load code of their own into it."""
COSTLY = frozenset({"sha256", "group"})
"""The kinds that an attestor reads only where an entry asks: a whole file, a directory of names."""


def kind(selector: Selector) -> str:
    """What it is about: `path` for unix:path:/bin/envoy, `socket` for socket:web."""
    return selector.value.partition(":")[0] if selector.type == "unix" else selector.type


def costly(selectors: Iterable[Selector]) -> frozenset[str]:
    """The costly kinds among them."""
    return COSTLY.intersection(map(kind, selectors))


@dataclass(frozen=True, slots=True, kw_only=True)
class NearMiss:
    """An entry that a caller does not get. `missing`, sorted, are the selectors that it lacks: none where the entry has expired."""

    entry: Entry
    missing: tuple[Selector, ...]

    def __str__(self) -> str:
        if not self.missing:
            return (
                f"{self.entry.spiffe_id} (entry {self.entry.id}) expired at {self.entry.expires_at:%Y-%m-%d %H:%M:%S}Z"
            )
        return f"{self.entry.spiffe_id} (entry {self.entry.id}) also wants {', '.join(map(str, self.missing))}"


class EntryIndex:
    """Entries, made quick to ask for what a caller matches: among 10,000 entries only those are looked at that could match.

    `wanted` has all selectors of all entries: what an attestor need look for.
    """

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._entries = tuple(entries)
        uses = Counter(selector for entry in self._entries for selector in entry.selectors)
        self._by_rarest: dict[Selector, list[Entry]] = defaultdict(list)
        self._by_any: dict[Selector, list[Entry]] = defaultdict(list)
        for entry in self._entries:
            self._by_rarest[min(entry.selectors, key=lambda selector: (uses[selector], selector))].append(entry)
            for selector in entry.selectors:
                self._by_any[selector].append(entry)
        self.wanted = frozenset(self._by_any)
        self._shortest = sorted(self._entries, key=lambda entry: (len(entry.selectors), *_age(entry)))

    def entitled(self, selectors: frozenset[Selector], now: datetime) -> tuple[Entry, ...]:
        """The entries that match, the default first. A hint that an earlier one has is blanked."""
        candidates = (entry for selector in selectors for entry in self._by_rarest.get(selector, ()))
        matching = [entry for entry in candidates if entry.is_live(now) and entry.selectors <= selectors]
        return tuple(_unique_hints(sorted(matching, key=lambda entry: (not entry.default, *_age(entry)))))

    def near_misses(self, selectors: frozenset[Selector], now: datetime, limit: int) -> tuple[NearMiss, ...]:
        """At most `limit` entries that do not match: those first that lack the fewest selectors, then those that share the most."""
        sharing = {entry.id: entry for selector in selectors for entry in self._by_any.get(selector, ())}
        strangers = islice((entry for entry in self._shortest if entry.id not in sharing), limit)
        missed = [
            NearMiss(entry=entry, missing=tuple(sorted(entry.selectors - selectors)))
            for entry in (*sharing.values(), *strangers)
            if not (entry.is_live(now) and entry.selectors <= selectors)
        ]
        return tuple(nsmallest(limit, missed, key=_nearness))


def entitled(entries: Iterable[Entry], selectors: frozenset[Selector], now: datetime) -> tuple[Entry, ...]:
    """See EntryIndex.entitled; for a few entries."""
    return EntryIndex(entries).entitled(selectors, now)


def near_misses(
    entries: Iterable[Entry], selectors: frozenset[Selector], now: datetime, limit: int
) -> tuple[NearMiss, ...]:
    """See EntryIndex.near_misses; for a few entries."""
    return EntryIndex(entries).near_misses(selectors, now, limit)


def _age(entry: Entry) -> tuple[datetime, str]:
    return entry.created_at, entry.id


def _nearness(miss: NearMiss) -> tuple[int, int, datetime, str]:
    return len(miss.missing), len(miss.missing) - len(miss.entry.selectors), *_age(miss.entry)


def _unique_hints(entries: Iterable[Entry]) -> Iterator[Entry]:
    taken: set[str] = set()
    for entry in entries:
        yield replace(entry, hint="") if entry.hint and entry.hint in taken else entry
        taken.add(entry.hint)
