"""Envoy's SecretDiscoveryService for callers of the gate: who asks, what each name means for them, what they hold.

Rules:
- A name that cannot be served yet, or that the caller may not have, keeps its stream open and silent, so that a late entry is served
  within milliseconds. FetchSecrets, which cannot wait, says why instead.
- Streams of callers that no entry covers are few per uid and limited in time.
- What a caller holds is what it acknowledged, or came back with; a refusal is logged in the client's own words.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, TypeAlias

import grpc
from grpc.aio import ServicerContext

from sds.caller import Caller
from sds.errors import UNCOVERED, NotAuthorized, UnusableSecret
from sds.gate import Identify
from sds.log_limit import LogLimit
from sds.observe import Observer
from sds.provider import Proof, Provider, Subscription
from sds.secrets import Selection, flavor_of, render, select
from sds.xds.resource import SECRET, Node, Resource, Snapshot
from sds.xds.server import secret_service
from sds.xds.session import Acked, Event, Held, Nacked, Sent

SERVICE = "envoy.service.secret.v3.SecretDiscoveryService"
_MOST_KEPT = 2 * SECRET.most_names

logger = logging.getLogger(__name__)

_Service: TypeAlias = "grpc.GenericRpcHandler[Any, Any]"


@dataclass(frozen=True, slots=True, kw_only=True)
class StrangerLimits:
    """How long and how often callers may wait that no entry covers."""

    streams_per_uid: int = 64
    """Enough for some proxies that start before their entries: each has two to four streams."""
    seconds: float = 300.0
    """Long enough to spare a proxy its own backoff while somebody makes the entry."""


class _Strangers:
    """Counts the streams of callers that no entry covers."""

    def __init__(self, limits: StrangerLimits) -> None:
        self._limits = limits
        self._streams: Counter[int] = Counter()

    def enter(self, caller: Caller) -> float:
        """Return until when, in loop time, one more stream of this caller may stay. Raises NotAuthorized if there are too many."""
        if self._streams[caller.uid] >= self._limits.streams_per_uid:
            raise NotAuthorized(
                f"{caller} matches no entry, and uid {caller.uid} has {self._limits.streams_per_uid} such streams open"
            )
        self._streams[caller.uid] += 1
        return asyncio.get_running_loop().time() + self._limits.seconds

    def leave(self, caller: Caller) -> None:
        """Count one stream less."""
        self._streams -= Counter((caller.uid,))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shared:
    """What all streams have in common."""

    now: Callable[[], datetime]
    observer: Observer
    strangers: _Strangers
    log: LogLimit = field(default_factory=lambda: LogLimit(logger))


@dataclass(slots=True, kw_only=True, eq=False)
class _Made:
    """The newest secret of a name on one stream, and since when its client has not answered it."""

    selection: Selection
    resource: Resource
    unanswered_since: float | None


class _Feed:
    """One stream of one caller: a Feed, and at once the Resources of its snapshots, made when asked for."""

    def __init__(self, *, caller: Caller, node: Node, subscription: Subscription, shared: _Shared) -> None:
        self._caller = caller
        self._node = node.id
        self._flavor = flavor_of(node)
        self._subscription = subscription
        self._shared = shared
        self._grants = subscription.grants.value
        self._made: dict[str, _Made] = {}
        self._deadline: float | None = None
        """Until when a stranger may stay; None for others."""

    async def snapshots(self) -> AsyncIterator[Snapshot]:
        """Yield at each change of the grants. Raises NotAuthorized when the caller has gone, or was a stranger for too long."""
        grants, seen = self._subscription.grants, -1
        while True:
            try:
                async with asyncio.timeout_at(self._deadline):
                    seen = await grants.newer(seen)
            except TimeoutError:
                raise NotAuthorized(grants.value.denied, told=UNCOVERED) from None
            self._grants = grants.value
            self._receive_stranger()
            if not self._caller.alive():
                raise NotAuthorized(f"{self._caller} has ended")
            yield Snapshot(type_url=SECRET.type_url, resources=self)

    def close(self) -> None:
        """Leave, as a stranger or not."""
        if self._deadline is not None:
            self._shared.strangers.leave(self._caller)
            self._deadline = None

    def get(self, name: str) -> Resource | None:
        """Return the caller's secret of this name, None if there is none now. Why one is withheld goes to the log."""
        if not self._caller.alive():
            return None
        try:
            selection = select(self._grants, name, flavor=self._flavor, now=self._shared.now())
            return None if selection is None else self._make(name, selection)
        except UnusableSecret as error:
            self._shared.log.warning(
                "secret withheld", kind=name, peer=str(self._caller), secret=name, reason=str(error)
            )
            return None

    def __iter__(self) -> Iterator[str]:
        """Yield nothing: secrets are asked for by name."""
        return iter(())

    def on_event(self, event: Event) -> None:
        """Count what was sent, report what the caller holds, log what it refused."""
        match event:
            case Sent():
                self._shared.observer.pushed("sds")
            case Acked(name=name, proof=Proof() as proof):
                if (seconds := self._answered(name)) is not None:
                    self._shared.observer.acked("sds", seconds)
                self._subscription.delivered(proof)
            case Held(name=name, proof=Proof() as proof):
                self._answered(name)
                self._subscription.delivered(proof)
            case Nacked():
                self._report_nack(event)

    def _receive_stranger(self) -> None:
        """Start or end the caller's time as a stranger, as the newest grants say."""
        if not self._grants.denied or self._grants.cut_off:
            self.close()
        elif self._deadline is None:
            self._made.clear()  # and with it the keys
            self._shared.observer.denied("sds")
            self._shared.log.warning(
                "caller has no identity", kind=self._caller.uid, peer=str(self._caller), reason=self._grants.denied
            )
            self._deadline = self._shared.strangers.enter(self._caller)

    def _make(self, name: str, selection: Selection) -> Resource:
        made = self._made.get(name)
        if made is None or made.selection != selection:
            if len(self._made) >= _MOST_KEPT:
                self._made.clear()
            now = asyncio.get_running_loop().time()
            made = _Made(selection=selection, resource=render(selection), unanswered_since=now)
            self._made[name] = made
        return made.resource

    def _answered(self, name: str) -> float | None:
        """Return how many seconds ago the secret could first be sent; None if it was answered before."""
        made = self._made.get(name)
        if made is None or made.unanswered_since is None:
            return None
        since, made.unanswered_since = made.unanswered_since, None
        return asyncio.get_running_loop().time() - since

    def _report_nack(self, refusal: Nacked) -> None:
        self._shared.observer.nacked("sds")
        self._shared.log.warning(
            "secret refused by its client",
            kind=(self._caller.holder, refusal.version),
            peer=str(self._caller),
            node=self._node,
            secrets=list(refusal.names),
            version=refusal.version,
            reason=refusal.message,
        )


class SecretDiscovery:
    """The service's calls: StreamSecrets, DeltaSecrets, FetchSecrets. `service` makes what is added to a server."""

    def __init__(
        self,
        *,
        provider: Provider,
        identify: Identify,
        now: Callable[[], datetime],
        observer: Observer,
        limits: StrangerLimits,
    ) -> None:
        self._provider = provider
        self._identify = identify
        self._shared = _Shared(now=now, observer=observer, strangers=_Strangers(limits))

    def service(self) -> _Service:
        """Return the service, to be added to a server."""
        return secret_service(self._open, partial(self._open, patient=False))

    @asynccontextmanager
    async def _open(
        self, context: ServicerContext[Any, Any], node: Node, *, patient: bool = True
    ) -> AsyncIterator[_Feed]:
        """Open the feed of one call. Raises NotAuthorized for a caller without an entry, if the call is not patient."""
        caller = self._identify(context)
        async with self._provider.subscribe(caller) as subscription:
            if not patient and (denied := subscription.grants.value.denied):
                raise NotAuthorized(denied, told=UNCOVERED)
            feed = _Feed(caller=caller, node=node, subscription=subscription, shared=self._shared)
            self._shared.observer.stream_opened("sds")
            try:
                yield feed
            finally:
                feed.close()
                self._shared.observer.stream_closed("sds")
