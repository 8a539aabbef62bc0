"""Executes the ramps: looks at each several times a second, and writes down what is decided. That comes back by the watched directory.

Rules:
- All that outlives this process is in the object. What was seen is not: after a start a whole period is watched anew before a step.
- A ramp whose object is broken now, or can not be written, stays where it is; status and log say so.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from meshca.errors import MeshcaError, StoreConflict
from meshca.router.ads import Router
from meshca.router.canary.canary import Action, Decision, Seen, decide, done
from meshca.router.canary.loads import NONE, Asked, Loads, Wanted, Window
from meshca.router.canary.ramp import Canary, Phase
from meshca.router.canary.ramp_store import RampStore
from meshca.router.mesh.objects import Origin, VirtualService
from meshca.router.mesh.state import State
from meshca.router.mesh.table import ClusterKey
from meshca.router.resources.world import World, visible
from sds.watch import Latest
from spiffe.id import SpiffeID

LOOK_SECONDS = 0.1
_REPORTS = 4
"""In each period."""
_SHORTEST, _LONGEST = timedelta(milliseconds=250), timedelta(seconds=10)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ramped:
    """A ramp in the mesh: its object, and what its two destinations come to."""

    origin: Origin
    hosts: tuple[str, ...]
    canary: Canary
    new: ClusterKey
    old: ClusterKey
    endpoints: int
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """A ramp as status shows it."""

    ramped: Ramped
    seen: Seen
    decision: Decision
    problem: str = ""

    @property
    def phase(self) -> Phase | None:
        """None before it has begun."""
        progress = self.ramped.canary.progress
        return progress.phase if progress else None


class Ramping:
    """The ramps of a router. `observed` has them by the label of their object, those included that have ended."""

    def __init__(
        self,
        *,
        state: Latest[State],
        worlds: Latest[World | None],
        router: Router,
        store: RampStore,
        now: Callable[[], datetime],
    ) -> None:
        self._state = state
        self._worlds = worlds
        self._router = router
        self._store = store
        self._now = now
        self._failures: dict[str, str] = {}
        self._ramps: tuple[State, Mapping[str, Ramped]] = State(), {}
        self.loads = Loads()
        self.observed: Mapping[str, Observed] = {}

    def may_report(self, reporter: SpiffeID, host: str) -> bool:
        """Whether an identity may call a service, and so knows how that goes."""
        world = self._worlds.value
        service = world.table.services.get(host) if world else None
        return bool(world and service and visible(world, service, reporter))

    async def run(self) -> None:
        """Look after all ramps, for ever."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Decide on each ramp, and write what is decided."""
        ramps = self._read()
        self.loads.keep(ramps)
        self.loads.asked.set(_asked(ramps, self._worlds.version))
        now = self._now()
        self.observed = {label: self._observe(each, now) for label, each in ramps.items()}
        for each in self.observed.values():
            if each.decision.action is not Action.WAIT and not each.ramped.problem:
                await self._write(each, now)

    def _read(self) -> Mapping[str, Ramped]:
        """The ramps by label, looked for only where the configuration is another."""
        state = self._state.value
        if self._ramps[0] is not state:
            self._ramps = state, {each.origin.label: each for each in ramps_of(state)}
        return self._ramps[1]

    def _observe(self, ramped: Ramped, now: datetime) -> Observed:
        label, canary = ramped.origin.label, ramped.canary
        key = canary.ramp, canary.progress, canary.weight
        window = self.loads.window(label, key, ramped.new.name, ramped.old.name, now)
        seen = _seen(window, ramped.endpoints, self._refusal(label) if canary.is_live else "")
        decision = decide(canary, seen, now)
        if decision.action is Action.WAIT:
            self._failures.pop(label, None)
        return Observed(ramped=ramped, seen=seen, decision=decision, problem=self._problem(ramped))

    def _problem(self, ramped: Ramped) -> str:
        """What is in the way of the ramp, if anything is."""
        obstacle = self._store.obstacle(ramped.origin) if ramped.canary.is_live else ""
        return ramped.problem or self._failures.get(ramped.origin.label, "") or obstacle

    async def _write(self, observed: Observed, now: datetime) -> None:
        ramped, label = observed.ramped, observed.ramped.origin.label
        after = done(ramped.canary, observed.decision, now)
        try:
            await asyncio.to_thread(self._store.write, ramped.origin, ramped.canary, after)
        except StoreConflict:  # what was read is no longer what is there: it is about to be read again
            return
        except (MeshcaError, OSError, ValueError) as error:
            self._fail(label, str(error))
            return
        self._failures.pop(label, None)
        action, reason = observed.decision
        level = logging.WARNING if action in {Action.BACK, Action.YIELD} else logging.INFO
        logger.log(level, "canary", extra={"object": label, "action": action, "weight": after.weight, "reason": reason})

    def _fail(self, label: str, text: str) -> None:
        if self._failures.get(label) != text:
            logger.error("canary can not be written", extra={"object": label, "reason": text})
        self._failures[label] = text

    def _refusal(self, label: str) -> str:
        """What a proxy says that it refuses of this object now."""
        for client in self._router.clients.values():
            for refusal in client.delivery.refusals():
                proof = refusal.proof if isinstance(refusal.proof, tuple) else ()
                if any(isinstance(each, Origin) and each.label == label for each in proof):
                    return refusal.text
        return ""


def ramps_of(state: State) -> Iterator[Ramped]:
    """All ramps whose destinations lead somewhere."""
    for each in state.good.values():
        if isinstance(each, VirtualService) and (found := ramped(state, each)):
            yield found


def ramped(state: State, service: VirtualService) -> Ramped | None:
    """The ramp of a VirtualService; None where it has none, or where other rules hold for its hosts."""
    label, canary = service.origin.label, service.canary
    if canary is None:
        return None
    virtual = next((each for each in state.table.hosts.values() if each.origin.label == label), None)
    if virtual is None:
        return None
    keys = virtual.routes[canary.place.rule].clusters
    new = keys[canary.place.to]
    broken = {problem.label or problem.file: str(problem) for problem in state.problems}
    return Ramped(
        origin=service.origin,
        hosts=service.hosts,
        canary=canary,
        new=new,
        old=keys[1 - canary.place.to],
        endpoints=len(state.table.services[new.host].members(new.subset)),
        problem=broken.get(label) or broken.get(service.origin.file, ""),
    )


def _asked(ramps: Mapping[str, Ramped], revision: int) -> Asked:
    live = [each for each in ramps.values() if each.canary.is_live]
    if not live:
        return Asked()
    shortest = min(each.canary.ramp.every for each in live) / _REPORTS
    return Asked(
        wanted=frozenset(Wanted(key.name, key.host) for each in live for key in (each.new, each.old)),
        interval=max(_SHORTEST, min(_LONGEST, shortest)),
        revision=revision,
    )


def _seen(window: Window, endpoints: int, refusal: str) -> Seen:
    return Seen(
        since=window.since,
        heard=window.heard,
        tallies=tuple(window.by_reporter.values()),
        new=window.split.get(window.new, NONE),
        old=window.split.get(window.old, NONE),
        endpoints=endpoints,
        refusal=refusal,
    )
