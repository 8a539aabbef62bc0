"""A model of Envoy's side of an aggregated stream: what it keeps, asks for and refuses. It can be slow, partial and forgetful.

Bodies are JSON: `uses` names clusters, `routes` names route configurations of a listener, `eds` says that a cluster needs endpoints.
"""

import json
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from meshca.router.delivery.delivery import Delivery
from meshca.router.delivery.target import Target
from sds.xds.delta import DeltaRequest, DeltaResponse, DeltaSession
from sds.xds.resource import CLUSTER, ENDPOINT, LISTENER, ROUTE, Resource, Snapshot, content_version
from sds.xds.session import Event, Request, Response, Sent, SotwSession
from tests.support.clock import FakeClock as Clock

CDS, EDS, LDS, RDS = (rules.type_url for rules in (CLUSTER, ENDPOINT, LISTENER, ROUTE))
RULES = (CLUSTER, ENDPOINT, ROUTE, LISTENER)


def made(
    name: str, content: object, *, uses: Iterable[str] = (), routes: Iterable[str] = (), eds: bool = False
) -> Resource:
    """A resource whose version is its content; its proof says what it is."""
    what = {"name": name, "content": content, "uses": sorted(uses), "routes": sorted(routes), "eds": eds}
    body = json.dumps(what).encode()
    return Resource(name=name, version=content_version(body), body=body, proof=f"{name} {content}")


def read(resource: Resource) -> Any:
    """The reverse. A body that nobody made is an error: a session must never send a mere name."""
    return json.loads(resource.body)


@dataclass
class Envoy:
    """One Envoy. `delta` is how it speaks; `bad` are the contents that it refuses; `names_culprits` whether it says which."""

    delta: bool
    bad: set[tuple[str, object]] = field(default_factory=set)
    names_culprits: bool = True
    partial: bool = True
    """Whether it uses the good ones of a response that it refuses, as Envoy does for clusters and listeners."""
    have: dict[str, dict[str, Resource]] = field(default_factory=lambda: {each: {} for each in (CDS, EDS, LDS, RDS)})
    warming: dict[str, Resource] = field(default_factory=dict)
    """Listeners that wait for their routes."""
    asked: dict[str, frozenset[str]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    nonces: dict[str, str] = field(default_factory=dict)
    nacks: list[frozenset[tuple[str, str]]] = field(default_factory=list)

    def opening(self) -> list[Request | DeltaRequest]:
        """The requests of a new stream, with what it has."""
        self.asked = {EDS: self._served(), RDS: self._routed()}
        self.nonces.clear()
        return [self._open(type_url) for type_url in (CDS, EDS, LDS, RDS) if self.asked.get(type_url, {""})]

    def _open(self, type_url: str) -> Request | DeltaRequest:
        names = tuple(sorted(self.asked.get(type_url, ())))
        if not self.delta:
            return Request(type_url=type_url, names=names, version=self.versions.get(type_url, ""))
        have = self.have[type_url] | (self.warming if type_url == LDS else {})
        held = {name: resource.version for name, resource in have.items() if not names or name in names}
        return DeltaRequest(type_url=type_url, subscribe=names, initial_versions=held)

    def receive(self, response: Response | DeltaResponse) -> list[Request | DeltaRequest]:
        """Take in a response: its answer, and what it asks for then."""
        type_url = response.type_url
        wrong = [each for each in response.resources if (each.name, read(each)["content"]) in self.bad]
        good = [each for each in response.resources if each not in wrong]
        self._drop(response)
        if not wrong or self.partial:
            self._take(type_url, good)
        error = None
        if wrong:
            error = ", ".join(f"{each.name}: bad" for each in wrong) if self.names_culprits else "something is bad"
            self.nacks.append(frozenset((each.name, each.version) for each in response.resources))
        elif isinstance(response, Response):
            self.versions[type_url] = response.version
        return [self._answer(response, error), *self._ask()]

    def _drop(self, response: Response | DeltaResponse) -> None:
        kept = {each.name for each in response.resources}
        gone: set[str] = set()
        if isinstance(response, DeltaResponse):
            gone = set(response.removed) if response.type_url in {CDS, LDS} else set()
        elif response.type_url in {CDS, LDS}:
            gone = (self.have[response.type_url].keys() | self.warming.keys()) - kept
        for name in gone:
            self.have[response.type_url].pop(name, None)
            if response.type_url == CDS:
                self.have[EDS].pop(name, None)
            else:
                self.warming.pop(name, None)

    def _take(self, type_url: str, resources: list[Resource]) -> None:
        for resource in resources:
            if type_url == LDS:
                self.warming[resource.name] = resource
            elif type_url == CDS or resource.name in self.asked.get(type_url, ()):
                self.have[type_url][resource.name] = resource
        for name, listener in tuple(self.warming.items()):
            if self.have[RDS].keys() >= set(read(listener)["routes"]):
                self.have[LDS][name] = self.warming.pop(name)

    def _answer(self, response: Response | DeltaResponse, error: str | None) -> Request | DeltaRequest:
        type_url = response.type_url
        if self.delta:
            return DeltaRequest(type_url=type_url, nonce=response.nonce, error=error)
        names, version = tuple(sorted(self.asked.get(type_url, ()))), self.versions.get(type_url, "")
        self.nonces[type_url] = response.nonce
        return Request(type_url=type_url, names=names, nonce=response.nonce, version=version, error=error)

    def _ask(self) -> list[Request | DeltaRequest]:
        """Subscribe to the endpoints of clusters and the routes of listeners, and to no others."""
        requests: list[Request | DeltaRequest] = []
        for type_url, names in ((EDS, self._served()), (RDS, self._routed())):
            before, self.asked[type_url] = self.asked.get(type_url, frozenset()), names
            self.have[type_url] = {name: held for name, held in self.have[type_url].items() if name in names}
            if names == before:
                continue
            if self.delta:
                more, fewer = tuple(sorted(names - before)), tuple(sorted(before - names))
                requests.append(DeltaRequest(type_url=type_url, subscribe=more, unsubscribe=fewer))
            else:
                nonce, version = self.nonces.get(type_url, ""), self.versions.get(type_url, "")
                requests.append(Request(type_url=type_url, names=tuple(sorted(names)), nonce=nonce, version=version))
        return requests

    def _served(self) -> frozenset[str]:
        return frozenset(name for name, cluster in self.have[CDS].items() if read(cluster)["eds"])

    def _routed(self) -> frozenset[str]:
        listeners = [*self.have[LDS].values(), *self.warming.values()]
        return frozenset(name for listener in listeners for name in read(listener)["routes"])

    def in_use(self) -> dict[str, set[str]]:
        """Cluster -> who sends requests to it: listeners that are up, and their routes."""
        users: dict[str, set[str]] = {}
        for listener in self.have[LDS].values():
            routes = [self.have[RDS][name] for name in read(listener)["routes"]]
            for user in (listener, *routes):
                for cluster in read(user)["uses"]:
                    users.setdefault(cluster, set()).add(user.name)
        return users

    def is_served(self, cluster: str) -> bool:
        """Whether requests to a cluster find endpoints."""
        found = self.have[CDS].get(cluster)
        return found is not None and (not read(found)["eds"] or cluster in self.have[EDS])


@dataclass
class Stream:
    """One stream between an Envoy and a Delivery, as `sds.xds.server` would pump it: what it sends waits until the Envoy reads."""

    envoy: Envoy
    delivery: Delivery
    clock: Clock
    sent: list[Response | DeltaResponse] = field(default_factory=list)
    unread: deque[Response | DeltaResponse] = field(default_factory=deque)
    given: dict[str, Snapshot] = field(default_factory=dict)
    eager: bool = True
    """Whether the session gets what changed at once; else when `give` is called."""

    def __post_init__(self) -> None:
        self.session: Any = DeltaSession(rules=RULES) if self.envoy.delta else SotwSession(rules=RULES)
        for request in self.envoy.opening():
            self.request(request)
        self._flush()

    def request(self, request: Request | DeltaRequest) -> None:
        """Let the server have a request."""
        self._report(self.session.on_request(request))
        self._write()

    def _report(self, events: Iterable[Event]) -> None:
        for event in events:
            self.delivery.on_event(event, self.clock.now())

    def _write(self) -> None:
        while (response := self.session.next_response()) is not None:
            self.sent.append(response)
            self.unread.append(response)
            names = tuple(each.name for each in response.resources)
            self._report([Sent(type_url=response.type_url, names=names)])

    def give(self) -> None:
        """Let the session see what changed, one type after the other."""
        while changed := [each for each in self.delivery.shown() if self.given.get(each.type_url) is not each]:
            self.given[changed[0].type_url] = changed[0]
            self._report(self.session.on_snapshot(changed[0]))
            self._write()

    def _flush(self) -> None:
        if self.eager:
            self.give()

    def target(self, target: Target) -> None:
        self.delivery.set_target(target, self.clock.now())
        self._flush()

    def read(self) -> Response | DeltaResponse | None:
        """Let the Envoy read one response and answer it."""
        if not self.unread:
            return None
        response = self.unread.popleft()
        for request in self.envoy.receive(response):
            self.request(request)
        self._flush()
        return response

    def wait(self, seconds: float) -> None:
        self.clock.advance(timedelta(seconds=seconds))
        self.delivery.on_time(self.clock.now())
        self._flush()

    def run(self) -> list[tuple[str, dict[str, object]]]:
        """Let the Envoy read all there is; return what it read, type by type."""
        read_: list[tuple[str, dict[str, object]]] = []
        while (response := self.read()) is not None:
            read_.append((response.type_url, {each.name: read(each)["content"] for each in response.resources}))
        return read_
