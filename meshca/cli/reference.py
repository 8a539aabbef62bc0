"""Writes docs/cli.md from the commands themselves: `python -m meshca.cli.reference > docs/cli.md`."""

from collections.abc import Iterator
from typing import Any

from typer.main import get_command

from meshca.cli import COMMANDS, app, load
from meshca.cli.exits import OF_STATUS, Exit

REGENERATE = "python -m meshca.cli.reference > docs/cli.md"

_HEAD = f"""# Command line

Made from the commands themselves: `{REGENERATE}`.

Results go to standard output, everything else to standard error.
`--output json` and `yaml` are for scripts: field names of the admin API, times in RFC 3339 UTC, durations in seconds,
certificates in PEM, null for what is absent; lists are objects with one named list, streams are one object a line.
Durations are written `90s`, `15m`, `1h30m`, `2d` or `1w`; times `2026-11-24T02:00:00Z`. `meshca --install-completion`
completes commands and options in your shell.
"""


def reference() -> str:
    """The whole reference as Markdown."""
    return "\n".join([_HEAD, *_exits(), *_environment(), *_commands()])


def _exits() -> list[str]:
    statuses = {code: [f"`{name}`" for name, (each, _) in OF_STATUS.items() if each is code] for code in Exit}
    rows = [f"| {code.value} | {code.meaning} | {', '.join(statuses[code])} |" for code in Exit]
    return ["## Exit codes", "", "| code | meaning | gRPC status |", "|---|---|---|", *rows, ""]


def _environment() -> list[str]:
    return [
        "## Environment",
        "",
        "| variable | meaning |",
        "|---|---|",
        "| `MESHCA_ADMIN_SOCKET` | the server's admin socket, in place of `--admin-socket` |",
        "| `SPIFFE_ENDPOINT_SOCKET` | the workload socket, a path or `unix:///path` |",
        "| `MESHCA_DEBUG` | show where a bug is, with a traceback |",
        "",
    ]


def _commands() -> Iterator[str]:
    yield "## Commands\n"
    yield from _options(get_command(app))
    for name, _, _ in COMMANDS:
        yield from _command(f"meshca {name}", load(name))


def _command(path: str, command: Any) -> Iterator[str]:
    children = getattr(command, "commands", {})
    arguments = " ".join(_argument(each) for each in command.params if each.param_type_name == "argument")
    yield f"### `{path}{' ' + arguments if arguments else ''}`\n"
    yield f"{' '.join(command.help.split())}\n"
    yield from _options(command)
    for name, child in children.items():
        yield from _command(f"{path} {name}", child)


def _argument(argument: Any) -> str:
    return str(argument.metavar or argument.name.upper())


def _options(command: Any) -> Iterator[str]:
    rows = [_option(each) for each in command.params if each.name != "help" and not each.hidden]
    if rows:
        yield from ["| option | default | meaning |", "|---|---|---|", *rows, ""]


def _option(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        names = f"`{_argument(parameter)}`"
    else:
        names = " ".join(f"`{name}`" for name in [*parameter.opts, *parameter.secondary_opts])
        names += f" {parameter.metavar}" if parameter.metavar else ""
    choices = ", ".join(f"`{getattr(each, 'value', each)}`" for each in parameter.type_descriptor.choices or ())
    values = f" One of {choices}." if choices else ""
    return f"| {names} | {_default(parameter)} | {parameter.help}{values} |"


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    default = parameter.default
    if default is True:
        return f"`{parameter.opts[0]}`"
    if default is None or default == "" or default is False:
        return ""
    return f"`{getattr(default, 'value', default)}`"


if __name__ == "__main__":
    print(reference(), end="")  # noqa: T201 - that is its job
