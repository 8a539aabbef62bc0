"""Configuration push: so many services to so many proxies, the first three of them real; all of it at once, then one endpoint."""

import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
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
        config.with_name("empty").mkdir()
        config.symlink_to(config.with_name("empty"))
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
    """All services at once, each in a file, by exchanging the directory."""
    full = made.config.with_name("full")
    full.mkdir()
    for number in range(services):
        (full / f"service-{number}.yaml").write_text(service(number))
    link = made.config.with_name("link")
    link.symlink_to(full)
    meter = await Meter.start(made.crowd)
    link.rename(made.config)
    await until(
        partial(_has_all, made, meter.before["resources"] + made.crowd.size * 2 * services), within=300, every=0.1
    )
    return await meter.read(made.crowd)


async def _has_all(made: Fleet, resources: int) -> bool:
    standings = [client.delivery.standing() for client in made.running.router.clients.values()]
    is_steady = made.running.is_settled and not any(each.is_late for each in standings)
    return is_steady and (await made.crowd.totals())["resources"] >= resources


async def _endpoints(made: Fleet, services: int) -> dict[str, float]:
    """One endpoint more or fewer, several times."""
    figures = [await _one_endpoint(made, services // 2, 5 - number % 2) for number in range(CHANGES)]
    return {name: round(median(each[name] for each in figures), 3) for name in figures[0]}


async def _one_endpoint(made: Fleet, number: int, endpoints: int) -> dict[str, float]:
    before, meter = made.version(number), await Meter.start(made.crowd)
    made.write(number, endpoints)
    await until(lambda: made.version(number) != before and made.running.is_settled, every=0.005)
    await made.crowd.have(key(number).name, made.version(number))
    return await meter.read(made.crowd)


@dataclass(frozen=True, slots=True, kw_only=True)
class Meter:
    """What something costs this process, in which the router is, and the crowd."""

    before: Mapping[str, float]
    cpu: float
    started: float

    @classmethod
    async def start(cls, crowd: Crowd) -> "Meter":
        """Begin."""
        return cls(before=await crowd.totals(), cpu=time.process_time(), started=time.monotonic())

    async def read(self, crowd: Crowd) -> dict[str, float]:
        """The figures, up to what came last."""
        spent, after = time.process_time() - self.cpu, await crowd.totals()
        return {
            "router_cpu_seconds": round(spent, 3),
            "mebibytes": round((after["received"] - self.before["received"]) / 2**20, 3),
            "resources": after["resources"] - self.before["resources"],
            "seconds_to_the_last": round(after["last"] - self.started, 3),
        }
