import logging
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import pytest

from meshca.router.admission import Admission
from meshca.router.ads import Client, Router
from meshca.router.canary.loads import Load, Tally, Wanted
from meshca.router.canary.ramp import Phase
from meshca.router.canary.ramp_store import RampDirectory
from meshca.router.canary.ramping import Observed, Ramping
from meshca.router.delivery.delivery import Delivery
from meshca.router.delivery.target import Target
from meshca.router.directory import read
from meshca.router.identity import Peer
from meshca.router.mesh.state import State
from meshca.router.mesh.table import DEFAULT_DOMAIN
from meshca.router.parsing.kinds import Parser
from meshca.router.resources.proxy import Proxy
from meshca.router.resources.world import World
from meshca.router.resources.worlds import understood, world_of
from meshca.router.status import status
from sds.watch import Latest
from spiffe.bundle import BundleSet
from tests.support.clock import FakeClock
from tests.support.envoy_model import Envoy, Stream, made
from tests.support.ramps import ROUTE, SERVICES, annotated
from tests.support.routing import OURS, account, origin

LABEL = "VirtualService default/api-server"
NEW, OLD = "outbound|80|v2|api-server", "outbound|80|v1|api-server"
MINUTE = timedelta(minutes=1)


@dataclass
class Rig:
    """A ramp in a directory, looked after by hand."""

    path: Path
    clock: FakeClock = field(default_factory=FakeClock)
    state: Latest[State] = field(default_factory=lambda: Latest(State()))
    worlds: Latest[World | None] = field(default_factory=lambda: Latest(None))

    def __post_init__(self) -> None:
        (self.path / "services.yaml").write_text(SERVICES)
        self.write(annotated("to=v2 step=5 every=1m max-5xx=1%", ROUTE))
        admission = Admission(credentials=Latest(None), now=self.clock.now)
        self.router = Router(worlds=self.worlds, admission=admission, now=self.clock.now)
        self.restart()

    def restart(self) -> None:
        self.ramping = Ramping(
            state=self.state,
            worlds=self.worlds,
            router=self.router,
            store=RampDirectory(self.path),
            now=self.clock.now,
        )

    def write(self, text: str) -> None:
        (self.path / "canary.yaml").write_text(text)

    @property
    def text(self) -> str:
        return (self.path / "canary.yaml").read_text()

    @property
    def observed(self) -> Observed:
        return self.ramping.observed[LABEL]

    @property
    def phase(self) -> Phase | None:
        progress = self.observed.ramped.canary.progress
        return progress.phase if progress else None

    async def look(self) -> Observed:
        """Read, look, and read what was written."""
        self.read()
        await self.ramping.look()
        self.read()
        await self.ramping.look()
        return self.observed

    def read(self) -> None:
        self.state.set(understood(self.state.value, read(self.path), Parser(OURS), DEFAULT_DOMAIN))
        self.worlds.set(world_of(self.state.value, OURS))

    async def period(self, good: int = 1000, bad: int = 0) -> Observed:
        """Let a period pass in which this was reported."""
        self.clock.advance(MINUTE)
        tally = Tally(good + bad, good + bad, bad)
        for cluster in (NEW, OLD):
            self.ramping.loads.take(
                account("frontend"), Load(cluster, tally if cluster == NEW else Tally(), MINUTE), self.clock.now()
            )
        return await self.look()


@pytest.fixture
async def rig(tmp_path: Path) -> Rig:
    made = Rig(tmp_path)
    await made.look()
    return made


async def test_a_ramp_goes_from_step_to_step_in_the_file(rig: Rig):
    assert (rig.phase, rig.observed.ramped.canary.weight) == (Phase.RUNNING, 0)
    for weight in (5, 10, 15):
        assert (await rig.period()).ramped.canary.weight == weight
    assert "weight: 85   # the old one" in rig.text


async def test_proxies_are_asked_for_both_clusters_while_it_lasts(rig: Rig):
    asked = rig.ramping.loads.asked.value
    assert asked.wanted == {Wanted(NEW, "api-server"), Wanted(OLD, "api-server")}
    assert asked.interval == timedelta(seconds=10)
    await rig.period(bad=1000)
    assert rig.phase is Phase.STEPPED_BACK
    assert rig.ramping.loads.asked.value.wanted == frozenset()


async def test_another_router_goes_on_from_the_file_after_a_period_of_its_own(rig: Rig):
    await rig.period()
    rig.clock.advance(MINUTE)
    rig.restart()
    assert (await rig.look()).ramped.canary.weight == 5  # it has not seen anything yet
    assert (await rig.period()).ramped.canary.weight == 10


async def test_two_routers_that_decide_the_same_step_once(rig: Rig):
    await rig.period()
    first = rig.ramping
    rig.restart()
    await rig.look()
    rig.clock.advance(MINUTE)
    for each in (first, rig.ramping):
        each.loads.take(account("frontend"), Load(NEW, Tally(100, 100), MINUTE), rig.clock.now())
    await first.look()
    await rig.ramping.look()  # from what it knew before the other wrote
    assert (await rig.look()).ramped.canary.weight == 10
    assert rig.observed.problem == ""


async def test_weights_that_somebody_writes_stay(rig: Rig):
    await rig.period()
    rig.write(rig.text.replace("weight: 95", "weight: 40").replace("weight: 5\n", "weight: 60\n"))
    await rig.look()
    assert (rig.phase, rig.observed.ramped.canary.weight) == (Phase.OVERRULED, 60)
    assert (await rig.period(bad=1000)).ramped.canary.weight == 60


@pytest.mark.parametrize("broken", ["hoists:", "[:"])
async def test_an_object_that_is_broken_now_stays_where_it_is(rig: Rig, broken: str):
    await rig.period()
    rig.write(rig.text.replace("hosts:", broken))
    before = rig.text
    found = await rig.period()
    assert found.problem.startswith("canary.yaml:")
    assert rig.text == before


async def test_what_can_not_be_written_is_told_once_and_tried_again(rig: Rig, caplog: pytest.LogCaptureFixture):
    await rig.period()
    away = rig.path.with_name("away")
    rig.clock.advance(MINUTE)
    rig.ramping.loads.take(account("frontend"), Load(NEW, Tally(100, 100), MINUTE), rig.clock.now())
    rig.path.rename(away)
    with caplog.at_level(logging.ERROR):
        await rig.ramping.look()
        await rig.ramping.look()
    assert "No such file" in rig.observed.problem
    assert [record.message for record in caplog.records] == ["canary can not be written"]
    away.rename(rig.path)
    assert (await rig.look()).ramped.canary.weight == 10
    assert rig.observed.problem == ""


async def test_a_refusal_by_a_proxy_sends_it_back(rig: Rig):
    await rig.period()
    route = replace(made("http", 2), proof=(origin("VirtualService", "api-server"),))
    listener = made("http", 1, routes=["http"])
    wanted = Target(clusters={}, endpoints={}, listeners={"http": listener}, routes={"http": route}, needs={})
    delivery = Delivery()
    delivery.set_target(wanted, rig.clock.now())
    peer = Peer(spiffe_id=account("frontend"), serial=1, not_after=rig.clock.now(), chain=(), bundles=BundleSet())
    proxy = Proxy(identity=peer.spiffe_id)
    client = Client(peer=peer, proxy=proxy, node="n", since=rig.clock.now(), delivery=delivery)
    rig.router.clients[1] = client
    assert (await rig.look()).ramped.canary.weight == 5
    Stream(envoy=Envoy(delta=True, bad={("http", 2)}), delivery=delivery, clock=rig.clock).run()
    assert (await rig.look()).ramped.canary.weight == 0
    assert rig.phase is Phase.STEPPED_BACK
    assert "a proxy refuses this route: " in rig.text


async def test_a_ramp_whose_host_is_anothers_takes_no_part(rig: Rig):
    (rig.path / "another.yaml").write_text(ROUTE.replace("name: api-server", "name: another"))
    rig.read()
    await rig.ramping.look()
    assert rig.ramping.observed == {}


async def test_only_who_may_call_the_service_may_report_on_it(rig: Rig):
    assert rig.ramping.may_report(account("frontend"), "api-server")
    assert not rig.ramping.may_report(account("frontend"), "other")
    policy = """\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only}
spec: {rules: [{from: [{source: {principals: [mesh.local/ns/default/sa/frontend]}}]}]}
"""
    (rig.path / "policy.yaml").write_text(policy)
    rig.read()
    assert rig.ramping.may_report(account("frontend"), "api-server")
    assert not rig.ramping.may_report(account("stranger"), "api-server")


async def test_status_tells_what_is_asked_and_what_was_seen(rig: Rig):
    await rig.period()
    rig.clock.advance(MINUTE / 2)
    for cluster, tally in ((NEW, Tally(60, 59, 1)), (OLD, Tally(940, 900))):
        rig.ramping.loads.take(account("frontend"), Load(cluster, tally, MINUTE / 4), rig.clock.now())
    await rig.look()
    (said,) = status(rig.router, rig.state.value, rig.ramping.observed)["canaries"]
    assert said["weight"] == 5
    assert said["phase"] == "running"
    assert said["seen"]["share"] == pytest.approx(6)
    assert (said["seen"]["requests"], said["seen"]["errors"], said["seen"]["reporters"]) == (59, 1, 1)
    assert said["waits_for"] == "the period of 1m is not over"
    assert said["next_step"] == "2030-01-01T00:02:00.000+00:00"
    assert said["hosts"] == ["api-server"]
