"""Options that several commands share. Loads neither grpc nor protobuf."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Format(StrEnum):
    """What `--output` takes."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


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
ConfigFile = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="The configuration file (TOML).")]
DataDir = Annotated[
    Path | None, typer.Option("--data-dir", metavar="DIR", help="Where the server keeps keys and store.")
]
