"""The mesh of the demo: a CA with a router in one process, and four Envoys that take certificates and routes from it.

frontend --mutual TLS--> api-v1 and api-v2, and a stranger who would like to. Each Envoy has a socket of its own, which is how processes of
one user are told apart.
"""

import asyncio
import socket
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from meshca.bootstrap import BootstrapSpec, RouterLink
from meshca.client import AdminClient, connect
from meshca.demo.application import running_application
from meshca.demo.envoys import Envoy, running_envoy
from meshca.demo.load import Ask, Tally, ask_until_answered
from meshca.demo.scene import ASKED, FRONTEND, HOST, STRANGER, V1, V2, write_scene
from meshca.demo.server import READY_SECONDS, Server, register, running_server
from meshca.errors import CannotStart
from meshca.model import ROUTER_PATH
from spiffe.id import SpiffeID, TrustDomain

LEAF_SECONDS = 20
POLL_SECONDS = 0.05
IDENTITIES: Mapping[str, SpiffeID] = {"frontend": FRONTEND, "api-v1": V1, "api-v2": V2, "stranger": STRANGER}
ROUTER_SETTINGS = """\

[router]
config_dir = "{config}"
port = {port}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoMesh:
    """What runs. `application` is the port of the first version itself; `ways_out` are where each caller's application calls."""

    client: AdminClient
    application: int
    envoys: Mapping[str, Envoy]
    ways_out: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where a version is called, and where its application listens."""

    port: int
    application: int


async def start(stack: AsyncExitStack, directory: Path) -> DemoMesh:
    """Start it; it ends with the stack. Raises CannotStart."""
    places = {
        version: _Place(port=free_port(), application=await stack.enter_async_context(running_application(version)))
        for version in ASKED
    }
    write_scene(directory / "config", {version: place.port for version, place in places.items()})
    router_port = free_port()
    settings = ROUTER_SETTINGS.format(config=directory / "config", port=router_port)
    server = await stack.enter_async_context(running_server(directory, list(IDENTITIES), router=settings))
    client = await stack.enter_async_context(connect(server.admin_socket))
    for name, identity in IDENTITIES.items():
        await register(client, str(identity), f"socket:{name}", ttl=LEAF_SECONDS)
    specs = {name: _spec(server, name, router_port, places.get(name.removeprefix("api-"))) for name in IDENTITIES}
    envoys = await _started(stack, specs, directory)
    made = DemoMesh(
        client=client,
        application=places["v1"].application,
        envoys=envoys,
        ways_out={name: await envoys[name].port("outbound") for name in ("frontend", "stranger")},
    )
    await _until_routed(made)
    return made


async def _started(stack: AsyncExitStack, specs: Mapping[str, BootstrapSpec], directory: Path) -> dict[str, Envoy]:
    """All at once: none needs another to be there."""
    running = [running_envoy(name, spec, directory / name) for name, spec in specs.items()]
    envoys = await asyncio.gather(*(stack.enter_async_context(each) for each in running))
    return dict(zip(specs, envoys, strict=True))


def _spec(server: Server, name: str, router_port: int, place: _Place | None) -> BootstrapSpec:
    link = RouterLink(
        host="127.0.0.1",
        port=router_port,
        identity=SpiffeID(TrustDomain(server.trust_domain), ROUTER_PATH),
        address="127.0.0.1",
        outbound_port=0,
        app_ports={place.port: place.application} if place else {},
    )
    socket_path = str(server.sockets[name])
    return BootstrapSpec(
        node_id=name, node_cluster="demo", sds_socket=socket_path, admin_port=0, delta=True, router=link
    )


async def _until_routed(made: DemoMesh) -> None:
    """Until the frontend has reached the service. Raises CannotStart."""
    tally = Tally()
    try:
        async with asyncio.timeout(READY_SECONDS):
            await ask_until_answered(Ask(port=made.ways_out["frontend"], host=HOST), tally, pause=POLL_SECONDS)
    except TimeoutError:
        raise CannotStart(f"no answer within {READY_SECONDS:g} s: {dict(tally.failures)}") from None


def free_port() -> int:
    """A port of loopback that nobody has at present: configuration names it before anybody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
