"""What one client was shown and what it answered: its holdings and its refusals, type by type. Pure.

Rules: it records and tells; what to show is decided by `meshca.router.delivery.delivery`.
"""

from collections.abc import Collection, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from meshca.router.delivery.holdings import ABSENT, Holding, Version, brought
from meshca.router.delivery.quarantine import Quarantine
from meshca.router.delivery.target import CLUSTERS, ENDPOINTS, LISTENERS
from sds.xds.resource import Resource

_ANSWERED = frozenset({CLUSTERS, LISTENERS})
"""The types of which a client drops what is gone, and says so. It sees all of them, so it never asks for one of these by name."""


@dataclass(slots=True, kw_only=True)
class Ledger:
    """One type. `is_known` says whether its session was shown any of it."""

    type_url: str
    shown: Mapping[str, Resource] = field(default_factory=dict)
    is_known: bool = False
    holdings: dict[str, Holding] = field(default_factory=dict)
    quarantine: Quarantine = field(default_factory=Quarantine)

    def good(self, name: str) -> str:
        """The version that the client accepted and was not told to drop; empty if there is none."""
        return self.holdings[name].good if name in self.holdings else ""

    def last_good(self, name: str) -> Resource | None:
        """What to show instead of something refused. Of what the client brought along there is no body.

        Then what is shown stays: whether that is a mere name or was refused, no session sends it, and the client keeps what it has.
        """
        version = self.holdings[name].versions.get(self.good(name)) if name in self.holdings else None
        return None if version is None else version.resource or self.shown.get(name)

    def show(self, chosen: dict[str, Resource], needs: Mapping[str, frozenset[str]]) -> None:
        """Take note of what the client is shown from now on. `needs` are those of what is as the target wants it."""
        for name, resource in chosen.items():
            if name in needs or self.shown.get(name) is not resource:
                self._show(resource, needs.get(name))
        for name in self.shown.keys() - chosen.keys():
            self._hide(name)
        self.shown, self.is_known = chosen, True

    def show_instead(self, shown: Mapping[str, Resource], changed: Iterable[str]) -> None:
        """Take note that these are shown from now on, which are the same as before but for what changed."""
        for name in changed:
            self._show(shown[name], None)
        self.shown = shown

    def share(self, wanted: Mapping[str, Resource]) -> None:
        """Keep what is wanted in place of what is shown where they are equal: others want the same, and it tells what changes next."""
        if self.is_known and self.shown == wanted:
            self.shown = wanted

    def _show(self, resource: Resource, needs: frozenset[str] | None) -> None:
        holding = self.holdings.setdefault(resource.name, Holding())
        value = holding.versions.get(resource.version)
        if value is None or value.resource is None or needs is not None:
            value = Version(resource=resource, needs=needs or frozenset())
        if is_same(self.shown.get(resource.name), resource):
            holding.versions[resource.version] = value
        else:
            holding.show(resource.version, value)

    def _hide(self, name: str) -> None:
        if self.type_url in _ANSWERED:
            self.holdings[name].show(ABSENT, Version(resource=None))
        elif self.type_url == ENDPOINTS:
            del self.holdings[name]

    def accept(self, name: str, version: str) -> None:
        """The client has this version."""
        if name in self.holdings:
            self.holdings[name].accept(version)
            self._convict(self.quarantine.on_ack(name, version))

    def refuse(self, sent: Mapping[str, str], text: str) -> bool:
        """The client refused these versions. Returns whether there was anything new among them, to which that can be due."""
        changed = {name: version for name, version in sent.items() if self.good(name) != version}
        for name in sent.keys() & self.holdings.keys():
            self.holdings[name].refuse(sent[name])
            if name not in changed and not self.holdings[name].settled:
                self.quarantine.try_again(name, sent[name])
        if changed:
            self._convict(self.quarantine.on_nack(changed, text))
        return bool(changed)

    def _convict(self, guilty: Mapping[str, str]) -> None:
        for name in guilty.keys() & self.holdings.keys():
            self.holdings[name].convict(guilty[name])

    def remove(self, name: str) -> None:
        """The client dropped it. A name that it asked for and that never was leaves nothing."""
        if name in self.holdings and self.holdings[name].is_leaving:
            del self.holdings[name]

    def bring(self, versions: Mapping[str, str]) -> None:
        """The client came with these. Endpoints go with their clusters: a client drops none on its own, whatever it is told."""
        if self.type_url == ENDPOINTS:
            return
        if self.type_url in _ANSWERED and not self.is_known:
            new = versions.keys() - self.holdings.keys()
            self.shown = {**self.shown, **{name: Resource(name=name, version=versions[name], body=b"") for name in new}}
        for name, version in versions.items():
            self._bring(name, version)

    def _bring(self, name: str, version: str) -> None:
        came = brought(version)
        if name in self.holdings:
            held = self.holdings[name]
            held.versions = came.versions | held.versions
            held.good, held.sent = held.good or version, True
            return
        self.holdings[name] = came
        if self.type_url in _ANSWERED and self.is_known:
            came.show(ABSENT, Version(resource=None))  # the session is about to remove it

    def mark_sent(self, names: tuple[str, ...]) -> None:
        """The client was sent these."""
        self.quarantine.on_sent(names)
        for name in names:
            if name in self.holdings:
                self.holdings[name].sent = True

    def forget_unsent(self) -> None:
        """What was shown long ago and never sent is not asked for."""
        for name, holding in tuple(self.holdings.items()):
            holding.forget_unsent()
            if not holding.versions and name not in self.shown:
                del self.holdings[name]

    def forget(self, names: AbstractSet[str]) -> None:
        """The client has no use for these any more, and need not say so."""
        for name in names - self.shown.keys():
            self.holdings.pop(name, None)

    def retain(self, names: Collection[str]) -> None:
        """Nothing that the client has leads to anything but these."""
        self.shown = {name: resource for name, resource in self.shown.items() if name in names}
        self.holdings = {name: holding for name, holding in self.holdings.items() if name in names}


def is_same(one: Resource | None, other: Resource) -> bool:
    """Whether a session that was shown one would not send the other."""
    return one is other or (one is not None and one.version == other.version and one.attempt >= other.attempt)
