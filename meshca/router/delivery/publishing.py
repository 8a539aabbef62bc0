"""From one world to the next without a gap between proxies: a callee listens before anybody is told of it, and for as long as anybody is.

Rules: each stage waits until the proxies that matter have accepted it, but not for ever: a proxy that is late holds back nobody. What comes
in the middle goes on from the stage that was reached. A change that moves no endpoint has one stage.
"""

import asyncio
from collections.abc import Collection, Iterator
from dataclasses import replace

from meshca.router.ads import Router
from meshca.router.mesh.endpoints import Place
from meshca.router.mesh.table import Table
from meshca.router.resources.world import World
from sds.watch import Latest
from spiffe.id import SpiffeID

PATIENCE_SECONDS = 5.0
LOOK_SECONDS = 0.01
_MOST_LEAVING = 4


async def publish(wanted: Latest[World | None], worlds: Latest[World | None], router: Router) -> None:
    """Bring `worlds` to the newest of `wanted`, stage by stage, for ever."""
    seen = 0
    while True:
        seen = await wanted.newer(seen)
        after = wanted.value
        if after is None:
            continue
        for stage in stages(worlds.value, after, router.identities):
            worlds.set(stage)
            if stage is not after:
                await _settled(router, wanted, seen, narrows=not stage.hidden)
            if wanted.version != seen:
                break


def stages(before: World | None, after: World, connected: Collection[SpiffeID]) -> Iterator[World]:
    """What to publish, one after the other; the last is what is wanted."""
    if before is None:
        yield after
        return
    told = _places(before.table) - before.hidden
    wanted = _places(after.table)
    new = frozenset(place for place in wanted - told if place.identity in connected)
    leaving = (before.table, *before.leaving)[:_MOST_LEAVING] if told - wanted or before.leaving or new else ()
    if new:
        yield replace(after, hidden=new, leaving=leaving)
    if leaving:
        yield replace(after, leaving=leaving)
    yield after


def _places(table: Table) -> frozenset[Place]:
    """Each place where somebody is called, with who must be there."""
    return frozenset[Place]().union(*(service.places for service in table.services.values()))


async def _settled(router: Router, wanted: Latest[World | None], seen: int, *, narrows: bool) -> None:
    """Until all proxies have what holds now, or are late; not when there is news.

    Before a callee ceases to listen (`narrows`), those count too whose streams have just ended: they still call it until they are back.
    """
    waited = 0.0
    while waited < PATIENCE_SECONDS and wanted.version == seen:
        if router.is_settled and (router.is_complete or not narrows):
            return
        await asyncio.sleep(LOOK_SECONDS)
        waited += LOOK_SECONDS
