"""What the commands about routes have in common: their options, and the directory of configuration as it is read."""

# ruff: noqa: PLC0415 - help loads none of it

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

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
    """All that the directory says. Raises what `check_directory` raises."""
    from meshca.router.directory import check_directory, read
    from meshca.router.mesh.state import State
    from meshca.router.parsing.kinds import Parser
    from meshca.router.resources.worlds import understood

    check_directory(directory)
    return understood(State(), read(directory), Parser(own), domain)
