"""Commands without a group: the programs (`up`, `demo`) and the questions (`status`, `health`, `why`).

Each loads what it needs when it runs: `up` loads no client, the questions load no server.
"""

# ruff: noqa: PLC0415 - see above

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import RenderableType

from meshca.cli.exits import Exit, Failure
from meshca.cli.options import AdminSocket, ConfigFile, DataDir, Format, Output, given_path

if TYPE_CHECKING:
    from meshca.proto import admin_pb2 as pb

app = typer.Typer(add_completion=False)

HEALTH_WITHIN = 5.0


class LogFormat(StrEnum):
    """How `up` logs."""

    CONSOLE = "console"
    JSON = "json"


@app.command()
def up(
    *,
    trust_domain: Annotated[
        str | None, typer.Option(help="The trust domain; set once, then kept in the store.")
    ] = None,
    data_dir: DataDir = None,
    socket: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=PATH[,mode=0660][,group=G]", help="A workload socket (repeatable); selector socket:NAME."
        ),
    ] = None,
    admin_socket: Annotated[
        Path | None, typer.Option(metavar="PATH", parser=given_path, help="The admin socket (0600).")
    ] = None,
    config_dir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", parser=given_path, help="Run a routing server, too, with this configuration."),
    ] = None,
    config: ConfigFile = None,
    log_format: Annotated[LogFormat | None, typer.Option(help="How to log, to standard error.")] = None,
    abandon_keys: Annotated[
        bool,
        typer.Option(
            "--abandon-keys", help="Go on without the keys of all active authorities: they are gone for good."
        ),
    ] = False,
) -> None:
    """Run server and agent in one process."""
    from meshca.cli.config import read
    from meshca.wiring import run_up

    flags = {
        "trust_domain": trust_domain,
        "data_dir": data_dir,
        "socket": socket,
        "admin_socket": admin_socket,
        "config_dir": config_dir,
        "log_format": log_format,
    }
    run_up(lambda: read(config, **flags), abandon_keys=abandon_keys)


@app.command()
def demo(
    *,
    seconds: Annotated[float, typer.Option(min=1, help="How long the load runs.")] = 30,
    json: Annotated[bool, typer.Option("--json", help="No live view; the last line is one JSON object.")] = False,
) -> None:
    """Show the main job on real Envoys: routes, faults, breakers and policies at work while every key is replaced."""
    from meshca.demo.app import main

    code = main(seconds=seconds, as_json=json)
    if code:
        raise Failure(Exit.FAILED)


@app.command()
def status(*, socket: AdminSocket = "", output: Output = Format.TABLE) -> None:
    """Show how the server is: readiness, alarms, authorities, who is behind."""
    from meshca.cli.output import document, emit

    found = _status(socket)
    emit(document(found), output, lambda: _status_tables(found))


@app.command()
def health(*, socket: AdminSocket = "", output: Output = Format.TABLE) -> None:
    """Say whether the server can sign and serve: exit 0 or 1."""
    from meshca.cli.output import document, emit, facts

    try:
        found = _status(socket, within=HEALTH_WITHIN)
    except Failure as failure:
        raise Failure(Exit.FAILED, str(failure)) from failure
    checks = [document(check) for check in found.checks]
    verdict = {"ready": found.ready, "checks": checks, "alarms": list(found.alarms)}
    emit(
        verdict,
        output,
        lambda: [
            "ready" if found.ready else "not ready",
            *_alarms(found),
            facts((c.name, f"{'ok' if c.healthy else 'FAILS'}  {c.text}") for c in found.checks),
        ],
    )
    if not found.ready:
        raise Failure(Exit.FAILED)


@app.command()
def why(
    *,
    pid: Annotated[int, typer.Option(min=1, help="The process that asks for its SVID.")],
    socket: AdminSocket = "",
    output: Output = Format.TABLE,
) -> None:
    """Explain what a process gets, and why not more. Exit 1 if it gets nothing."""
    from meshca.cli.output import document, emit
    from meshca.cli.session import ask
    from meshca.proto import admin_pb2 as pb

    found: pb.WhyResponse = ask(socket, lambda server: server.status.Why(pb.WhyRequest(pid=pid)))
    emit(document(found), output, lambda: _why_tables(found))
    if not found.granted:
        raise Failure(Exit.FAILED)


def _status(socket: str, within: float = 60.0) -> "pb.StatusResponse":
    from meshca.cli.session import ask
    from meshca.proto import admin_pb2 as pb

    found: pb.StatusResponse = ask(socket, lambda server: server.status.Status(pb.Empty()), within=within)
    return found


def _alarms(found: "pb.StatusResponse") -> list[RenderableType]:
    from meshca.cli.values import printable

    return [f"ALARM: {printable(alarm)}" for alarm in found.alarms]


def _status_tables(found: "pb.StatusResponse") -> list[RenderableType]:
    from meshca.cli.authority import authority_tables
    from meshca.cli.output import facts, left, rows

    tables: list[RenderableType] = _alarms(found)
    tables.append(
        facts(
            [
                ("trust domain", found.trust_domain),
                ("ready", found.ready),
                ("version", found.version),
                ("started", found.started_at),
                ("roots", len(found.bundle.x509_authorities)),
                ("bundle", found.bundle.digest[:16]),
                ("entries", found.entries),
                ("streams", found.streams),
                ("holders", f"{found.holders}, {len(found.behind)} behind"),
                ("audit head", found.audit_head),
                ("sockets", [f"{name}={path}" for name, path in sorted(found.sockets.items())]),
                ("failing checks", [f"{check.name}: {check.text}" for check in found.checks if not check.healthy]),
            ]
        )
    )
    tables += ["", *authority_tables(found.authorities)]
    if found.behind:
        cells = (
            (h.name, list(h.spiffe_ids), h.bundle[:16] or "unknown", h.since, left(h.expires)) for h in found.behind
        )
        tables += ["", rows(["BEHIND", "SPIFFE IDS", "HOLDS BUNDLE", "SINCE", "EXPIRES IN"], cells)]
    return tables


def _why_tables(found: "pb.WhyResponse") -> list[RenderableType]:
    from meshca.cli.entry import entry_rows
    from meshca.cli.output import facts, rows
    from meshca.cli.values import printable

    tables: list[RenderableType] = [printable(found.verdict), ""]
    tables.append(
        facts(
            [
                ("caller", found.caller),
                ("selectors", list(found.selectors)),
                ("remarks", list(found.remarks)),
                ("holds", list(found.holds)),
            ]
        )
    )
    if found.granted:
        tables += ["", "gets", entry_rows(found.granted)]
    if found.near_misses:
        cells = ((n.entry.id, n.entry.spiffe_id, list(n.missing)) for n in found.near_misses)
        tables += ["", "nearly", rows(["ID", "SPIFFE ID", "MISSING SELECTORS"], cells)]
    return tables
