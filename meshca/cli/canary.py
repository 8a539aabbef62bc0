"""`meshca canary`: ramps that are written into the configuration directory, where the router executes them."""

# ruff: noqa: PLC0415 - what reads configuration is loaded when a command runs

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meshca.cli.exits import Exit, Failure
from meshca.cli.options import Format, Output
from meshca.cli.output import emit, emit_event, facts
from meshca.cli.router_files import Domain, StatusSocket, read_state
from spiffe.id import TrustDomain

if TYPE_CHECKING:
    from meshca.router.canary.ramp import Canary
    from meshca.router.mesh.objects import VirtualService
    from meshca.router.mesh.state import State

app = typer.Typer(no_args_is_help=True, add_completion=False)

_ANYBODY = TrustDomain("mesh.local")  # whose service accounts they are makes no difference to a ramp

Host = Annotated[
    str, typer.Argument(metavar="HOST", help="A host of the VirtualService that is ramped.", show_default=False)
]
ConfigDir = Annotated[
    Path, typer.Option("--config-dir", metavar="DIR", help="The directory of configuration that the router watches.")
]


def _refuse_directory(given: str | None) -> None:
    if given is not None:
        raise typer.BadParameter(
            "it is the router that is asked, and it knows its directory: leave this out, and name the router's --status-socket "
            "if that is not where the router of this user makes it"
        )


def _refuse_socket(given: str | None) -> None:
    if given is not None:
        raise typer.BadParameter("the router is not asked, it finds what is written into its directory: leave this out")


# Whoever has just typed `start` gives its options here, too.
NoConfigDir = Annotated[str | None, typer.Option("--config-dir", hidden=True, callback=_refuse_directory)]
NoStatusSocket = Annotated[str | None, typer.Option("--status-socket", hidden=True, callback=_refuse_socket)]


@app.callback()
def canary() -> None:
    """Guarded canaries: more and more requests for a new version, as long as they do not fail."""


@app.command()
def start(
    host: Host,
    *,
    config_dir: ConfigDir,
    to: Annotated[str, typer.Option(metavar="SUBSET", help="The new version: one of the route's two destinations.")],
    step: Annotated[int, typer.Option(metavar="PERCENT", help="How much more it gets at each step.")] = 5,
    every: Annotated[str, typer.Option(metavar="TIME", help="How long each step is watched: 30s, 1m, 2h.")] = "1m",
    max_5xx: Annotated[str, typer.Option("--max-5xx", metavar="PERCENT%", help="How many of its requests may fail.")] = "1%",
    watch: Annotated[bool, typer.Option("--watch", help="Then follow it to its end, as `meshca canary watch`.")] = False,
    domain: Domain = "cluster.local",
    status_socket: StatusSocket = "",
    output: Output = Format.TABLE,
) -> None:  # fmt: skip
    """Ramp a host's requests over to a new version. One that is paused goes on.

    The ramp becomes an annotation of the VirtualService, and the router executes it: this command and the router may both end meanwhile.
    Where requests fail, or nobody reports, the router goes back to the weights of now.
    """
    from meshca.router.canary.canary import started
    from meshca.router.canary.ramp import Ramp, read_percent, read_span
    from meshca.router.parsing.canary import to_begin

    ramp = Ramp(to=to, step=step, every=read_span(every), max_5xx=read_percent(max_5xx))
    state = read_state(config_dir, _ANYBODY, domain)
    service = _virtual_service(state, host, domain)
    fresh = to_begin(service.http, ramp)
    _check_endpoints(state, service, fresh)
    after = started(service.canary, fresh, _now())
    _write(config_dir, service, service.canary or fresh, after)
    _say(service, after, output, streams=watch)
    if watch:
        _follow(status_socket, service.origin.label, after, output)


@app.command()
def pause(
    host: Host,
    *,
    config_dir: ConfigDir,
    domain: Domain = "cluster.local",
    output: Output = Format.TABLE,
    _status_socket: NoStatusSocket = None,
) -> None:
    """Take no further steps; the guard stays on. `meshca canary start` goes on."""
    from meshca.router.canary.canary import paused

    _change(host, config_dir, domain, output, paused)


@app.command()
def promote(
    host: Host,
    *,
    config_dir: ConfigDir,
    domain: Domain = "cluster.local",
    output: Output = Format.TABLE,
    _status_socket: NoStatusSocket = None,
) -> None:
    """Send everything to the new version, at once and unguarded, and end the ramp."""
    from meshca.router.canary.canary import promoted

    _change(host, config_dir, domain, output, promoted)


@app.command()
def abort(
    host: Host,
    *,
    config_dir: ConfigDir,
    domain: Domain = "cluster.local",
    output: Output = Format.TABLE,
    _status_socket: NoStatusSocket = None,
) -> None:
    """Go back to the weights from which the ramp started, and end it."""
    from meshca.router.canary.canary import aborted

    _change(host, config_dir, domain, output, aborted)


@app.command()
def status(
    host: Annotated[str, typer.Argument(metavar="[HOST]", help="Only of this host.", show_default=False)] = "",
    *,
    status_socket: StatusSocket = "",
    output: Output = Format.TABLE,
    _config_dir: NoConfigDir = None,
) -> None:
    """Show the ramps as the router sees them: the share that was asked for and that came about, what failed, what is waited for."""
    from meshca.cli.canary_status import of_host, tables

    found = of_host(_ask(status_socket)["canaries"], host)
    if host and not found:
        raise Failure(Exit.NOT_FOUND, f"the router knows no ramp of {host}")
    emit({"canaries": found}, output, lambda: tables(found, _now()))


@app.command()
def watch(
    host: Host, *, status_socket: StatusSocket = "", output: Output = Format.TABLE, _config_dir: NoConfigDir = None
) -> None:
    """Follow a ramp to its end, one line for each report that came in. Exit 0 if it is promoted, 1 if it ends otherwise."""
    from meshca.cli.canary_status import of_host

    found = of_host(_ask(status_socket)["canaries"], host)
    if not found:
        raise Failure(Exit.NOT_FOUND, f"the router knows no ramp of {host}")
    _follow(status_socket, found[0]["object"], None, output)


def _virtual_service(state: "State", host: str, domain: str) -> "VirtualService":
    """The one VirtualService of the host. Raises Failure."""
    from meshca.router.mesh.objects import VirtualService

    names = (host, f"{host}.default.svc.{domain}")
    virtual = next((state.table.hosts[name] for name in names if name in state.table.hosts), None)
    if virtual is None:
        problems = [f"\n{problem}" for problem in state.problems]
        raise Failure(Exit.NOT_FOUND, f"no VirtualService that is good has the host {host}{''.join(problems)}")
    for problem in state.problems:
        if problem.label == virtual.origin.label or problem.text.startswith(f"{virtual.host} is taken by"):
            raise Failure(Exit.FAILED, f"mend this first: {problem}")
    found = state.good[virtual.origin.label]
    if not isinstance(found, VirtualService) or virtual.origin.kind != "VirtualService":
        raise Failure(Exit.FAILED, f"the routes of {host} are of {virtual.origin.label}: a ramp needs a VirtualService")
    return found


def _check_endpoints(state: "State", service: "VirtualService", canary: "Canary") -> None:
    from dataclasses import replace

    from meshca.router.canary.ramping import ramped

    found = ramped(state, replace(service, canary=canary))
    if found and not found.endpoints:
        raise Failure(Exit.FAILED, f"{canary.ramp.to} has no endpoints: requests would fail")


def _change(
    host: str, directory: Path, domain: str, output: Format, change: "Callable[[Canary, datetime], Canary]"
) -> None:
    """Change a ramp that is under way."""
    state = read_state(directory, _ANYBODY, domain)
    service = _virtual_service(state, host, domain)
    there = service.canary
    if there is None or not there.is_live:
        raise Failure(Exit.FAILED, f"no ramp of {host} is under way{_ended(state, service)}")
    after = change(there, _now())
    _write(directory, service, there, after)
    _say(service, after, output)


def _ended(state: "State", service: "VirtualService") -> str:
    """Why not, for people."""
    odd = [str(each) for each in state.warnings if each.label == service.origin.label and "takes no part" in each.text]
    if odd:
        return f": {odd[0]}"
    progress = service.canary.progress if service.canary else None
    return f": {progress.phase}, {progress.reason}" if progress else ""


def _write(directory: Path, service: "VirtualService", before: "Canary", after: "Canary") -> None:
    from meshca.router.canary.ramp_store import RampDirectory

    RampDirectory(directory).write(service.origin, before, after)


def _say(service: "VirtualService", after: "Canary", output: Format, *, streams: bool = False) -> None:
    """What was written; as the first line of a stream where more follows."""
    from meshca.router.canary.ramp import ramp_text

    progress = after.progress
    document = {
        "object": service.origin.label,
        "file": service.origin.file,
        "ramp": ramp_text(after.ramp),
        "phase": progress.phase if progress else None,
        "start": progress.start if progress else None,
        "weight": after.weight,
    }
    if streams and output is not Format.TABLE:
        emit_event(document, output, "")
    else:
        emit(document, output, lambda: facts(document.items()))


def _follow(status_socket: str, label: str, written: "Canary | None", output: Format) -> None:
    from meshca.cli.canary_status import follow

    since = written.progress.since if written and written.progress else None
    phase = follow(lambda: _ask(status_socket)["canaries"], label, since, output)
    if phase != "promoted":
        raise Failure(Exit.FAILED)


def _ask(status_socket: str) -> dict[str, Any]:
    from meshca import config
    from meshca.cli.router_status import ask

    return ask(Path(status_socket or config.default_router_socket()))


def _now() -> datetime:
    from meshca.clock import SystemClock

    return SystemClock().now()
