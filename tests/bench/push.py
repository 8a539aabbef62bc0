"""Configuration push: so many services to so many proxies, the first three of them real; all of it at once, then one endpoint."""

import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshca.client import connect
from meshca.clock import SystemClock
from meshca.demo.envoys import Envoy, running_envoy
from meshca.demo.server import register, running_server
from meshca.model import router_name
from meshca.router.app import RouterSettings, Running, running_router
from meshca.router.table import ClusterKey
from sds.endpoint import Endpoint
from spiffe.id import TrustDomain
from tests.support.crowd import Crowd, crowd
from tests.support.routed import ROUTER, TRUST_DOMAIN, sidecar
from tests.support.wait import until

SERVICES = (100, 500, 1000)
PROXIES, REAL = 200, 3
CHANGES = 10

SERVICE = """\
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}}}
spec:
  hosts: [{name}]
  location: MESH_INTERNAL
  resolution: STATIC
  ports:
  - {{number: 80, name: http, protocol: HTTP}}
  endpoints:
"""
ENDPOINT = "  - {{address: 10.{first}.{second}.{last}, ports: {{http: 8443}}, serviceAccount: {name}}}\n"


def service(number: int, endpoints: int = 4) -> str:
    """A service as a user would write it."""
    name, (first, second) = f"service-{number}", divmod(number, 250)
    places = (ENDPOINT.format(first=first, second=second, last=each + 1, name=name) for each in range(endpoints))
    return SERVICE.format(name=name) + "".join(places)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """What runs: a router in this process, real Envoys, and the crowd."""

    config: Path
    running: Running
    envoys: list[Envoy]
    crowd: Crowd

    def write(self, number: int, endpoints: int = 4) -> None:
        """Write the file of one service, whole."""
        temporary = self.config / f".{number}"
        temporary.write_text(service(number, endpoints))
        temporary.rename(self.config / f"service-{number}.yaml")

    def version(self, number: int) -> str:
        """That of the endpoints of a service, as published now."""
        world = self.running.worlds.value
        assert world is not None
        assignment = world.resources(key(number))[1]
        assert assignment is not None
        return assignment.version


def key(number: int) -> ClusterKey:
    """The cluster of a service."""
    return ClusterKey(f"service-{number}", 80)


@asynccontextmanager
async def fleet(directory: Path, *, simulated: int, real: int = REAL) -> AsyncIterator[Fleet]:
    """Run it, without any service."""
    names = [f"real-{number}" for number in range(real)]
    crowds = [f"crowd-{number}" for number in range(10)]
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(running_server(directory, [*names, *crowds, "router"]))
        async with connect(server.admin_socket) as client:
            await register(client, str(ROUTER), "socket:router")
            for name in (*names, *crowds):
                await register(client, f"spiffe://{TRUST_DOMAIN}/ns/default/sa/{name}", f"socket:{name}")
        config = directory / "config"
        config.mkdir()
        settings = RouterSettings(
            directory=config, endpoint=Endpoint.at(server.sockets["router"]), port=0, now=SystemClock().now
        )
        running = await stack.enter_async_context(running_router(settings))
        envoys = [
            await stack.enter_async_context(
                running_envoy(name, sidecar(server, name, running.port, app_ports={}), directory / name)
            )
            for name in names
        ]
        sockets = [server.sockets[name] for name in crowds]
        made = crowd(running.port, router_name(TrustDomain(TRUST_DOMAIN)), sockets, simulated)
        simulations = await stack.enter_async_context(made)
        await until(lambda: len(running.router.clients) == simulated + real and running.is_settled, within=120)
        yield Fleet(config=config, running=running, envoys=envoys, crowd=simulations)


async def measure(services: tuple[int, ...] = SERVICES, proxies: int = PROXIES, real: int = REAL) -> dict[str, Any]:
    """By number of services."""
    return {f"{count}_services": await _measure(count, proxies, real) for count in services}


async def _measure(services: int, proxies: int, real: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as directory:
        async with fleet(Path(directory), simulated=proxies - real, real=real) as made:
            return {"all": await _everything(made, services), "one_endpoint": await _endpoints(made, services)}


async def _everything(made: Fleet, services: int) -> dict[str, float]:
    """All services at once, in one file each, put there by exchanging the directory."""
    text = "".join(map(service, range(services)))
    before, cpu, started = await made.crowd.totals(), time.process_time(), time.monotonic()
    for number in range(services):
        made.write(number)
    assert text
    await _settled(made, services)
    return _figures(await made.crowd.totals(), before, cpu, [time.monotonic() - started])


async def _settled(made: Fleet, services: int) -> None:
    def done() -> bool:
        state = made.running.state.value
        return len(state.table.services) == services and made.running.is_settled

    await until(done, within=300, every=0.02)


async def _endpoints(made: Fleet, services: int) -> dict[str, float]:
    """One endpoint more or fewer, several times."""
    before, cpu, times = await made.crowd.totals(), 0.0, []
    for number in range(CHANGES):
        old, spent, started = made.version(services // 2), time.process_time(), time.monotonic()
        made.write(services // 2, 5 - number % 2)
        await until(lambda old=old: made.version(services // 2) != old and made.running.is_settled, every=0.005)
        cpu += time.process_time() - spent
        arrived = await made.crowd.have(key(services // 2).name, made.version(services // 2))
        times.append(max(arrived) - started)
    return _figures(await made.crowd.totals(), before, time.process_time() - cpu, times)


def _figures(after: dict[str, Any], before: dict[str, Any], cpu: float, times: list[float]) -> dict[str, float]:
    return {
        "router_cpu_seconds": round((time.process_time() - cpu) / len(times), 3),
        "mebibytes": round((after["received"] - before["received"]) / 2**20 / len(times), 3),
        "resources": round((after["resources"] - before["resources"]) / len(times), 1),
        "seconds_to_the_last": round(max(times), 3),
    }
