"""`meshca config`: check and show what the server would run with."""

import os
from typing import Any

import typer

from meshca import config
from meshca.cli.options import ConfigFile, DataDir
from meshca.cli.output import remark

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.command()
def check(*, file: ConfigFile = None) -> None:
    """Say everything that is wrong with a configuration file, at once."""
    read(file)
    remark("the configuration is good")


@app.command()
def show(*, file: ConfigFile = None, data_dir: DataDir = None) -> None:
    """Print the whole configuration, defaults included, as TOML."""
    typer.echo(config.render_toml(read(file, data_dir=data_dir)), nl=False)


def read(file: Any, **flags: Any) -> config.Config:
    """The configuration of the file, with flags in place of what it says. Raises InvalidInput, CannotStart."""
    given = {name: value for name, value in flags.items() if value not in (None, [])}
    return config.load(file, given, os.environ, os.geteuid())
