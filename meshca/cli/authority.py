"""`meshca authority`: the signing keys of the trust domain."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC
from enum import StrEnum
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.table import Table

from meshca.cli.exits import Exit, Failure
from meshca.cli.options import AdminSocket, Format, Output
from meshca.cli.output import console, document, emit, emit_event, facts, left, remark, rows, shown
from meshca.cli.session import ask
from meshca.cli.values import printable
from meshca.client import AdminClient
from meshca.proto import admin_pb2 as pb

app = typer.Typer(no_args_is_help=True, add_completion=False)


class Kind(StrEnum):
    """The kinds of X.509 authority."""

    ROOT = "root"
    INTERMEDIATE = "intermediate"


AuthorityID = Annotated[str, typer.Argument(metavar="ID", help="The authority's id, from `authority list`.")]
KindOption = Annotated[Kind, typer.Option("--kind", help="Which kind of authority.")]
Guard = Annotated[Kind | None, typer.Option("--kind", help="Refuse if the authority is not of this kind.")]
Force = Annotated[bool, typer.Option("--force", help="Do not wait for those who are behind; recorded.")]


_SEE = "`meshca authority list` and `meshca status` show how far it is"


@app.command("list")
def list_(*, socket: AdminSocket = "", output: Output = Format.TABLE) -> None:
    """List all authorities: their states, and what happens next."""
    found: pb.AuthorityList = ask(socket, lambda server: server.authorities.List(pb.Empty()))
    emit(document(found), output, lambda: authority_tables(found.authorities))


@app.command()
def prepare(*, kind: KindOption, socket: AdminSocket = "", output: Output = Format.TABLE) -> None:
    """Make the next authority of a kind, and publish it if it is a root. It signs nothing yet."""
    made: pb.Authority = ask(socket, lambda server: server.authorities.Prepare(pb.KindRequest(kind=kind)))
    emit(document(made), output, lambda: _authority_facts(made))


@app.command()
def activate(
    authority_id: AuthorityID,
    *,
    force: Force = False,
    kind: Guard = None,
    socket: AdminSocket = "",
    output: Output = Format.TABLE,
) -> None:
    """Let a prepared authority sign, once everybody has it."""
    _change(lambda server: server.authorities.Activate, authority_id, kind, socket, output, force=force)


@app.command()
def taint(
    authority_id: AuthorityID,
    *,
    force: Force = False,
    kind: Guard = None,
    socket: AdminSocket = "",
    output: Output = Format.TABLE,
) -> None:
    """Trust an authority no longer: everything under it is replaced first, and dropped then."""
    _change(lambda server: server.authorities.Taint, authority_id, kind, socket, output, force=force)


@app.command()
def revoke(
    authority_id: AuthorityID,
    *,
    force: Force = False,
    kind: Guard = None,
    socket: AdminSocket = "",
    output: Output = Format.TABLE,
) -> None:
    """Take an authority away for good. Verifiers know only roots: revoking an intermediate also rotates the root."""
    _change(lambda server: server.authorities.Revoke, authority_id, kind, socket, output, force=force)


@app.command()
def rotate(
    *,
    kind: KindOption,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Stay until the old authority is gone.")] = True,
    socket: AdminSocket = "",
    output: Output = Format.TABLE,
) -> None:
    """Replace the active authority of a kind: prepare, publish, wait for everybody, activate, replace, drop.

    Once it has begun the server goes on by itself, whoever stops watching, and after a restart too.
    """
    begun: list[pb.Progress] = []

    async def work(server: AdminClient) -> None:
        steps = server.authorities.Rotate(pb.KindRequest(kind=kind))
        if wait:
            await show_steps(_kept(steps, begun), output)
            return
        async for step in steps:
            emit_event(document(step), output, step_line(step))
            break
        steps.cancel()
        remark(f"the server goes on by itself: {_SEE}")

    try:
        ask(socket, work, within=None)
    except KeyboardInterrupt:
        remark(f"{'the server' if begun else 'if it has begun, the server'} goes on by itself: {_SEE}")
        raise
    except Failure as failure:
        if begun and failure.code is Exit.UNREACHABLE:
            remark(f"the server ended in the middle of it, and goes on after its next start: {_SEE}")
            raise Failure(failure.code) from failure
        raise


async def _kept(steps: AsyncIterator[pb.Progress], seen: list[pb.Progress]) -> AsyncIterator[pb.Progress]:
    async for step in steps:
        seen.append(step)
        yield step


async def show_steps(steps: AsyncIterator[pb.Progress], output: Format) -> None:
    """Print the steps of a rotation as they come: on a terminal with a live line of what is waited for."""
    screen = console()
    if output is not Format.TABLE or not screen.is_terminal:
        async for step in steps:
            emit_event(document(step), output, step_line(step))
        return
    with screen.status("asking the server") as live:
        async for step in steps:
            screen.print(printable(step_line(step)))
            live.update(printable(f"{step.step}: {step.text}"))


def step_line(step: pb.Progress) -> str:
    """One step of a rotation for eyes."""
    behind = f" ({step.behind} behind)" if step.behind else ""
    return f"{step.at.ToDatetime(UTC):%H:%M:%S}  {step.step:<11} {step.text}{behind}"


def authority_tables(authorities: Sequence[pb.Authority]) -> list[RenderableType]:
    """Authorities as a table, and below it what happens next to each."""
    cells = ((a.kind, _state(a), a.id, left(a.not_after), a.live_leaves) for a in authorities)
    following = [printable(f"{a.kind} {a.id[:8]}: {a.next}") for a in authorities if a.next]
    return [rows(["KIND", "STATE", "ID", "ENDS IN", "LIVE"], cells), *([""] if following else []), *following]


def _state(authority: pb.Authority) -> str:
    """Its state for eyes, and that it is trusted no longer."""
    distrusted = authority.leaving in {"tainted", "revoked"} - {authority.state}
    return f"{authority.state}, {authority.leaving}" if distrusted else authority.state


def _change(
    method: Callable[[AdminClient], Callable[[pb.AuthorityRequest], Awaitable[pb.AuthorityOutcome]]],
    authority_id: str,
    kind: Kind | None,
    socket: str,
    output: Format,
    *,
    force: bool,
) -> None:
    request = pb.AuthorityRequest(id=authority_id, force=force, kind=kind or "")
    outcome = ask(socket, lambda server: method(server)(request))
    emit(document(outcome), output, lambda: _authority_facts(outcome.authority))
    if output is Format.TABLE:
        for text in outcome.remarks:
            remark(text)


def _authority_facts(authority: pb.Authority) -> Table:
    return facts(
        [
            ("id", authority.id),
            ("kind", authority.kind),
            ("state", _state(authority)),
            ("issuer", authority.issuer_id),
            ("valid", f"{shown(authority.not_before)} to {shown(authority.not_after)}"),
            ("live leaves", authority.live_leaves),
            ("next", authority.next),
        ]
    )
