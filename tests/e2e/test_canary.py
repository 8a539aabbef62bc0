"""The guarded canary with real Envoys: what they report themselves is what decides."""

import asyncio
import math
from pathlib import Path

import pytest

from meshca.demo.envoys import stop
from meshca.router.canary.ramp import Phase, Progress
from meshca.router.canary.ramping import Observed
from tests.support.command import meshca
from tests.support.ramps import ROUTE, annotated
from tests.support.routed import RoutedMesh, routed_mesh
from tests.support.wait import until

pytestmark = pytest.mark.envoy

BOTH = {"api-v1": "v1", "api-v2": "v2"}
LABEL = "VirtualService default/api-server"
COMMENTS = [line.partition("#")[2] for line in ROUTE.splitlines() if "#" in line]


EJECTING = """\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: api-server}
spec:
  host: api-server
  trafficPolicy:
    outlierDetection: {consecutive5xxErrors: 1, interval: 100ms, baseEjectionTime: 300s, maxEjectionPercent: 100}
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
"""


def ramp(step: int, max_5xx: str = "1%") -> str:
    return annotated(f"to=v2 step={step} every=1s max-5xx={max_5xx}")


def observed(mesh: RoutedMesh) -> Observed | None:
    return mesh.running.ramping.observed.get(LABEL)


def progress(mesh: RoutedMesh) -> Progress:
    found = observed(mesh)
    assert found
    assert found.ramped.canary.progress, "not begun"
    return found.ramped.canary.progress


def text(mesh: RoutedMesh) -> str:
    return (mesh.config / "canary.yaml").read_text()


async def at(mesh: RoutedMesh, weight: int) -> None:
    """Wait until the ramp has that weight."""

    def reached() -> bool:
        found = observed(mesh)
        return found is not None and found.ramped.canary.weight == weight

    await until(reached, within=40)


async def ended(mesh: RoutedMesh, phase: Phase, within: float = 40) -> Progress:
    """Wait for the end of the ramp, which must be this one."""

    def is_over() -> bool:
        found = observed(mesh)
        return found is not None and not found.ramped.canary.is_live

    await until(is_over, within=within)
    found = progress(mesh)
    print(f"{found.phase} at {found.weight} %: {found.reason}")
    assert found.phase is phase, found
    return found


@pytest.mark.slow
async def test_a_healthy_version_is_promoted_step_by_step_also_when_the_router_dies_on_the_way(tmp_path: Path):
    async with routed_mesh(tmp_path, BOTH, ("canary.yaml", ROUTE)) as mesh:
        socket, options = tmp_path / "router-status.sock", ("--to", "v2", "--step", "50", "--every", "2s")
        async with mesh.under_load() as under, asyncio.TaskGroup() as tasks:
            start = meshca(
                "canary",
                "start",
                "api-server",
                "--config-dir",
                mesh.config,
                *options,
                "--watch",
                "--status-socket",
                socket,
            )
            command = tasks.create_task(start)
            await at(mesh, 50)

            def split() -> tuple[int, int] | None:
                found = observed(mesh)
                assert found
                new, old = found.seen.new.issued, found.seen.old.issued
                return (new, old) if new + old >= 100 else None

            new, old = await until(split)
            off = (new - old) / math.sqrt(new + old)
            print(f"asked 50 %, achieved {new} of {new + old}, {off:+.2f} sigma")
            assert abs(off) < 4
            await mesh.stop_router()
            assert "phase=running" in text(mesh)
            await mesh.start_router()
            found = await ended(mesh, Phase.PROMOTED)
            assert found.weight == 100
            await mesh.settled()
            assert set((await mesh.ask(100)).good) == {"v2"}
        assert under.bad == {}
        assert [each for each in COMMENTS if each not in text(mesh)] == []
        said = await command
        print(said.out)
        assert (said.code, said.out.splitlines()[-1].split(": ")[1][:11]) == (0, "asked 100 %")
        assert [each for each in (0, 50, 100) if f"running: asked {each} %" not in said.out] == []
        assert set(said.err.splitlines()) <= {"the router does not answer: waiting for it"}


async def test_a_version_that_fails_goes_back_by_itself_and_so_does_one_that_is_not_there(tmp_path: Path):
    async with routed_mesh(tmp_path, BOTH, ("canary.yaml", ramp(20))) as mesh:
        ill = mesh.replicas["api-v2"].behaviour
        async with mesh.under_load() as under:
            await at(mesh, 20)
            ill.status = 500
            found = await ended(mesh, Phase.STEPPED_BACK)
            assert (found.weight, "requests to v2 failed" in found.reason) == (0, True)
            await mesh.settled()
            assert (await mesh.ask(100)).bad == {}
            ill.status = 200
            mesh.write("canary.yaml", ramp(20))
            await at(mesh, 20)
            await stop(mesh.envoys["api-v2"].process)  # what can not be connected to has failed too
            found = await ended(mesh, Phase.STEPPED_BACK)
            assert (found.weight, "requests to v2 failed" in found.reason) == (0, True)
        assert {reason[:3] for reason in under.bad} == {"500", "503"}
        assert await mesh.envoys["frontend"].stats(r"(no_cluster|no_route|update_rejected)$") == {}


async def test_a_version_that_no_request_reaches_any_more_goes_back_although_envoy_reports_no_failure(tmp_path: Path):
    files = ("canary.yaml", ramp(20, "50%")), ("rule.yaml", EJECTING)
    async with routed_mesh(tmp_path, BOTH, *files) as mesh, mesh.under_load() as under:
        await at(mesh, 20)
        mesh.replicas["api-v2"].behaviour.status = 500  # ejected at its first failure: then there is nobody
        found = await ended(mesh, Phase.STEPPED_BACK)
        assert "requests to v2 came to an end where about" in found.reason
        assert set(under.bad) == {"500 v2", "503 no healthy upstream"}


@pytest.mark.slow
async def test_when_nobody_reports_any_more_it_goes_back(tmp_path: Path):
    async with routed_mesh(tmp_path, BOTH, ("canary.yaml", ramp(20))) as mesh:
        await at(mesh, 20)
        for envoy in mesh.envoys.values():
            await stop(envoy.process)
        found = await ended(mesh, Phase.STEPPED_BACK)
        assert found.weight == 0
        assert found.reason == "no load report for 15s"
