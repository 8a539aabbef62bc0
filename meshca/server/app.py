"""The CA server, put together from its ports: what it does at start and by the clock, what administrators may ask, how it stands."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import grpc

from meshca.authority.holders import Ledger
from meshca.authority.issue import Issuer
from meshca.authority.keyring import Keyring
from meshca.authority.recorder import Note, Recorder
from meshca.authority.rotation import Rotation
from meshca.authority.slots import Rules
from meshca.authority.steady import SteadyClock
from meshca.config import Config
from meshca.model import ROUTER_PATH, AuditKind, Entry, HolderReport, Kind, Selector
from meshca.ports import AuditLog, BundleStore, Clock, EntryStore, Journal, KeyManager
from meshca.proto import admin_pb2_grpc as rpc
from meshca.server.admin import Identify
from meshca.server.audit_api import AuditAPI
from meshca.server.authority_api import AuthorityAPI
from meshca.server.bundle_api import BundleAPI
from meshca.server.ca import CertificateAuthority
from meshca.server.chores import Chore
from meshca.server.entry_api import EntryAPI
from meshca.server.readiness import Readiness
from meshca.server.registry import Registry
from meshca.server.shedding import Shedding
from meshca.server.status_api import Backup, Explain, Sources, StatusAPI
from meshca.server.svid_api import SVIDAPI
from meshca.server.wish import asked_of
from meshca.telemetry import Standing, Telemetry
from spiffe.id import SpiffeID

WRITER = "server"
OWN_SOURCE, ROUTER_ENTRY = "meshca", "meshca-router"
SELF_TEST_EVERY = timedelta(seconds=20)
EXPIRE_EVERY = timedelta(seconds=5)
REAP_EVERY = timedelta(seconds=15)
ALARMS_EVERY = timedelta(seconds=5)
SIGN_HEAD_EVERY = timedelta(hours=1)
LEAF_SHARE = 4

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """The outside, as the server asks of it. `is_gone` says whether a holder's process has provably ended."""

    keys: KeyManager
    entries: EntryStore
    bundles: BundleStore
    journal: Journal
    audit: AuditLog
    clock: Clock
    is_gone: Callable[[str], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What the admin API tells of the rest of the process, and asks of it."""

    version: str
    started_at: datetime
    sockets: Mapping[str, str]
    streams: Callable[[], int]
    explain: Explain
    backup: Backup


class CAServer:
    """The server. `start` before anything else; then its chores must run."""

    def __init__(self, *, config: Config, ports: Ports, telemetry: Telemetry, abandon_keys: bool = False) -> None:
        self._config = config
        self._ports = ports
        self._alarms: frozenset[str] = frozenset()
        settings = config.authority
        self._clock = SteadyClock(ports.clock)
        self.ledger = Ledger()
        self.recorder = Recorder(log=ports.audit, clock=ports.clock, writer=WRITER)
        self._issuer = Issuer(
            keys=ports.keys,
            recorder=self.recorder,
            clock=ports.clock,
            default_ttl=settings.leaf_lifetime,
            observe=telemetry.stage,
        )
        self.registry = Registry(
            trust_domain=config.trust_domain,
            entry_store=ports.entries,
            bundle_store=ports.bundles,
            longest_ttl=settings.intermediate_lifetime / LEAF_SHARE,
            on_change=self._refresh,
        )
        self.rotation = Rotation(
            trust_domain=config.trust_domain,
            journal=ports.journal,
            keys=Keyring(ports.keys, abandon=abandon_keys),
            issuer=self._issuer,
            ledger=self.ledger,
            recorder=self.recorder,
            clock=self._clock,
            rules=self._rules,
            key_types={Kind.ROOT: settings.root_key, Kind.INTERMEDIATE: settings.intermediate_key},
            alarm_after=settings.alarm_after,
            on_change=self._refresh,
        )
        self.ca = CertificateAuthority(
            trust_domain=config.trust_domain,
            registry=self.registry,
            rotation=self.rotation,
            issuer=self._issuer,
            ledger=self.ledger,
            clock=ports.clock,
            telemetry=telemetry,
        )
        self._shedding = Shedding(count=lambda: telemetry.connections_shed, clock=ports.clock)
        self.readiness = Readiness(self_test=self._self_test, trouble=lambda: self.recorder.failure, clock=ports.clock)

    async def start(self) -> None:
        """Go on from the store. Raises CannotStart, StoreUnavailable."""
        await self.recorder.load()
        await self.registry.load()
        self.ledger.restore(await self.recorder.live(), self._ports.clock.now())
        await self._reap()
        await self.rotation.start()
        await self.readiness.test()
        logger.info("audit head", extra={"head": self.recorder.head})

    @property
    def chores(self) -> Mapping[str, tuple[timedelta, Chore]]:
        """What is to be done by the clock, and how often."""
        return {
            "rotation": (self._config.authority.tick, self.rotation.tick),
            "self-test": (SELF_TEST_EVERY, self.readiness.test),
            "expired entries": (EXPIRE_EVERY, self._expire_entries),
            "alarms": (ALARMS_EVERY, self._tell_alarms),
            "ended processes": (REAP_EVERY, self._reap),
            "audit head": (SIGN_HEAD_EVERY, self.rotation.sign_head),
        }

    async def give_router_identity(self, selector: Selector) -> None:
        """Let the routing server of this process be one: make its entry, unless it is there."""
        spiffe_id, now = SpiffeID(self._config.trust_domain, ROUTER_PATH), self._ports.clock.now()
        entry = Entry(
            id=ROUTER_ENTRY, spiffe_id=spiffe_id, selectors=frozenset({selector}), created_at=now, source=OWN_SOURCE
        )
        if self.registry.find(entry.id) is None:
            await self.registry.create(entry)
            logger.info("entry made for the routing server", extra={"entry": entry.id, "spiffe_id": str(spiffe_id)})

    def add_admin_services(self, server: grpc.aio.Server, identify: Identify, around: Surroundings) -> None:
        """Serve the admin API."""
        clock, registry, rotation = self._ports.clock, self.registry, self.rotation
        shared: dict[str, Any] = {"asked": asked_of(self.recorder, identify)}
        authorities = AuthorityAPI(rotation=rotation, slots=self.ca.slots, ledger=self.ledger, clock=clock, **shared)
        sources = Sources(
            version=around.version,
            started_at=around.started_at,
            sockets=around.sockets,
            streams=around.streams,
            registry=registry,
            rotation=rotation,
            alarms=self.alarms,
            ledger=self.ledger,
            record=self.recorder,
            readiness=self.readiness,
            authorities=authorities,
        )
        entries = EntryAPI(registry=registry, ledger=self.ledger, clock=clock, **shared)
        status = StatusAPI(sources=sources, explain=around.explain, backup=around.backup, clock=clock, **shared)
        audit = AuditAPI(log=self._ports.audit, record=self.recorder, rotation=rotation, **shared)
        rpc.add_EntriesServicer_to_server(entries, server)  # type: ignore[no-untyped-call]
        rpc.add_BundlesServicer_to_server(BundleAPI(registry=registry, view=self.ca.view, **shared), server)  # type: ignore[no-untyped-call]
        rpc.add_AuthoritiesServicer_to_server(authorities, server)  # type: ignore[no-untyped-call]
        rpc.add_AuditServicer_to_server(audit, server)  # type: ignore[no-untyped-call]
        rpc.add_SVIDsServicer_to_server(SVIDAPI(ca=self.ca, registry=registry, clock=clock, **shared), server)  # type: ignore[no-untyped-call]
        rpc.add_StatusServicer_to_server(status, server)  # type: ignore[no-untyped-call]

    def alarms(self, now: datetime) -> tuple[str, ...]:
        """What a person must look at, in sentences."""
        return (*self.rotation.alarms(now), *self._shedding.alarms())

    def standing(self, connections: int) -> Standing:
        """How things stand, for metrics."""
        now, slots = self._ports.clock.now(), self.rotation.slots
        return Standing(
            ready=self.readiness.check()[0],
            slots=slots,
            earliest_leaf=self.ledger.earliest_expiry(),
            holders=len(self.ledger.names()),
            behind=len(self.ledger.behind(slots.bundle.digest, now)),
            alarms=len(self.alarms(now)),
            audit_head=self.recorder.sequence,
            connections=connections,
        )

    def _refresh(self) -> None:
        self.ca.refresh()

    def _rules(self) -> Rules:
        settings = self._config.authority
        return Rules(
            root_lifetime=settings.root_lifetime,
            intermediate_lifetime=settings.intermediate_lifetime,
            longest_ttl=max([settings.leaf_lifetime, *(entry.ttl for entry in self.registry.entries if entry.ttl)]),
            settle=settings.settle,
        )

    async def _self_test(self) -> None:
        """Sign a throwaway. Where nothing could be recorded, try that too: what is not recorded is not signed."""
        self.rotation.self_test()
        if failure := self.recorder.failure:
            await self.recorder.append(
                [Note(kind=AuditKind.ADMIN, facts={"operation": "record again", "after": failure})]
            )

    async def _expire_entries(self) -> None:
        for entry in await self.registry.expire(self._clock.steady()):
            logger.info("entry expired", extra={"entry": entry.id, "spiffe_id": str(entry.spiffe_id)})

    async def _reap(self) -> None:
        """Stop waiting for processes of an earlier life of ours that have ended meanwhile."""
        now = self._ports.clock.now()
        for name in self.ledger.names():
            try:
                gone = self._ports.is_gone(name)
            except Exception:  # nothing is proven of this one, and it must hold up neither a start nor the others
                logger.exception("process not looked at", extra={"holder": name})
                continue
            if gone:
                self.ledger.report(HolderReport(holder=name, gone=True), now)

    async def _tell_alarms(self) -> None:
        """Log each alarm when it begins and when it is over."""
        alarms = frozenset(self.alarms(self._ports.clock.now()))
        for text in alarms - self._alarms:
            logger.warning("alarm", extra={"alarm": text})
        for text in self._alarms - alarms:
            logger.info("alarm over", extra={"alarm": text})
        self._alarms = alarms
