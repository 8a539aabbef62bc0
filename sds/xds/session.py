"""State-of-the-world xDS for one stream, without I/O: requests and snapshots in, responses and events out.

Rules, by the clauses of docs/standards.md:
- P1 a request whose nonce is not that of the last response of its type is ignored; the first request of a type always counts.
- P3 a refusal (NACK) is the presence of an error. What was refused is not sent again until something else was accepted, the client
  subscribed to it anew, or the server makes another attempt with it.
- P4 the version is per type and covers all that the client holds of it. A first request that names our version is answered by silence,
  but only where a client can not have dropped and wanted again a part of it meanwhile: for a wildcard, and for one name on a stream
  of its own (Envoy's SDS). A client with several names says the same version whether or not it still holds them all.
- P5 in a full-state type every response is complete, else it carries only what changed. P6 wildcards. P10 no name twice.
- P9 a name that does not exist is left unanswered. P12 we set no TTL. P13 what a client waits for again is sent again. P14 types go in
  the order given. P16 a name outside of the wildcard is looked up when it is asked for.
- One response per type is under way; what changes meanwhile is merged, so a slow client gets only the newest.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import TypeVar

from sds.xds.resource import (
    WILDCARD,
    InvalidRequest,
    Node,
    Resource,
    Resources,
    Snapshot,
    TypeRules,
    check_names,
    combined_version,
    unit,
    versions,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a client wants, and what it says of the last response: with `error` a NACK, else an ACK if the nonce matches."""

    type_url: str
    names: tuple[str, ...] = ()
    version: str = ""
    nonce: str = ""
    error: str | None = None
    node: Node = field(default_factory=Node)


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """The newest resources of one type."""

    type_url: str
    version: str
    nonce: str
    resources: tuple[Resource, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Acked:
    """The client accepted a version of a resource. In Envoy this does not prove that it is in use."""

    type_url: str
    name: str
    version: str
    proof: object


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """The client came back with the version that we would send: it accepted it earlier."""

    type_url: str
    name: str
    version: str
    proof: object


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """The client took note that there is no such resource, or no more."""

    type_url: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Brought:
    """An incremental client came back and said what it has, in whatever versions. What is ours of it follows as Held."""

    type_url: str
    versions: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Nacked:
    """The client refused a response, which may still have changed a part of it. Envoy may blame the wrong resource.

    `version` is of all that was sent, `versions` are those of the names, in the same order.
    """

    type_url: str
    names: tuple[str, ...]
    versions: tuple[str, ...]
    version: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """A response was written to the client. The stream tells this, not the session, which does not know of writes."""

    type_url: str
    names: tuple[str, ...]


Event = Acked | Held | Removed | Brought | Nacked | Sent

_Type = TypeVar("_Type")
_Unit = tuple[str, str]
_MOST_REFUSALS = 1000


def find_type(types: Mapping[str, _Type], type_url: str) -> _Type:
    """Return what a request is about; a stream of one type needs no type URL. Raises InvalidRequest."""
    if not type_url and len(types) == 1:
        return next(iter(types.values()))
    if type_url not in types:
        raise InvalidRequest(f"type_url {type_url[:200]!r} is not served here, only {', '.join(types)}")
    return types[type_url]


def outcome(type_url: str, sent: tuple[Resource, ...], error: str | None) -> tuple[Event, ...]:
    """Return what an answer to a response means for each resource in it."""
    if error is not None:
        parts = versions(sent)
        names, each = tuple(parts), tuple(parts.values())
        return (Nacked(type_url=type_url, names=names, versions=each, version=combined_version(parts), message=error),)
    return tuple(Acked(type_url=type_url, name=r.name, version=r.version, proof=r.proof) for r in sent)


def remember(refused: frozenset[_Unit], units: frozenset[_Unit]) -> frozenset[_Unit]:
    """Add to what was refused; a client that refuses for ever makes us forget, not grow."""
    return units | (refused if len(refused) < _MOST_REFUSALS else frozenset())


def held(type_url: str, resource: Resource) -> Held:
    """Return the event for a resource that the client brought along."""
    return Held(type_url=type_url, name=resource.name, version=resource.version, proof=resource.proof)


@dataclass(slots=True, kw_only=True)
class _Subscription:
    """One type on one stream."""

    rules: TypeRules
    alone: bool
    """The stream carries only this type."""
    resources: Resources | None = None
    names: frozenset[str] | None = None
    """What is asked for; None until the first request."""
    named: bool = False
    known: dict[str, str] | None = None
    """Name -> version of what was sent and not refused, as far as it is still asked for; None if an answer is owed in any case."""
    had: frozenset[str] = frozenset()
    """In a full-state type: what the client may have of what was sent."""
    claimed: str = ""
    """The version that the client brought along, until it is compared or overtaken by a response."""
    refused: frozenset[_Unit] = frozenset()
    nonce: str = ""
    awaiting: tuple[Resource, ...] | None = None
    """What is under way and not yet accepted or refused."""

    def receive(self, request: Request) -> tuple[Event, ...]:
        first = self.names is None
        if not first and request.nonce != self.nonce:
            return ()  # P1
        events = self._settle(request.error)
        self._subscribe(frozenset(request.names))
        if first:
            self.claimed = request.version
        return events

    def _settle(self, error: str | None) -> tuple[Event, ...]:
        sent, self.awaiting = self.awaiting, None
        if sent is None:
            return ()
        units = self._units(sent)
        if error is not None:
            self.refused = remember(self.refused, units)
            refused = versions(sent)
            kept = {name: version for name, version in (self.known or {}).items() if name not in refused}
            # of a full-state type the client may have kept nothing, so a part of it would be news
            self.known = None if self.rules.full_state else kept
            return outcome(self.rules.type_url, sent, error)
        if self.refused:
            self._forgive({name for name, _ in units})
        return outcome(self.rules.type_url, sent, error) + self._removed(sent)

    def _removed(self, sent: tuple[Resource, ...]) -> tuple[Event, ...]:
        if not self.rules.full_state:
            return ()
        before, self.had = self.had, frozenset(versions(sent))
        return tuple(Removed(type_url=self.rules.type_url, name=name) for name in sorted(before - self.had))

    def _units(self, resources: Iterable[Resource]) -> frozenset[_Unit]:
        """What an answer accepts or refuses: of a full-state type all of the response, else each resource in it."""
        if self.rules.full_state:
            return frozenset({("", combined_version(versions(resources)))})
        return frozenset(map(unit, resources))

    def _forgive(self, names: Iterable[str]) -> None:
        self.refused = frozenset(unit for unit in self.refused if unit[0] not in names)

    def _subscribe(self, names: frozenset[str]) -> None:
        self.named = self.named or bool(names)
        if self.rules.wildcard and not self.named:
            names = frozenset({WILDCARD})  # P6: the legacy form
        before, self.names = self.names or frozenset(), names
        if names == before:
            return
        self.claimed = ""
        if self.known is not None and not self._sees_all:
            self.known = {name: version for name, version in self.known.items() if name in names}
        if added := names - before:
            self._answer_anew(added)

    def _answer_anew(self, added: frozenset[str]) -> None:
        """A new subscription is answered even if the client was sent, or refused, the same before."""
        if self.rules.full_state:
            self.known, self.refused = None, frozenset()
        elif self.refused:
            self._forgive(added)

    @property
    def _sees_all(self) -> bool:
        return self.rules.wildcard and WILDCARD in (self.names or ())

    def _find(self, resources: Resources) -> tuple[Resource, ...]:
        names = self.names or frozenset()
        if self._sees_all:
            names = (names - {WILDCARD}).union(resources)
        return tuple(found for name in sorted(names) if (found := resources.get(name)))

    def recognise(self) -> tuple[Event, ...]:
        """Compare the version that the client brought along with ours (P4)."""
        whole = self._sees_all or (self.alone and len(self.names or ()) == 1)
        if not self.claimed or not whole or self.resources is None:
            return ()
        found = self._find(self.resources)
        if combined_version(versions(found)) != self.claimed:
            return ()
        self.claimed, self.known, self.had = "", versions(found), frozenset(versions(found))
        return tuple(held(self.rules.type_url, resource) for resource in found)

    def due(self) -> tuple[Resource, ...] | None:
        """Return what the client has to be sent now; None if there is nothing to say."""
        if not self.names or self.resources is None or self.awaiting is not None:
            return None
        found = self._find(self.resources)
        if self.rules.full_state:
            return None if versions(found) == self.known or self._units(found) <= self.refused else found
        known = self.known or {}
        return tuple(r for r in found if known.get(r.name) != r.version and unit(r) not in self.refused) or None

    def send(self, due: tuple[Resource, ...], nonce: str) -> Response:
        kept = {} if self.rules.full_state else self.known or {}
        self.known = kept | versions(due)
        self.had = self.had.union(versions(due)) if self.rules.full_state else self.had
        self.claimed, self.nonce, self.awaiting = "", nonce, due
        return Response(type_url=self.rules.type_url, version=self._version(), nonce=nonce, resources=due)

    def _version(self) -> str:
        """The version of all that was sent; one that can never be recognised later if the client refused a part of it."""
        known = self.known or {}
        doubtful = any(name not in known and name in (self.names or ()) for name, _ in self.refused)
        return combined_version(known) + ("-incomplete" if doubtful else "")

    def forget(self) -> None:
        """Send everything again (P13)."""
        self.known, self.claimed = None, ""


@dataclass(slots=True, kw_only=True)
class SotwSession:
    """One state-of-the-world stream of one client: SDS with a single type, ADS with several.

    After `on_request` and `on_snapshot` the owner sends what `next_response` returns, until it returns None.
    """

    rules: tuple[TypeRules, ...]
    _types: dict[str, _Subscription] = field(init=False)
    _nonces: Iterator[str] = field(init=False, default_factory=lambda: map(str, count(1)))

    def __post_init__(self) -> None:
        self._types = {rules.type_url: _Subscription(rules=rules, alone=len(self.rules) == 1) for rules in self.rules}

    def on_request(self, request: Request) -> tuple[Event, ...]:
        """Take in a subscription, an ACK or a NACK; return what it says. Raises InvalidRequest."""
        subscription = find_type(self._types, request.type_url)
        check_names(subscription.rules, request.names)
        return subscription.receive(request) + subscription.recognise()

    def on_snapshot(self, snapshot: Snapshot) -> tuple[Event, ...]:
        """Take in what the client may see from now on."""
        subscription = self._types[snapshot.type_url]
        subscription.resources = snapshot.resources
        return subscription.recognise()

    def next_response(self) -> Response | None:
        """Return the next response to send, None if the client has, or is being sent, all that it needs."""
        for subscription in self._types.values():
            if (due := subscription.due()) is not None:
                for type_url in subscription.rules.rewarms:
                    if type_url in self._types:
                        self._types[type_url].forget()
                return subscription.send(due, next(self._nonces))
        return None
