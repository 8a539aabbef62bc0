"""`meshca store`: backup of a running server, restore of a stopped one."""

import os
from pathlib import Path
from typing import Annotated

import typer

from meshca.cli.exits import Exit, Failure
from meshca.cli.new_file import new_file
from meshca.cli.options import AdminSocket, ConfigFile, DataDir, Format, Output
from meshca.cli.output import emit, facts, remark
from meshca.cli.session import ask
from meshca.client import NO_SERVER, AdminClient, CallFailed, probe
from meshca.errors import AlreadyExists, InvalidInput, NotFound
from meshca.proto import admin_pb2 as pb

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.command()
def backup(
    path: Annotated[Path, typer.Argument(help="A new file (0600).")],
    *,
    socket: AdminSocket = "",
    output: Output = Format.TABLE,
) -> None:
    """Copy the store of the running server to a file. Keys are not in it: back up the data directory's keys beside it."""

    async def work(server: AdminClient) -> int:
        with new_file(path) as file:
            async for part in server.status.Backup(pb.Empty()):
                file.write(part.content)
            return file.tell()

    _check_free(path)
    made = {"path": str(path.absolute()), "bytes": ask(socket, work, within=None)}
    emit(made, output, lambda: facts(list(made.items())))


def _check_free(path: Path) -> None:
    """Also of what SQLite keeps beside a database: left over from another one, it would be replayed into the copy."""
    if not path.parent.is_dir():
        raise InvalidInput(f"{path.parent} is no directory: make it first")
    for each in (path.with_name(path.name + suffix) for suffix in ("", "-wal", "-shm", "-journal")):
        if os.path.lexists(each):
            raise AlreadyExists(f"{each} is there already and is not overwritten", str(each))


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
