"""A fleet for tests and benchmarks of size: a router in this process, a few real Envoys, and a crowd of simulated proxies."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from meshca.client import connect
from meshca.clock import SystemClock
from meshca.demo.envoys import Envoy, running_envoy
from meshca.demo.server import register, running_server
from meshca.model import router_names
from meshca.router.app import RouterSettings, Running, running_router
from meshca.router.mesh.table import ClusterKey
from sds.endpoint import Endpoint
from spiffe.id import TrustDomain
from tests.support.crowd import Crowd, crowd
from tests.support.routed import ROUTER, TRUST_DOMAIN, sidecar
from tests.support.wait import until

REAL = 3

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


@dataclass(slots=True, kw_only=True)
class Fleet:
    """What runs. `config` is a symbolic link to the directory."""

    config: Path
    settings: RouterSettings
    router: AsyncExitStack
    running: Running
    envoys: list[Envoy]
    crowd: Crowd

    def write(self, number: int, endpoints: int = 4) -> None:
        """Write the file of one service, whole."""
        temporary = self.config / f".{number}"
        temporary.write_text(service(number, endpoints))
        temporary.rename(self.config / f"service-{number}.yaml")

    async def take(self, services: int) -> None:
        """The same, and wait until all have them."""
        self.exchange(services)
        await self.crowd.have_all(services)
        await self.settled()

    def exchange(self, services: int) -> None:
        """Put another directory in its place, with so many services, each in a file."""
        full = self.config.with_name(f"with-{services}")
        full.mkdir()
        for number in range(services):
            (full / f"service-{number}.yaml").write_text(service(number))
        link = self.config.with_name("link")
        link.symlink_to(full)
        link.rename(self.config)

    async def restart_router(self) -> None:
        """End it, and start it anew where it was."""
        await self.router.aclose()
        self.settings = replace(self.settings, port=self.running.port)
        self.running = await self.router.enter_async_context(running_router(self.settings))
        await self.settled()

    async def settled(self) -> None:
        """Until all are connected and have, and have accepted, what holds now."""
        proxies = self.crowd.size + len(self.envoys)

        def done() -> bool:
            clients = self.running.router.clients.values()
            is_late = any(each.delivery.standing().is_late for each in clients)
            return len(clients) == proxies and self.running.is_settled and not is_late

        await until(done, within=120)

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
        router = await stack.enter_async_context(AsyncExitStack())
        running = await router.enter_async_context(running_router(settings))
        envoys = [
            await stack.enter_async_context(
                running_envoy(name, sidecar(server, name, running.port, app_ports={}), directory / name)
            )
            for name in names
        ]
        sockets = [server.sockets[name] for name in crowds]
        name, _ = router_names(TrustDomain(TRUST_DOMAIN))
        simulations = await stack.enter_async_context(crowd(running.port, name, sockets, simulated))
        made = Fleet(config=config, settings=settings, router=router, running=running, envoys=envoys, crowd=simulations)
        await made.settled()
        yield made
