"""Incremental xDS for one stream, without I/O: requests and snapshots in, responses and events out.

Rules, by the clauses of docs/standards.md:
- P2 subscribing and unsubscribing count whatever the nonce; only the ACK or NACK in a stale request is dropped.
- P3 a refusal (NACK) is the presence of an error. What was refused is not sent again until another version of it was accepted, the
  client subscribed to it anew, or the server makes another attempt with it. Its removals are done all the same, as in Envoy.
- P6 a first request without names, or `*`, subscribes to all where the type allows it. P7 subscribing again is answered again.
- P8 a name that leaves while `*` stays is answered with the resource or its removal.
- P9 a name that does not exist is answered as removed, except where a removal ends warming: then it stays unanswered.
- P11 what the client brought along in the same version is not sent again, and what vanished meanwhile is removed, for every type.
- P13 what a client waits for again is sent again: of the same name. Envoy's new cluster would wait 15 seconds for endpoints that the old
  one has already.
- P14 types go in the order given. One response per type is under way; what changes meanwhile is merged.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count

from sds.xds.edition import differing
from sds.xds.resource import WILDCARD, Node, Resource, Resources, Snapshot, TypeRules, check_names, unit, versions
from sds.xds.session import Brought, Event, Removed, find_type, held, outcome, remember

_OWED = ""
"""Stands for the version of a resource about which the client waits for an answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaRequest:
    """What a client wants more and less of, and what it says of the response with this nonce."""

    type_url: str
    subscribe: tuple[str, ...] = ()
    unsubscribe: tuple[str, ...] = ()
    initial_versions: Mapping[str, str] = field(default_factory=dict)
    nonce: str = ""
    error: str | None = None
    node: Node = field(default_factory=Node)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaResponse:
    """What changed of one type."""

    type_url: str
    nonce: str
    resources: tuple[Resource, ...]
    removed: tuple[str, ...]


@dataclass(slots=True, kw_only=True)
class _Subscription:
    """One type on one stream."""

    rules: TypeRules
    resources: Resources | None = None
    stirred: bool = False
    """Whether anything came in since it was last asked what is due."""
    changed: set[str] | None = None
    """The only names about which it did; None if that may be any."""
    started: bool = False
    names: set[str] = field(default_factory=set)
    known: dict[str, str | None] = field(default_factory=dict)
    """Name -> version that the client has, None if it was told that there is none. Without an entry an answer is owed."""
    claimed: dict[str, str] = field(default_factory=dict)
    """What the client brought along, until it is compared."""
    answer_owed: bool = False
    """A wildcard is answered even if there is nothing: the client waits for it at its start."""
    refused: frozenset[tuple[str, str]] = frozenset()
    nonce: str = ""
    awaiting: tuple[tuple[Resource, ...], tuple[str, ...]] | None = None
    """What is under way and not yet accepted or refused: resources and removals."""

    @property
    def _sees_all(self) -> bool:
        return self.rules.wildcard and WILDCARD in self.names

    def receive(self, request: DeltaRequest) -> tuple[Event, ...]:
        events = self._settle(request.error) if request.nonce == self.nonce else ()  # P2: only this part can be stale
        if request.subscribe or request.unsubscribe or request.error is not None or not self.started:
            self._stir()
        if self.started:
            self._unsubscribe(request.unsubscribe)
            self._subscribe(request.subscribe)
        else:
            events = self._start(request)
        if request.subscribe:
            check_names(self.rules, self.names)
        return events

    def _settle(self, error: str | None) -> tuple[Event, ...]:
        awaiting, self.awaiting = self.awaiting, None
        if awaiting is None:
            return ()
        sent, removed = awaiting
        if error is not None:
            self.refused = remember(self.refused, frozenset(map(unit, sent)))
            self.known.update(dict.fromkeys(versions(sent), _OWED))
        else:
            self._forgive(versions(sent))
        gone = tuple(Removed(type_url=self.rules.type_url, name=name) for name in removed)
        return outcome(self.rules.type_url, sent, error) + gone

    def _forgive(self, names: Iterable[str]) -> None:
        if self.refused:
            self.refused = frozenset(unit for unit in self.refused if unit[0] not in names)

    def _start(self, request: DeltaRequest) -> tuple[Event, ...]:
        self.started = True
        self.names.update(request.subscribe)
        if self.rules.wildcard and not request.subscribe:
            self.names.add(WILDCARD)  # P6: the legacy form
        self.answer_owed = self._sees_all and not request.initial_versions
        wanted = request.initial_versions if self._sees_all else self.names
        self.claimed = {name: version for name, version in request.initial_versions.items() if name in wanted}
        self.known.update(self.claimed)
        return (Brought(type_url=self.rules.type_url, versions=dict(self.claimed)),) if self.claimed else ()

    def _subscribe(self, names: Iterable[str]) -> None:
        for name in names:
            self.names.add(name)
            if self.rules.wildcard and name == WILDCARD:
                self.answer_owed = True
                self._owe(tuple(self.known))
            else:
                self._owe((name,))

    def _unsubscribe(self, names: Iterable[str]) -> None:
        for name in self.names.intersection(names):
            self.names.discard(name)
            self.claimed.pop(name, None)
            if self._sees_all:
                self._owe((name,))  # P8
            elif self.rules.wildcard and name == WILDCARD:
                self.answer_owed = False
                self.known = {known: version for known, version in self.known.items() if known in self.names}
            else:
                self.known.pop(name, None)

    def _owe(self, names: tuple[str, ...]) -> None:
        """Answer these again, whatever the client was sent or refused before."""
        self._forgive(names)
        for name in names:
            self.known[name] = _OWED
            self.claimed.pop(name, None)

    def show(self, resources: Resources) -> tuple[Event, ...]:
        """Take in what there is from now on."""
        before, may_be_any = self.resources, self.stirred and self.changed is None
        if isinstance(before, dict) and isinstance(resources, dict) and not may_be_any:
            self.changed = {*differing(before, resources), *(self.changed or ())}
        else:
            self._stir()
        self.resources, self.stirred = resources, True
        return self.recognise()

    def _stir(self) -> None:
        self.stirred, self.changed = True, None

    def recognise(self) -> tuple[Event, ...]:
        """Compare the versions that the client brought along with ours (P11)."""
        if not self.claimed or self.resources is None:
            return ()
        events = []
        for name, version in tuple(self.claimed.items()):
            resource = self.resources.get(name)
            if resource is None and self.rules.removal_ends_warming:
                continue  # not servable yet: it may still turn out to be the same
            del self.claimed[name]
            if resource is not None and resource.version == version:
                events.append(held(self.rules.type_url, resource))
        return tuple(events)

    def due(self) -> tuple[tuple[Resource, ...], tuple[str, ...]] | None:
        """Return what to send and what to remove now; None if there is nothing to say."""
        if not (self.started and self.stirred) or self.resources is None or self.awaiting is not None:
            return None
        looked_at = self._named() if self.changed is None else self.changed
        self.stirred, self.changed = (
            self.rules.removal_ends_warming,
            None,
        )  # such resources may come to be with time alone
        changed: list[Resource] = []
        removed: list[str] = []
        for name in sorted(looked_at):
            if not (name in self.names or self._sees_all or name in self.known):
                continue
            resource = self.resources.get(name) if name in self.names or self._sees_all else None
            version = self.known.get(name, _OWED)
            if resource is not None and resource.version != version and unit(resource) not in self.refused:
                changed.append(resource)
            if resource is None and version is not None and not self.rules.removal_ends_warming:
                removed.append(name)
        return (tuple(changed), tuple(removed)) if changed or removed or self.answer_owed else None

    def _named(self) -> set[str]:
        """All names that the client asks for or has."""
        everything = set(self.resources or ()) if self._sees_all else set[str]()
        return (self.names - {WILDCARD}).union(everything, self.known)

    def send_again(self, names: Iterable[str]) -> None:
        """The client waits for these once more, although they did not change (P13)."""
        self.known.update(dict.fromkeys(self.known.keys() & names, _OWED))
        self._stir()

    def send(self, changed: tuple[Resource, ...], removed: tuple[str, ...], nonce: str) -> DeltaResponse:
        self.known.update(versions(changed))
        for name in removed:
            self.known[name] = None
        if removed:
            self.known = {
                name: version for name, version in self.known.items() if version is not None or name in self.names
            }
        self.answer_owed, self.nonce, self.awaiting = False, nonce, (changed, removed)
        return DeltaResponse(type_url=self.rules.type_url, nonce=nonce, resources=changed, removed=removed)


@dataclass(slots=True, kw_only=True)
class DeltaSession:
    """One incremental stream of one client: SDS with a single type, ADS with several.

    After `on_request` and `on_snapshot` the owner sends what `next_response` returns, until it returns None.
    """

    rules: tuple[TypeRules, ...]
    _types: dict[str, _Subscription] = field(init=False)
    _nonces: Iterator[str] = field(init=False, default_factory=lambda: map(str, count(1)))

    def __post_init__(self) -> None:
        self._types = {rules.type_url: _Subscription(rules=rules) for rules in self.rules}

    def on_request(self, request: DeltaRequest) -> tuple[Event, ...]:
        """Take in subscriptions, an ACK or a NACK; return what it says. Raises InvalidRequest."""
        subscription = find_type(self._types, request.type_url)
        for names in (request.subscribe, request.unsubscribe, request.initial_versions):
            check_names(subscription.rules, names)
        return subscription.receive(request) + subscription.recognise()

    def on_snapshot(self, snapshot: Snapshot) -> tuple[Event, ...]:
        """Take in what the client may see from now on."""
        return self._types[snapshot.type_url].show(snapshot.resources)

    def next_response(self) -> DeltaResponse | None:
        """Return the next response to send, None if the client has, or is being sent, all that it needs."""
        for subscription in self._types.values():
            if (due := subscription.due()) is not None:
                for type_url in subscription.rules.rewarms:
                    if type_url in self._types:
                        self._types[type_url].send_again(versions(due[0]))
                return subscription.send(*due, next(self._nonces))
        return None
