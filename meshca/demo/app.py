"""`meshca demo`: a CA, a router, four Envoys and a steady load; routes, faults, breakers and policies at work while every key is replaced.

Ends by itself with a summary. One load keeps its connections; another makes a TLS handshake for each request.
"""

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.live import Live

from meshca.clock import SystemClock
from meshca.demo import view
from meshca.demo.application import SLOW_PATH
from meshca.demo.load import Ask, Tally, added, keep_asking
from meshca.demo.mesh import DemoMesh, start
from meshca.demo.observe import Changes, look
from meshca.demo.scene import ASKED, FAULT_PERCENT, FAULT_STATUS, FAULTY, FRESH, HOST, NARROW, STRANGER
from meshca.proto import admin_pb2 as pb

LOOK_SECONDS = 0.1
DRAW_PER_SECOND = 4
PAUSE_SECONDS = 0.02
NO_TERMINAL_WIDTH = 160
OVERFLOW, FORBIDDEN = 503, 403
LANES, CROWD = 4, 4
"""How many ask at once: where as many may as will, and where one may."""


@dataclass(slots=True, kw_only=True)
class Demo:
    """What the demo runs and has seen so far."""

    mesh: DemoMesh
    changes: dict[str, Changes]
    kept: Tally = field(default_factory=Tally)
    fresh: Tally = field(default_factory=Tally)
    direct: Tally = field(default_factory=Tally)
    faulty: Tally = field(default_factory=Tally)
    narrow: Tally = field(default_factory=Tally)
    stranger: Tally = field(default_factory=Tally)
    authorities: pb.AuthorityList = field(default_factory=pb.AuthorityList)
    step: str = "starting"

    @property
    def load(self) -> Tally:
        """All that was asked and had to be answered as expected."""
        return added((self.kept, self.fresh, self.faulty, self.narrow, self.stranger))

    @property
    def split(self) -> dict[str, float]:
        """The percentage of answers by version, of the load that the canary divides."""
        return {version: round(self.kept.share(version), 2) for version in ASKED}

    def summary(self) -> dict[str, object]:
        """The figures, all of them measured."""
        frontend, load = self.changes["frontend"], self.load
        return {
            "requests": load.requests,
            "failures": load.failed,
            "split": self.split,
            "fault": {"asked_percent": FAULT_PERCENT, "percent": round(self.faulty.share(str(FAULT_STATUS)), 2)},
            "breaker": {"requests": self.narrow.requests, "overflowed": self.narrow.answers[str(OVERFLOW)]},
            "refused": {
                "spiffe_id": str(STRANGER),
                "requests": self.stranger.requests,
                "refused": self.stranger.answers[str(FORBIDDEN)],
            },
            "leaf_rotations": sum(each.leaves for each in self.changes.values()),
            "intermediate_rotations": frontend.intermediates,
            "root_rotations": frontend.roots,
            "peer_ids": sorted(load.peers),
            **_quantiles("", added((self.kept, self.fresh))),
            **_quantiles("kept_alive_", self.kept),
            **_quantiles("new_connection_", self.fresh),
            **_quantiles("direct_", self.direct),
            "failure_reasons": dict(load.failures),
        }

    @property
    def is_good(self) -> bool:
        """Whether there was load, nothing failed, and everything that was to be shown was there to be seen."""
        refused = self.stranger.answers
        return bool(
            self.kept.requests
            and not self.load.failed
            and self.faulty.answers[str(FAULT_STATUS)]
            and self.narrow.answers[str(OVERFLOW)]
            and refused.total() == refused[str(FORBIDDEN)] > 0
        )


def _quantiles(prefix: str, tally: Tally) -> dict[str, float]:
    return {f"{prefix}p{share}_ms": round(tally.quantile(share / 100) * 1000, 3) for share in (50, 99)}


async def demo(seconds: float, *, as_json: bool) -> int:
    """Run the demo for that long; return the exit code: 0 only if all that it shows was so. Raises CannotStart."""
    console = screen(as_json=as_json)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="meshca-demo-") as directory:
        async with AsyncExitStack() as stack:
            console.print("starting a CA with a router and four Envoys ...", style="dim")
            mesh = await start(stack, Path(directory))
            made = Demo(mesh=mesh, changes={name: Changes() for name in mesh.envoys})
            console.print(
                f"the first routed request was answered after {time.monotonic() - started:.1f} s", style="dim"
            )
            await _run(made, console, seconds)
    return _finish(made, console, as_json=as_json)


def screen(*, as_json: bool) -> Console:
    """Where the demo shows itself: what goes to no terminal is wide enough for whole SPIFFE IDs."""
    console = Console(stderr=as_json)
    return console if console.is_terminal else Console(stderr=as_json, width=NO_TERMINAL_WIDTH)


def main(seconds: float, *, as_json: bool) -> int:
    """The command. Returns its exit code."""
    return asyncio.run(demo(seconds, as_json=as_json))


def _load(made: Demo) -> Iterator[tuple[Ask, Tally, bool]]:
    """What is asked all the time, where it is counted, and whether its connections are kept."""
    out, stranger = made.mesh.ways_out["frontend"], made.mesh.ways_out["stranger"]
    for kept_alive in (True, False):
        yield Ask(port=out, host=FRESH), made.fresh, kept_alive
    for _ in range(LANES):
        yield Ask(port=out, host=HOST), made.kept, True
    yield Ask(port=out, host=FAULTY, expected=FAULT_STATUS), made.faulty, True
    yield Ask(port=stranger, host=HOST, expected=FORBIDDEN), made.stranger, True
    yield Ask(port=made.mesh.application), made.direct, True
    for _ in range(CROWD):
        yield Ask(port=out, host=NARROW, path=SLOW_PATH, expected=OVERFLOW), made.narrow, True


async def _run(made: Demo, console: Console, seconds: float) -> None:
    """Load, rotate, look and draw, all at once, until the time is over."""
    with Live(console=console, refresh_per_second=DRAW_PER_SECOND, transient=False) as screen:
        try:
            async with asyncio.timeout(seconds), asyncio.TaskGroup() as tasks:
                for ask, tally, kept_alive in _load(made):
                    tasks.create_task(keep_asking(ask, tally, pause=PAUSE_SECONDS, kept_alive=kept_alive))
                tasks.create_task(_rotate(made), name="rotate")
                tasks.create_task(_look(made, screen), name="look")
        except TimeoutError:
            pass  # the end that was asked for
    made.step = "done"


async def _rotate(made: Demo) -> None:
    """Replace the intermediate, then the root, over and over, each as `meshca authority rotate` does."""
    while True:
        for kind in ("intermediate", "root"):
            async for progress in made.mesh.client.authorities.Rotate(pb.KindRequest(kind=kind)):
                made.step = f"rotating the {kind}: {progress.text}"
            await asyncio.sleep(LOOK_SECONDS * 2)


async def _look(made: Demo, screen: Live) -> None:
    """Ask Envoys and server what is so, and show it."""
    while True:
        for name, envoy in made.mesh.envoys.items():
            made.changes[name].see(await look(envoy))
        made.authorities = await made.mesh.client.authorities.List(pb.Empty())
        shown = view.live(
            now=SystemClock().now(),
            envoys=list(made.changes.items()),
            authorities=made.authorities,
            traffic={"kept alive": made.kept, "new connections": made.fresh, "direct, without a mesh": made.direct},
            rules=list(_rules(made)),
            step=made.step,
        )
        screen.update(shown)
        await asyncio.sleep(LOOK_SECONDS)


def _rules(made: Demo) -> Iterator[tuple[str, str, str]]:
    """What was written in YAML, what it asks for, and what was seen."""
    asked = ", ".join(f"{percent} % to {version}" for version, percent in ASKED.items())
    seen = ", ".join(f"{percent:.1f} % to {version}" for version, percent in made.split.items())
    yield "canary", asked, f"{seen} of {made.kept.answers.total()}"
    share, total = made.faulty.share(str(FAULT_STATUS)), made.faulty.answers.total()
    yield "fault", f"{FAULT_PERCENT} % aborted with {FAULT_STATUS}", f"{share:.1f} % of {total}"
    overflowed = made.narrow.answers[str(OVERFLOW)]
    yield (
        "circuit breaker",
        f"one at a time, one waits, {CROWD} ask",
        f"{overflowed} of {made.narrow.requests} answered {OVERFLOW} at once",
    )
    refused = made.stranger.answers[str(FORBIDDEN)]
    yield "policy", "the stranger may not", f"{refused} of {made.stranger.requests} answered {FORBIDDEN}"


def _finish(made: Demo, console: Console, *, as_json: bool) -> int:
    figures = made.summary()
    verdict = "[bold green]Not one request failed.[/]" if made.is_good else "[bold red]There were failures.[/]"
    console.print(
        f"\n{figures['requests']} requests, {figures['failures']} failures, while {figures['leaf_rotations']} leaves, "
        f"{figures['intermediate_rotations']} intermediates and {figures['root_rotations']} roots were replaced. {verdict}"
    )
    if as_json:
        sys.stdout.write(json.dumps(figures) + "\n")
    return 0 if made.is_good else 1
