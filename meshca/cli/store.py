"""`meshca store`: backup of a running server, restore of a stopped one."""

from pathlib import Path
from typing import Annotated

import typer

from meshca.cli.exits import Exit, Failure
from meshca.cli.options import AdminSocket, ConfigFile, DataDir, Format, Output, default_admin_socket
from meshca.cli.output import document, emit, facts, remark
from meshca.cli.session import ask
from meshca.client import NO_SERVER, CallFailed, probe
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
    socket: AdminSocket = "",
) -> None:
    """Put a backup in place of the store of a stopped server. What was there is kept beside it."""
    from meshca.cli.config import read  # noqa: PLC0415 - only a restore needs the configuration
    from meshca.wiring import restore_store  # noqa: PLC0415 - and loads the server

    if _lives(socket or default_admin_socket()):
        raise Failure(Exit.FAILED, "a meshca server is running on this data: stop it first, then restore")
    kept = restore_store(read(config, data_dir=data_dir, admin_socket=socket), path)
    remark(f"restored from {path}; what was there is now {kept}" if kept else f"restored from {path}")


def _lives(socket: str) -> bool:
    try:
        probe(socket)
    except CallFailed as error:
        return error.status != NO_SERVER
    return True
