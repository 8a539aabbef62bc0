"""The aggregated xDS service of the router: who dials, what that identity gets, in which order, and what became of it.

Rules:
- A proxy is known by its SVID. Its stream ends when that certificate does, or is not trusted any more; it comes back with the next, which
  costs nothing (P11).
- Each stream has its own delivery: a proxy that is slow or refuses holds back nobody.
- What a proxy refused is logged once, with the objects that it came from.
"""

import asyncio
import itertools
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from meshca.router.admission import Admission
from meshca.router.delivery.delivery import Delivery
from meshca.router.delivery.target import Phase, Target
from meshca.router.identity import Peer
from meshca.router.resources.outbound import Outbounds
from meshca.router.resources.proxy import Proxy
from meshca.router.resources.proxyless import Proxyless
from meshca.router.resources.view import View, view
from meshca.router.resources.world import World
from sds.watch import Latest
from sds.xds.resource import Node, Snapshot
from sds.xds.server import aggregated_service
from sds.xds.session import Event, Nacked, Sent
from spiffe.id import SpiffeID

logger = logging.getLogger(__name__)

Now = Callable[[], datetime]

RETURN = timedelta(seconds=5)
"""How long whoever lost its stream is taken to be about to have another."""


class Pace(StrEnum):
    """How far a proxy is: it has accepted what holds now; all but what it refuses and what needs that; it is on its way; it is late."""

    SETTLED = "settled"
    REFUSING = "refusing"
    MOVING = "moving"
    LATE = "late"


@dataclass(slots=True, kw_only=True, eq=False)
class Client:
    """One stream, as status shows it. `node` is what the proxy calls itself."""

    peer: Peer
    proxy: Proxy
    node: str
    since: datetime
    delivery: Delivery
    world: World | None = None
    """What its view was made of."""
    view: View | None = None

    @property
    def bodies(self) -> list[bytes]:
        """What it is to have, as it goes over the wire."""
        made = self.view
        kinds = (made.clusters, made.endpoints, made.listeners, made.routes) if made else ()
        return [resource.body for kind in kinds for resource in kind.values()]

    def take(self, world: World, made: View, now: datetime) -> bool:
        """Have this from now on. Returns whether it is anything new."""
        self.world, before, self.view = world, self.view, made
        if made == before:
            return False
        self.delivery.set_target(target(made), now)
        return True


class Router:
    """Serves `worlds` to whoever proves an identity of ours. `clients` are the open streams by number, `sent` is counted by type."""

    def __init__(self, *, worlds: Latest[World | None], admission: Admission, now: Now) -> None:
        self._worlds = worlds
        self._admission = admission
        self._now = now
        self._numbers = itertools.count(1)
        self._outbounds = Outbounds()
        self._proxyless = Proxyless(self._outbounds)
        self.clients: dict[int, Client] = {}
        self.sent: Counter[str] = Counter()
        self._left: list[tuple[SpiffeID, datetime]] = []

    @property
    def is_complete(self) -> bool:
        """Whether nobody is about to come back: of those whose stream ended a moment ago, each has another."""
        self._forget_gone()
        return not self._left

    @property
    def identities(self) -> frozenset[SpiffeID]:
        """Of the proxies that are connected."""
        return frozenset(each.peer.spiffe_id for each in self.clients.values())

    @property
    def is_settled(self) -> bool:
        """Whether each proxy has, and has accepted, what holds now, or is late."""
        return all(self.pace(each) is not Pace.MOVING for each in self.clients.values())

    def pace(self, client: Client) -> Pace:
        """How far a proxy is towards what holds now."""
        if client.world is not self._worlds.value:
            return Pace.MOVING
        standing = client.delivery.standing()
        if standing.phase is Phase.STEADY:
            return Pace.REFUSING if standing.refused or standing.held_back else Pace.SETTLED
        return Pace.LATE if standing.is_late else Pace.MOVING

    def service(self) -> Any:
        """What is added to a gRPC server: state-of-the-world and delta."""
        return aggregated_service(self._admission.admitted, self._open)

    @asynccontextmanager
    async def _open(self, peer: Peer, node: Node) -> AsyncIterator["_Feed"]:
        proxy = Proxy.read(peer.spiffe_id, node)
        delivery = Delivery(gated=not proxy.is_grpc)
        client = Client(peer=peer, proxy=proxy, node=node.id, since=self._now(), delivery=delivery)
        number = next(self._numbers)
        self.clients[number] = client
        self._welcome(peer.spiffe_id)
        logger.info("proxy connected", extra={"spiffe_id": str(peer.spiffe_id), "node": node.id})
        feed = _Feed(client=client, worlds=self._worlds, view=self._view, sent=self.sent, now=self._now)
        try:
            async with asyncio.TaskGroup() as tasks:
                follower = tasks.create_task(feed.follow(), name="world follower")
                yield feed
                follower.cancel()
        finally:
            del self.clients[number]
            self._forget_gone()
            self._left.append((peer.spiffe_id, self._now()))
            if peer.spiffe_id not in self.identities:
                self._outbounds.forget(peer.spiffe_id)
            logger.info("proxy left", extra={"spiffe_id": str(peer.spiffe_id), "node": node.id})

    def _forget_gone(self) -> None:
        now = self._now()
        self._left = [each for each in self._left if now < each[1] + RETURN]

    def _welcome(self, identity: SpiffeID) -> None:
        """One of this identity is back, or new."""
        back = next((each for each in self._left if each[0] == identity), None)
        if back:
            self._left.remove(back)

    def _view(self, world: World, client: Client) -> View:
        if client.proxy.is_grpc:
            return self._proxyless.view(world, client.proxy)
        return view(world, client.proxy, self._outbounds, client.view)


class _Feed:
    """One stream: at each change of the world, of an answer or of the time, what the proxy may see now."""

    def __init__(
        self,
        *,
        client: Client,
        worlds: Latest[World | None],
        view: Callable[[World, Client], View],
        sent: Counter[str],
        now: Now,
    ) -> None:
        self._client = client
        self._worlds = worlds
        self._view = view
        self._sent = sent
        self._now = now
        self._stirred = asyncio.Event()
        self._given: dict[str, Snapshot] = {}

    async def snapshots(self) -> AsyncIterator[Snapshot]:
        """See sds.xds.server.Feed. Ends with the proxy's certificate."""
        while (left := self._seconds_left()) > 0:
            for snapshot in self._changed():
                yield snapshot
            await self._wait(left)

    def on_event(self, event: Event) -> None:
        """See sds.xds.server.Feed."""
        if isinstance(event, Nacked):
            self._report(event)
        if isinstance(event, Sent):
            self._sent[event.type_url] += len(event.names)
        self._client.delivery.on_event(event, self._now())
        self._stirred.set()

    async def follow(self) -> None:
        """Set each new target, and stir the stream."""
        async for world in self._worlds.watch():
            if world is not None:
                made = self._view(world, self._client)
                if self._client.take(world, made, self._now()):
                    self._stirred.set()

    def _changed(self) -> Iterator[Snapshot]:
        """What is shown otherwise than before, in the order of sending."""
        self._client.delivery.on_time(self._now())
        for snapshot in self._client.delivery.shown():
            if self._given.get(snapshot.type_url) is not snapshot:
                self._given[snapshot.type_url] = snapshot
                yield snapshot

    async def _wait(self, seconds: float) -> None:
        """Until something happens, the next deadline or the end."""
        deadline = self._client.delivery.next_deadline()
        if deadline is not None:
            seconds = min(seconds, max((deadline - self._now()).total_seconds(), 0.001))
        try:
            async with asyncio.timeout(seconds):
                await self._stirred.wait()
        except TimeoutError:
            pass
        self._stirred.clear()

    def _seconds_left(self) -> float:
        return (self._client.peer.not_after - self._now()).total_seconds()

    def _report(self, refusal: Nacked) -> None:
        logger.warning(
            "configuration refused by a proxy",
            extra={
                "spiffe_id": str(self._client.peer.spiffe_id),
                "node": self._client.node,
                "resources": list(refusal.names),
                "reason": refusal.message,
            },
        )


def target(made: View) -> Target:
    """A view as its delivery takes it."""
    return Target(
        clusters=made.clusters,
        endpoints=made.endpoints,
        listeners=made.listeners,
        routes=made.routes,
        needs=made.needs,
    )
