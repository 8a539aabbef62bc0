"""How one proxy is brought from one configuration to the next: what it may see now, decided from its answers. Pure.

Rules:
- Make before break (P14): a route or listener is shown once the client accepted each cluster that it newly refers to, with its
  endpoints; what is old leaves once nothing that the client may be using refers to it. Who needs nothing new does not wait.
- What is refused stays at its last good version, and so does what newly refers to it. `standing` says why.
- Nobody waits for ever. After the deadline older versions of what a route needs will do, and what no route that may be in use needs
  leaves. But nothing ever refers to what was not accepted, and nothing leaves that may be in use, however late it is.
- A new stream starts from nothing. Listeners and routes are withheld then, not shown as none, until those may go that can.

What that means for a client that comes back with a configuration of which we know nothing:
- An incremental client says what it has. All of that stays until its listeners and routes are replaced; what is ours is not sent.
- A state-of-the-world client says one version for all of a type. If it is ours, nothing of the type is sent. Else the first answer
  about clusters drops those that the target does not have, although its old routes refer to them until they are replaced, two round
  trips later; and a listener that needs what was refused is gone.
"""

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from meshca.router.delivery.answers import Ledger, is_same
from meshca.router.delivery.holdings import Holding
from meshca.router.delivery.target import (
    CLUSTERS,
    EMPTY,
    ENDPOINTS,
    LISTENERS,
    ORDER,
    ROUTES,
    Phase,
    Refusal,
    Standing,
    Target,
    Waiting,
)
from sds.xds.edition import differing
from sds.xds.resource import Resource, Snapshot
from sds.xds.session import Acked, Brought, Event, Held, Nacked, Removed, Sent

_USERS = (ROUTES, LISTENERS)
"""The types that refer to clusters."""

DEADLINE = timedelta(seconds=5)
"""How long a phase waits for a client that does not answer."""

_Lacking = dict[tuple[str, str], tuple[str, ...]]
"""Type and name -> the clusters that are waited for."""


def _ledgers() -> dict[str, Ledger]:
    return {type_url: Ledger(type_url=type_url) for type_url in ORDER}


@dataclass(slots=True, kw_only=True)
class Delivery:
    """One stream. Whatever `shown` returned counts as sent, so give all of it to the session, in its order.

    A client that is not `gated` asks for a cluster only when a route refers to it, and makes before it breaks on its own: gRPC. It asks by
    name, for a part of what there is, so what was never sent to it is not waited for. It accepts a route before it has its clusters, and
    calls by the old one until then: so an old cluster leaves only with the next target.
    """

    deadline: timedelta = DEADLINE
    gated: bool = True
    _target: Target = EMPTY
    _ledgers: dict[str, Ledger] = field(default_factory=_ledgers)
    _snapshots: dict[str, Snapshot] = field(default_factory=dict)
    _phase: Phase = Phase.STEADY
    _since: datetime | None = None
    _late: bool = False
    _now: datetime | None = None
    """When something came in that was not yet decided upon."""
    _decided: datetime | None = None
    """When something came in that was."""
    _waiting: _Lacking = field(default_factory=dict)
    _held_back: _Lacking = field(default_factory=dict)
    _objection: str = ""
    _outlived: frozenset[str] = frozenset()
    """Old clusters that a client that is not gated has stopped using."""

    def set_target(self, target: Target, now: datetime) -> None:
        """Take in what the client is to have from now on. Raises InvalidInput if that needs clusters that are not in it."""
        if not self.gated:
            self._outlived = self._found_outlived()
        if not self._show_at_once(target):
            target.check()
            self._now = now
        self._target, self._objection = target, ""
        for type_url, ledger in self._ledgers.items():
            ledger.quarantine.on_target(target.of(type_url))
            if not self.gated:
                ledger.forget_unsent()

    def on_time(self, now: datetime) -> None:
        """Take in that time has passed."""
        if self._since is None and self._is_idle():
            return
        self._now = now
        for ledger in self._ledgers.values():
            ledger.quarantine.on_time(now, self.deadline)

    def on_event(self, event: Event, now: datetime) -> None:
        """Take in what the session tells; what it tells of other types is nothing to us."""
        ledger = self._ledgers.get(event.type_url)
        if ledger is None:
            return
        accepted = isinstance(event, Acked | Held | Sent) and ledger.quarantine.is_idle
        if not (accepted and self._phase is Phase.STEADY and event.type_url not in _USERS):
            self._now = now  # else nothing waits for it: an accepted change of endpoints, mostly
        match event:
            case Acked() | Held():
                ledger.accept(event.name, event.version)
            case Nacked():
                sent = dict(zip(event.names, event.versions, strict=True))
                if not ledger.refuse(sent, event.message):
                    self._objection = event.message
            case Removed():
                ledger.remove(event.name)
            case Brought():
                ledger.bring(event.versions)
            case _:
                ledger.mark_sent(event.names)

    def shown(self) -> tuple[Snapshot, ...]:
        """What the client may see now, type by type in the order of sending. What did not change is the same object as before."""
        self._decide()
        if self._decided is not None:
            for ledger in self._ledgers.values():
                ledger.quarantine.on_shown(self._decided)
        return tuple(self._snapshots[type_url] for type_url in ORDER if type_url in self._snapshots)

    def accepted(self, type_url: str, resources: Mapping[str, Resource]) -> int:
        """How many of these resources of a type the client has accepted, or had already."""
        ledger = self._ledgers[type_url]
        return sum(ledger.good(name) == resource.version for name, resource in resources.items())

    def next_deadline(self) -> datetime | None:
        """When `on_time` is due, unless something comes in before."""
        self._decide()
        times = [ledger.quarantine.deadline(self.deadline) for ledger in self._ledgers.values()]
        if self._since is not None and not self._late:
            times.append(self._since + self.deadline)
        return min((time for time in times if time is not None), default=None)

    def standing(self) -> Standing:
        """How far the client is, and what it refused of the present target."""
        self._decide()
        unsettled = dict.fromkeys(self._unsettled(), ())
        return Standing(
            phase=self._phase,
            since=self._since,
            is_late=self._late,
            waiting=_told(unsettled | self._waiting),
            held_back=_told(self._held_back),
            refused=tuple(self.refusals()),
            objection=self._objection,
        )

    def refusals(self) -> Iterator[Refusal]:
        """What the client refused of the present target. Costs nothing where it refused nothing."""
        for type_url, ledger in self._ledgers.items():
            for resource in self._target.of(type_url).values() if ledger.quarantine.refused else ():
                text = ledger.quarantine.refused.get((resource.name, resource.version))
                if text is not None:
                    yield Refusal(
                        type_url=type_url,
                        name=resource.name,
                        version=resource.version,
                        text=text,
                        proof=resource.proof,
                    )

    def _is_idle(self) -> bool:
        return all(ledger.is_known and ledger.quarantine.is_idle for ledger in self._ledgers.values())

    def _show_at_once(self, target: Target) -> bool:
        """Show what changed if it is nothing but endpoints of clusters that the client has, and nothing else is under way.

        That is what changes most, and to many: it leads where `_decide` would, without looking at all that did not change.
        """
        before, ledger, clusters = self._target, self._ledgers[ENDPOINTS], self._ledgers[CLUSTERS]
        is_steady = self._phase is Phase.STEADY and self._now is None and not self._held_back and self._is_idle()
        if not is_steady or target.others != before.others:
            return False
        shown, wanted = ledger.shown, target.endpoints
        changed = [name for name in differing(shown, wanted) if shown.get(name) != wanted.get(name)]
        if not all(name in shown and name in wanted for name in changed):
            return False
        if not all(clusters.good(name) == target.clusters[name].version for name in changed):
            return False
        if changed:
            ledger.show_instead(wanted, changed)
            self._snapshots[ENDPOINTS] = Snapshot(type_url=ENDPOINTS, resources=ledger.shown)
        return True

    def _decide(self) -> None:
        """Decide what to show, if anything came in since the last time."""
        if self._now is None or self._target is EMPTY:
            return
        now, self._now = self._now, None
        self._decided = now
        self._late = self._since is not None and now >= self._since + self.deadline
        if self._late:
            for ledger in self._ledgers.values():
                ledger.forget_unsent()
        self._switch()
        self._widen_or_narrow()
        self._enter(self._next_phase(), now)
        for type_url, ledger in self._ledgers.items():
            ledger.share(self._target.of(type_url))
            before = self._snapshots.get(type_url)
            if ledger.is_known and (before is None or before.resources != ledger.shown):
                self._snapshots[type_url] = Snapshot(type_url=type_url, resources=ledger.shown)

    def _switch(self) -> None:
        """Show each listener and route that may be shown; take old ones away once nothing new waits to replace them."""
        self._waiting, self._held_back = {}, {}
        listeners, routes = self._ledgers[LISTENERS], self._ledgers[ROUTES]
        chosen = {ledger.type_url: self._wanted(ledger) | self._leftover(ledger) for ledger in (listeners, routes)}
        ready = self._late or not self._waiting
        if not (ready or listeners.is_known):
            return
        if ready:
            chosen[LISTENERS] = {
                name: kept for name, kept in chosen[LISTENERS].items() if name in self._target.listeners
            }
        for ledger in (listeners, routes):
            ledger.show(chosen[ledger.type_url], self._needs(ledger, chosen[ledger.type_url]))
        if self._is_switched():
            routes.retain(self._target.routes)

    def _widen_or_narrow(self) -> None:
        """Show the clusters and endpoints of the target, and those that may still be in use."""
        clusters, endpoints = self._ledgers[CLUSTERS], self._ledgers[ENDPOINTS]
        chosen, leftover = self._wanted(clusters), self._leftover(clusters)
        leaving = self._leaving(leftover.keys())
        chosen |= {name: old for name, old in leftover.items() if name not in leaving}
        clusters.show(chosen, {})
        if not self.gated:  # it may have dropped them long ago, and then never says so
            clusters.forget(self._outlived)
        served = self._wanted(endpoints) | self._leftover(endpoints)
        for name in [name for name in served if self._must_wait(name)]:
            self._waiting[ENDPOINTS, name] = (name,)
            served[name] = endpoints.shown[name]
        endpoints.show(
            {name: each for name, each in served.items() if name in chosen and self._has_endpoints(name)}, {}
        )

    def _must_wait(self, name: str) -> bool:
        """Whether endpoints wait for their cluster: a new one may have an identity that only the newest cluster knows."""
        wanted, clusters = self._target.clusters.get(name), self._ledgers[CLUSTERS]
        if self._late or wanted is None or name not in self._ledgers[ENDPOINTS].shown or not clusters.good(name):
            return False
        return clusters.good(name) != wanted.version and not clusters.quarantine.refuses(wanted)

    def _wanted(self, ledger: Ledger) -> dict[str, Resource]:
        """What to show of the target."""
        wanted, shown, idle = self._target.of(ledger.type_url), ledger.shown, ledger.quarantine.is_idle
        chosen = {
            name: resource if idle and shown.get(name) is resource else self._version(ledger, resource)
            for name, resource in wanted.items()
        }
        return {name: resource for name, resource in chosen.items() if resource is not None}

    def _leftover(self, ledger: Ledger) -> dict[str, Resource]:
        """What is shown although it is not in the target, each as the client accepted it if it refused what is shown."""
        wanted = self._target.of(ledger.type_url)
        found = ((name, _stay(ledger, name)) for name in ledger.shown.keys() - wanted.keys())
        return {name: resource for name, resource in found if resource is not None}

    def _version(self, ledger: Ledger, resource: Resource) -> Resource | None:
        """Which version of a resource of the target to show; None if the client must not see any."""
        name, quarantine = resource.name, ledger.quarantine
        if not quarantine.admits(resource, ledger.good(name)):
            return _stay(ledger, name, held=True)
        wanted = quarantine.attempt(resource)
        if is_same(ledger.shown.get(name), wanted):
            return wanted
        return wanted if _is_free(ledger, wanted) and self._has_needs(ledger, name) else _stay(ledger, name)

    def _needs(self, ledger: Ledger, chosen: Mapping[str, Resource]) -> dict[str, frozenset[str]]:
        """To which clusters those refer that are as the target wants them."""
        wanted = self._target.of(ledger.type_url).items()
        names = [name for name, resource in wanted if name in chosen and chosen[name].version == resource.version]
        return {name: self._target.needs.get(name, frozenset()) for name in names}

    def _has_needs(self, ledger: Ledger, name: str) -> bool:
        """Whether the client has all that a listener or route of the target refers to."""
        if not self.gated or ledger.type_url not in _USERS:
            return True
        had = ledger.holdings[name].good_needs if name in ledger.holdings else frozenset[str]()
        lacking = [each for each in sorted(self._target.needs.get(name, ())) if not self._has_cluster(each, had)]
        refused = tuple(filter(self._is_refused, lacking))
        if lacking:
            where = self._held_back if refused else self._waiting
            where[ledger.type_url, name] = refused or tuple(lacking)
        return not lacking

    def _has_cluster(self, cluster: str, had: AbstractSet[str]) -> bool:
        """Whether the client accepted a cluster and its endpoints: as they are now, or at all if it referred to it before."""
        at_all = cluster in had or (self._late and not self._is_refused(cluster))
        for type_url in (CLUSTERS, ENDPOINTS):
            wanted = self._target.of(type_url).get(cluster)
            good = self._ledgers[type_url].good(cluster)
            if wanted is not None and good != wanted.version and not (good and at_all):
                return False
        return True

    def _is_refused(self, cluster: str) -> bool:
        ledgers = [each for each in (self._ledgers[CLUSTERS], self._ledgers[ENDPOINTS]) if not each.quarantine.is_idle]
        found = ((ledger, self._target.of(ledger.type_url).get(cluster)) for ledger in ledgers)
        return any(resource is not None and ledger.quarantine.refuses(resource) for ledger, resource in found)

    def _has_endpoints(self, cluster: str) -> bool:
        """Whether a cluster that is shown gets its endpoints from here; until the client has a new kind of it, the old one does."""
        resource = self._target.clusters.get(cluster)
        replaced = resource is not None and self._ledgers[CLUSTERS].good(cluster) == resource.version
        return cluster in self._target.endpoints or not replaced

    def _unsettled(self) -> Iterator[tuple[str, str]]:
        """Listeners and routes of which the client may have something else than is shown."""
        for type_url in _USERS:
            for name, holding in self._ledgers[type_url].holdings.items():
                if self._matters(holding) and not holding.settled:
                    yield type_url, name

    def _matters(self, holding: Holding) -> bool:
        """Whether an answer is waited for: a client that asks by name does not have what it was never sent."""
        return self.gated or holding.sent

    def _is_switched(self) -> bool:
        """Whether the listeners of the target are in use as they are there, and no others: they have their routes, and need no old ones."""
        listeners, routes = self._ledgers[LISTENERS], self._ledgers[ROUTES]
        new = all(is_same(listeners.shown.get(name), each) for name, each in self._target.listeners.items())
        settled = all(holding.settled for holding in filter(self._matters, listeners.holdings.values()))
        used = (routes.holdings.get(name, Holding()) for name in self._target.routes)
        return new and settled and all(each.good and each.settled for each in used if self._matters(each))

    def _leaving(self, old: AbstractSet[str]) -> AbstractSet[str]:
        """Which old clusters may go."""
        if not self.gated:
            return self._outlived
        used = self._in_use() if self._may_narrow() else None
        return set() if used is None else old - used

    def _found_outlived(self) -> frozenset[str]:
        """The old clusters, if the client has accepted all that its routes lead to, as far as it asked for that."""
        clusters = self._ledgers[CLUSTERS]
        taken = (name for each in _USERS for name, holding in self._ledgers[each].holdings.items() if holding.sent)
        needed = {cluster for name in taken for cluster in self._target.needs.get(name, ())}
        asked = [name for name in needed if name in clusters.holdings and clusters.holdings[name].sent]
        if not (self._may_narrow() and all(self._has_cluster(name, frozenset()) for name in asked)):
            return frozenset()
        return frozenset(clusters.shown.keys() - self._target.clusters.keys())

    def _may_narrow(self) -> bool:
        settled = not self._waiting and next(self._unsettled(), None) is None
        return self._ledgers[LISTENERS].is_known and (settled or self._late)

    def _in_use(self) -> frozenset[str] | None:
        """The clusters to which something refers that the client may be using; None if that may be any."""
        used: set[str] = set()
        for type_url in _USERS:
            for holding in self._ledgers[type_url].holdings.values():
                for version in holding.versions.values():
                    if version.needs is None:
                        return None
                    used |= version.needs
        return frozenset(used)

    def _next_phase(self) -> Phase:
        if self._waiting:
            return Phase.WIDEN
        if next(self._unsettled(), None) is not None:
            return Phase.SWITCH
        leaving = any(holding.is_leaving for holding in self._ledgers[CLUSTERS].holdings.values())
        return Phase.NARROW if leaving else Phase.STEADY

    def _enter(self, phase: Phase, now: datetime) -> None:
        if phase is not self._phase:
            self._phase, self._late = phase, False
            self._since = None if phase is Phase.STEADY else now


def _stay(ledger: Ledger, name: str, *, held: bool = False) -> Resource | None:
    """What to show while the wanted version may not be: what is shown, or what was accepted last.

    What is shown does not stay if it was refused, nor if it is `held`, once it was answered: what is under way is not called back.
    """
    current = ledger.shown.get(name)
    called_back = held and current is not None and ledger.holdings[name].answered
    if current is not None and not called_back and not ledger.quarantine.refuses(current):
        return current
    good = ledger.last_good(name)
    if good is None or good is current:
        return good
    return ledger.quarantine.attempt(good) if _is_free(ledger, good) else current


def _is_free(ledger: Ledger, resource: Resource) -> bool:
    """Whether answers under way allow a version to be shown. Whichever version of a cluster or of endpoints a client has, it has them."""
    holding = ledger.holdings.get(resource.name)
    if holding is None:
        return True
    return holding.may_show(resource.version) if ledger.type_url in _USERS else not holding.is_leaving


def _told(users: _Lacking) -> tuple[Waiting, ...]:
    return tuple(
        Waiting(type_url=type_url, name=name, clusters=clusters) for (type_url, name), clusters in users.items()
    )
