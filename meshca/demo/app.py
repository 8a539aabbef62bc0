"""`meshca demo`: a server, two Envoys, a steady load, and every key replaced under it. Ends by itself with a summary.

frontend Envoy --mutual TLS--> backend Envoy. Both get SVID and bundle from `meshca up` over SDS, each through a socket of its own, which
is how two processes of one user are told apart. One load keeps its connections; another makes a TLS handshake for each request.
"""

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console
from rich.live import Live

from meshca.bootstrap import BootstrapSpec, Inbound, Outbound
from meshca.client import AdminClient, connect
from meshca.clock import SystemClock
from meshca.demo import view
from meshca.demo.application import running_application
from meshca.demo.envoys import Envoy, running_envoy
from meshca.demo.load import Tally, added, keep_asking
from meshca.demo.observe import Changes, look
from meshca.demo.server import Server, register, running_server
from meshca.proto import admin_pb2 as pb
from spiffe.id import SpiffeID

FRONTEND = SpiffeID.parse("spiffe://mesh.local/frontend")
BACKEND = SpiffeID.parse("spiffe://mesh.local/backend")
LEAF_SECONDS = 20
LOOK_SECONDS = 0.1
DRAW_PER_SECOND = 4
PAUSE_SECONDS = 0.02
NO_TERMINAL_WIDTH = 160


@dataclass(slots=True, kw_only=True)
class Demo:
    """What the demo runs and has seen so far."""

    client: AdminClient
    application: int
    envoys: Mapping[str, Envoy]
    changes: Mapping[str, Changes]
    kept: Tally = field(default_factory=Tally)
    fresh: Tally = field(default_factory=Tally)
    direct: Tally = field(default_factory=Tally)
    authorities: pb.AuthorityList = field(default_factory=pb.AuthorityList)
    step: str = "starting"

    def summary(self) -> dict[str, object]:
        """The figures, all of them measured."""
        frontend, load = self.changes["frontend"], added((self.kept, self.fresh))
        return {
            "requests": load.requests,
            "failures": load.failed,
            "leaf_rotations": sum(each.leaves for each in self.changes.values()),
            "intermediate_rotations": frontend.intermediates,
            "root_rotations": frontend.roots,
            "peer_ids": sorted(load.peers),
            **_quantiles("", load),
            **_quantiles("kept_alive_", self.kept),
            **_quantiles("new_connection_", self.fresh),
            **_quantiles("direct_", self.direct),
            "failure_reasons": dict(load.failures),
        }


def _quantiles(prefix: str, tally: Tally) -> dict[str, float]:
    return {f"{prefix}p{share}_ms": round(tally.quantile(share / 100) * 1000, 3) for share in (50, 99)}


async def demo(seconds: float, *, as_json: bool) -> int:
    """Run the demo for that long; return the exit code: 0 only if there was load and not one request failed. Raises CannotStart."""
    console = screen(as_json=as_json)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="meshca-demo-") as directory:
        async with AsyncExitStack() as stack:
            console.print("starting a CA and two Envoys ...", style="dim")
            made = await _start(stack, Path(directory))
            console.print(f"both Envoys have their SVIDs after {time.monotonic() - started:.1f} s", style="dim")
            await _run(made, console, seconds)
    return _finish(made, console, as_json=as_json)


def screen(*, as_json: bool) -> Console:
    """Where the demo shows itself: what goes to no terminal is wide enough for whole SPIFFE IDs."""
    console = Console(stderr=as_json)
    return console if console.is_terminal else Console(stderr=as_json, width=NO_TERMINAL_WIDTH)


def main(seconds: float, *, as_json: bool) -> int:
    """The command. Returns its exit code."""
    return asyncio.run(demo(seconds, as_json=as_json))


async def _start(stack: AsyncExitStack, directory: Path) -> Demo:
    application = await stack.enter_async_context(running_application())
    server = await stack.enter_async_context(running_server(directory, ["frontend", "backend"]))
    client = await stack.enter_async_context(connect(server.admin_socket))
    await register(client, str(FRONTEND), "socket:frontend", ttl=LEAF_SECONDS)
    await register(client, str(BACKEND), "socket:backend", ttl=LEAF_SECONDS)
    backend = await stack.enter_async_context(
        running_envoy("backend", backend_spec(server, application), directory / "backend")
    )
    spec = frontend_spec(server, await backend.port("inbound"))
    frontend = await stack.enter_async_context(running_envoy("frontend", spec, directory / "frontend"))
    envoys = {"frontend": frontend, "backend": backend}
    return Demo(client=client, application=application, envoys=envoys, changes={name: Changes() for name in envoys})


def backend_spec(server: Server, application: int, *, delta: bool = False) -> BootstrapSpec:
    """The backend: mutual TLS from the frontend only, in front of the application."""
    inbound = Inbound(name="inbound", port=0, address="127.0.0.1", peers=(FRONTEND,), app_port=application)
    return replace(_spec("backend", server, delta=delta), inbound=(inbound,))


def frontend_spec(server: Server, upstream: int, *, delta: bool = False) -> BootstrapSpec:
    """The frontend: two plain listeners towards the backend, one that keeps its connections and one that never does."""
    kept, fresh = (
        Outbound(
            name=name, port=0, host="127.0.0.1", host_port=upstream, peer=BACKEND, max_requests_per_connection=limit
        )
        for name, limit in (("kept", 0), ("fresh", 1))
    )
    return replace(_spec("frontend", server, delta=delta), outbound=(kept, fresh))


def _spec(name: str, server: Server, *, delta: bool) -> BootstrapSpec:
    socket = str(server.sockets[name])
    return BootstrapSpec(node_id=name, node_cluster="demo", sds_socket=socket, admin_port=0, delta=delta)


async def _run(made: Demo, console: Console, seconds: float) -> None:
    """Load, rotate, look and draw, all at once, until the time is over."""
    kept, fresh = [await made.envoys["frontend"].port(name) for name in ("kept", "fresh")]
    with Live(console=console, refresh_per_second=DRAW_PER_SECOND, transient=False) as screen:
        try:
            async with asyncio.timeout(seconds), asyncio.TaskGroup() as tasks:
                for port, tally, kept_alive in (
                    (kept, made.kept, True),
                    (kept, made.kept, True),
                    (fresh, made.fresh, True),
                    (fresh, made.fresh, False),
                ):
                    tasks.create_task(keep_asking(port, tally, pause=PAUSE_SECONDS, kept_alive=kept_alive))
                tasks.create_task(keep_asking(made.application, made.direct, pause=PAUSE_SECONDS))
                tasks.create_task(_rotate(made), name="rotate")
                tasks.create_task(_look(made, screen), name="look")
        except TimeoutError:
            pass  # the end that was asked for
    made.step = "done"


async def _rotate(made: Demo) -> None:
    """Replace the intermediate, then the root, over and over, each as `meshca authority rotate` does."""
    while True:
        for kind in ("intermediate", "root"):
            async for progress in made.client.authorities.Rotate(pb.KindRequest(kind=kind)):
                made.step = f"rotating the {kind}: {progress.text}"
            await asyncio.sleep(LOOK_SECONDS * 2)


async def _look(made: Demo, screen: Live) -> None:
    """Ask Envoys and server what is so, and show it."""
    while True:
        for name, envoy in made.envoys.items():
            made.changes[name].see(await look(envoy))
        made.authorities = await made.client.authorities.List(pb.Empty())
        shown = view.live(
            now=SystemClock().now(),
            envoys=list(made.changes.items()),
            authorities=made.authorities,
            traffic={"kept alive": made.kept, "new connections": made.fresh, "direct, without a mesh": made.direct},
            step=made.step,
        )
        screen.update(shown)
        await asyncio.sleep(LOOK_SECONDS)


def _finish(made: Demo, console: Console, *, as_json: bool) -> int:
    figures = made.summary()
    good = bool(figures["requests"]) and not figures["failures"]
    verdict = "[bold green]Not one request failed.[/]" if good else "[bold red]There were failures.[/]"
    console.print(
        f"\n{figures['requests']} requests, {figures['failures']} failures, while {figures['leaf_rotations']} leaves, "
        f"{figures['intermediate_rotations']} intermediates and {figures['root_rotations']} roots were replaced. {verdict}"
    )
    if as_json:
        sys.stdout.write(json.dumps(figures) + "\n")
    return 0 if good else 1
