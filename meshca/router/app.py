"""The router's process: its identity from the Workload API, its configuration from a directory, aggregated xDS and load reports over mTLS.

Rules: it listens once it has an identity and has read its configuration; from then on it serves what it has, whatever becomes of either.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from meshca.router.admission import Admission, Reason
from meshca.router.ads import Router
from meshca.router.canary.lrs import LoadReports
from meshca.router.canary.ramp_store import RampDirectory
from meshca.router.canary.ramping import Ramping
from meshca.router.delivery.publishing import publish
from meshca.router.directory import Files, watch
from meshca.router.identity import Credentials
from meshca.router.mesh.state import State
from meshca.router.mesh.table import DEFAULT_DOMAIN
from meshca.router.parsing.kinds import Parser
from meshca.router.resources.world import World
from meshca.router.resources.worlds import understood, world_of
from meshca.router.serving import serving
from meshca.router.status import serve_status, status
from sds.endpoint import Endpoint
from sds.watch import Latest
from sds.workload_client import WorkloadClient

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterSettings:
    """What a router needs to know. `domain` is what short names of services end in."""

    directory: Path
    endpoint: Endpoint
    address: str = "127.0.0.1"
    port: int = 15010
    domain: str = DEFAULT_DOMAIN
    status_socket: Path | None = None
    """Where `meshca router status` asks."""
    now: Callable[[], datetime]


@dataclass(slots=True, kw_only=True)
class Running:
    """A router that serves, on `port`. `admissions` are of its two kinds of streams."""

    router: Router
    ramping: Ramping
    admissions: tuple[Admission, ...]
    credentials: Latest[Credentials | None]
    worlds: Latest[World | None]
    wanted: Latest[World | None]
    """What is published, and what it comes to, stage by stage."""
    state: Latest[State]
    files: Files = field(default_factory=Files)
    """What was read last, and is in force."""
    read_at: datetime | None = None
    port: int = 0

    @property
    def is_settled(self) -> bool:
        """Whether what was read last is what each proxy has accepted, except those that are late."""
        return self.worlds.value is self.wanted.value and self.router.is_settled

    @property
    def refused(self) -> Counter[Reason]:
        """How many streams were refused, by reason."""
        return sum((each.refused for each in self.admissions), Counter())

    @property
    def certificate_until(self) -> datetime | None:
        """When the router's own certificate ends: nobody new can connect from then on."""
        return self.credentials.value.not_after if self.credentials.value else None


@asynccontextmanager
async def running_router(settings: RouterSettings) -> AsyncIterator[Running]:
    """Serve while the context is open. Raises CannotStart when the address can not be taken, WorkloadAPIError where asking is vain."""
    credentials: Latest[Credentials | None] = Latest(None)
    worlds: Latest[World | None] = Latest(None)
    wanted: Latest[World | None] = Latest(None)
    for_routes, for_loads = (Admission(credentials=credentials, now=settings.now) for _ in range(2))
    router = Router(worlds=worlds, admission=for_routes, now=settings.now)
    state = Latest(State())
    store = RampDirectory(settings.directory)
    ramping = Ramping(state=state, worlds=worlds, router=router, store=store, now=settings.now)
    reports = LoadReports(loads=ramping.loads, admission=for_loads, may_report=ramping.may_report, now=settings.now)
    running = Running(
        router=router,
        ramping=ramping,
        admissions=(for_routes, for_loads),
        credentials=credentials,
        worlds=worlds,
        wanted=wanted,
        state=state,
    )
    async with asyncio.TaskGroup() as tasks:
        loops = [
            tasks.create_task(_follow_identity(settings.endpoint, credentials), name="router identity"),
            tasks.create_task(_follow_directory(settings, credentials, running), name="router directory"),
            tasks.create_task(publish(wanted, worlds, router), name="router publishing"),
            tasks.create_task(ramping.run(), name="router ramping"),
        ]
        try:
            await worlds.newer(0)
            services = (router.service(), reports.service())
            served = serving(services, credentials, settings.address, settings.port)
            async with served as port, _telling(running, settings.status_socket):
                running.port = port
                yield running
        finally:
            for loop in loops:
                loop.cancel()


async def _follow_identity(endpoint: Endpoint, credentials: Latest[Credentials | None]) -> None:
    """Keep the newest credentials; what was given is used until there is better, or until it expires by itself."""
    async for context in WorkloadClient(endpoint).x509_contexts():
        found = Credentials.of(context)
        if found is None:
            logger.warning("router has no identity", extra={"reason": context.denied or "no SVID of a router's"})
        else:
            credentials.set(found)


async def _follow_directory(
    settings: RouterSettings,
    credentials: Latest[Credentials | None],
    running: Running,
) -> None:
    await credentials.newer(0)
    own = credentials.value.own if credentials.value else None
    if own is None:  # it was set, and is never unset
        raise AssertionError("credentials without a trust domain")
    parser = Parser(own)
    async for files in watch(settings.directory):
        state = await asyncio.to_thread(understood, running.state.value, files, parser, settings.domain)
        _tell(running.state.value, state)
        if running.wanted.value is None and not all(problem.label for problem in state.problems):
            # What can not be read could hold policies, and there is no earlier state of it.
            logger.error("not serving until every file can be read")
            continue
        running.state.set(state)
        made = world_of(state, own)
        running.wanted.set(made.following(running.wanted.value or made))
        running.files, running.read_at = files, settings.now()


def _tell(before: State, after: State) -> None:
    """Log what was read, and each problem when it begins."""
    logger.info(
        "configuration read",
        extra={"objects": len(after.good), "problems": len(after.problems), "warnings": len(after.warnings)},
    )
    for problem in after.problems:
        if problem not in before.problems:
            logger.warning("configuration problem", extra={"problem": str(problem)})


@asynccontextmanager
async def _telling(running: Running, path: Path | None) -> AsyncIterator[None]:
    """Tell whoever asks how things are, where there is a place to ask."""
    if path is None:
        yield
        return
    async with serve_status(path, lambda: status(running.router, running.state.value, running.ramping.observed)):
        yield
