"""What the commands about routes have in common: their options, and the directory of configuration as it is read."""

# ruff: noqa: PLC0415 - help loads none of it

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from meshca.cli.exits import Exit, Failure
from meshca.errors import InvalidInput
from spiffe.id import TrustDomain

if TYPE_CHECKING:
    from meshca.router.mesh.state import State

Domain = Annotated[
    str, typer.Option(help="What the short name of a service stands for ends in: NAME.NAMESPACE.svc.DOMAIN.")
]


StatusSocket = Annotated[
    str,
    typer.Option(
        "--status-socket",
        metavar="PATH",
        help="Where the router tells how it is; the default is where the router of this user makes it.",
        show_default=False,
    ),
]


def read_state(directory: Path, own: TrustDomain, domain: str) -> "State":
    """All that the directory says. Raises Failure when it is not there, InvalidInput when it is a file."""
    from meshca.router.directory import read
    from meshca.router.mesh.state import State
    from meshca.router.parsing.kinds import Parser
    from meshca.router.resources.worlds import understood

    if directory.exists() and not directory.is_dir():
        raise InvalidInput(f"{directory}: is a file: name the directory that it is in")
    if not directory.is_dir():
        raise Failure(Exit.NOT_FOUND, f"{directory}: there is no such directory")
    return understood(State(), read(directory), Parser(own), domain)
