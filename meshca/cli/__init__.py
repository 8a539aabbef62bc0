"""The command line: one table of commands, each loaded when it is asked for.

Rules:
- `meshca --help` loads neither grpc nor sqlalchemy: help comes from the table, a command's module is imported when the command runs.
- An error that somebody could foresee ends in one line that says what to do, and in an exit code of `meshca.cli.exits`.
"""

import os
import sys
from importlib import import_module, metadata
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from meshca.cli.exits import Exit, failure_of
from meshca.cli.values import printable

# Name, module, what it does. Commands in `run` are plain commands, each other module is a group of them.
COMMANDS = (
    ("up", "run", "Run server and agent in one process."),
    (
        "demo",
        "run",
        "Show the main job on real Envoys: routes, faults, breakers and policies at work while every key is replaced.",
    ),
    ("status", "run", "Show how the server is: readiness, alarms, authorities, who is behind."),
    ("health", "run", "Say whether the server can sign and serve: exit 0 or 1."),
    ("why", "run", "Explain what a process gets, and why not more."),
    ("entry", "entry", "Registration entries: which callers get which SPIFFE ID."),
    ("bundle", "bundle", "Trust bundles: show, move and compare them."),
    ("svid", "svid", "X.509-SVIDs: mint, fetch, look at and verify them."),
    ("authority", "authority", "Signing keys: list, rotate, taint and revoke them."),
    ("audit", "audit", "The issuance record: find, verify, export and prune it."),
    ("store", "store", "Back up and restore the server's store."),
    ("config", "config", "Check and show the configuration."),
    ("router", "router", "Routes in terms of identities: serve them to proxies, and check them before."),
    ("canary", "canary", "Guarded canaries: more and more requests for a new version, as long as they do not fail."),
    ("envoy", "envoy", "Write Envoy configuration that takes its certificates from our socket."),
    ("grpc", "grpc_bootstrap", "Write gRPC's xDS bootstrap: routes from the router, certificates from files."),
    (
        "capture",
        "capture",
        "Print, apply or remove the nftables rules that bring an application's connections to its Envoy.",
    ),
)
_PLAIN = "run"
_MODULES = {name: module for name, module, _ in COMMANDS}


class LazyGroup(TyperGroup):
    """A group that shows its table, and imports a command when it is to run or to be completed."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = {name: TyperCommand(name=name, help=text) for name, _, text in COMMANDS}

    def invoke(self, ctx: Any) -> Any:
        """Run the command, and flush while it can still be said that the reader has left; see TyperGroup."""
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            error.message = error.message.removeprefix("Value error, ")  # pydantic's, by which typer reads choices
            raise
        finally:
            sys.stdout.flush()

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The real command in place of the table's line; see TyperGroup."""
        name, _, rest = super().resolve_command(ctx, args)
        return name, load(str(name)), rest


def load(name: str) -> Any:
    """Import a command of the table."""
    module = import_module(f"meshca.cli.{_MODULES[name]}")
    command: Any = get_command(module.app)
    if _MODULES[name] == _PLAIN:
        return command.commands[name]
    command.name = name
    if isinstance(command, TyperGroup):
        command.help = next(text for each, _, text in COMMANDS if each == name)
    return command


app = typer.Typer(
    name="meshca",
    cls=LazyGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:  # noqa: FBT001 - typer calls it
    if wanted:
        typer.echo(f"meshca {metadata.version('meshca')}")
        raise typer.Exit


@app.callback()
def meshca(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """A standalone certificate authority: SPIFFE X.509-SVIDs for workloads, over Envoy SDS and the Workload API."""


def main(arguments: list[str] | None = None) -> None:
    """Run a command line (else the process's own). Ends with SystemExit and a code of `meshca.cli.exits`."""
    _reopen_closed()
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its C core writes to standard error, past every log format
    try:
        app(arguments, prog_name="meshca")
    except KeyboardInterrupt:
        sys.exit(Exit.INTERRUPTED)
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # typer and rich keep quiet about it, and make a 1 of it
            sys.exit(Exit.UNREAD)
        raise
    except Exception as error:  # noqa: BLE001 - the one place where errors become exit codes
        _end(error)


def _reopen_closed() -> None:
    """A stream that was closed (`>&-`) is None for Python: let what goes there go nowhere."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 - it lives as long as we do


def _end(error: Exception) -> None:
    failure = failure_of(error)
    if failure is None:
        if os.environ.get("MESHCA_DEBUG"):
            raise error
        typer.echo(f"error: a bug: {type(error).__name__}: {error} (MESHCA_DEBUG=1 shows where)", err=True)
        sys.exit(Exit.INTERNAL)
    if str(failure):
        typer.echo(f"error: {printable(str(failure))}", err=True)
    sys.exit(failure.code)
