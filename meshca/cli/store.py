"""`meshca store`: backup of a running server, restore of a stopped one."""

from pathlib import Path
from typing import Annotated

import typer

from meshca.cli.exits import Exit, Failure
from meshca.cli.options import AdminSocket, ConfigFile, DataDir, Format, Output
from meshca.cli.output import document, emit, facts, remark
from meshca.cli.session import ask
from meshca.client import NO_SERVER, CallFailed, probe
from meshca.errors import NotFound
from meshca.proto import admin_pb2 as pb

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.command()
def backup(
    path: Annotated[Path, typer.Argument(help="A new file, made by the server (0600).")],
    *,
    socket: AdminSocket = "",
    output: Output = Format.TABLE,
) -> None:
    """Copy the store of the running server to a file. Keys are not in it: back up the data directory's keys beside it."""
    request = pb.BackupRequest(path=str(path.absolute()))
    made: pb.BackupResponse = ask(socket, lambda server: server.status.Backup(request), within=None)
    emit(document(made), output, lambda: facts([("path", made.path), ("bytes", made.bytes)]))


@app.command()
def restore(
    path: Annotated[Path, typer.Argument(help="A file that `store backup` made.")],
    *,
    data_dir: DataDir = None,
    config: ConfigFile = None,
) -> None:
    """Put a backup in place of the store of a stopped server. What was there is kept beside it."""
    from meshca.cli.config import read  # noqa: PLC0415 - only a restore needs the configuration
    from meshca.wiring import restore_store  # noqa: PLC0415 - and loads the server

    if not path.exists():
        raise NotFound(f"there is no file {path}")
    settings = read(config, data_dir=data_dir)
    if is_served(str(settings.admin_socket)):
        raise Failure(Exit.FAILED, f"a meshca server answers at unix://{settings.admin_socket}: stop it first")
    kept = restore_store(settings, path)
    remark(f"restored from {path}; what was there is now {kept}" if kept else f"restored from {path}")


def is_served(socket: str) -> bool:
    """Whether anybody listens there, even one who does not let us in."""
    try:
        probe(socket)
    except CallFailed as error:
        return error.status != NO_SERVER
    return True
