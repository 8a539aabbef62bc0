"""Options that several commands share. Loads neither grpc nor protobuf."""

import ipaddress
import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from meshca.errors import InvalidInput
from sds.endpoint import Endpoint
from sds.errors import SDSError

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:", re.ASCII)  # what makes a URI of a text; all else is a path
MAX_PORT = 65535


class Format(StrEnum):
    """What `--output` takes."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


def given_path(text: str) -> Path:
    """A path that somebody typed. An empty one is an unset variable of a script: the working directory is not meant."""
    if not text:
        raise typer.BadParameter("the path is empty")
    return Path(text)


def given_address(text: str) -> str:
    """An IP address that somebody typed, in its shortest spelling. An empty one is an unset variable, and would stand for all."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError as error:
        raise typer.BadParameter(
            f"{text!r} is not an IP address: write that of an endpoint, such as 10.0.0.1"
        ) from error


def address_option(about: str) -> Any:
    """The option that says which of its workload's endpoints somebody is."""
    return typer.Option(parser=given_address, metavar="IP", help=about, show_default=False)


def refuse_idle(context: typer.Context, needed: Mapping[tuple[str, ...], Iterable[str]]) -> None:
    """Refuse what was given on the command line and does nothing without another option. Raises InvalidInput.

    `needed` maps the names of others, of which one is enough, to the names of those that need it.
    """
    for others, names in needed.items():
        idle = [_flag(name) for name in names if _is_given(context, name)]
        if idle and not any(context.params[name] for name in others):
            verb, wanted = "is" if len(idle) == 1 else "are", " or ".join(map(_flag, others))
            raise InvalidInput(f"{' and '.join(idle)} {verb} for {wanted}: give that, too, or leave it out")


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


Output = Annotated[Format, typer.Option("--output", "-o", help="How to print the result.")]
AdminSocket = Annotated[
    str,
    typer.Option(
        "--admin-socket",
        envvar="MESHCA_ADMIN_SOCKET",
        metavar="PATH",
        help="The server's admin socket; the default is where `meshca up` of this user makes it.",
        show_default=False,
    ),
]
WorkloadSocket = Annotated[
    str,
    typer.Option(
        "--socket",
        envvar="SPIFFE_ENDPOINT_SOCKET",
        metavar="PATH",
        help="The workload socket; the default is where `meshca up` of this user makes it.",
        show_default=False,
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", parser=given_path, help="The configuration file (TOML)."),
]
DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", metavar="DIR", parser=given_path, help="Where the server keeps keys and store."),
]


def default_admin_socket() -> str:
    """Where `meshca up` of this user makes its admin socket."""
    from meshca import config  # noqa: PLC0415 - loads pydantic, and only for the default

    return config.default_admin_socket()


def workload_endpoint(given: str) -> Endpoint:
    """The Workload API at a path or URI, by default where `meshca up` of this user makes it. Raises InvalidInput."""
    from meshca import config  # noqa: PLC0415 - same

    place = given or config.default_workload_socket()
    try:
        return Endpoint.parse(place) if _SCHEME.match(place) else Endpoint.at(Path(place).absolute())
    except SDSError as error:
        raise InvalidInput(str(error)) from error
