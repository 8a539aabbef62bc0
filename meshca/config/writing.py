"""Settings as text: the TOML that `meshca config show` prints, and the reference in docs/configuration.md. Secrets are never written."""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from meshca.config.reading import ENVIRONMENT
from meshca.config.sections import Section, Socket, extra, is_reloaded
from meshca.config.settings import Config
from meshca.config.values import key_written, written

_INTRODUCTION = """\
# Configuration

Generated from `meshca/config/` by `python -m meshca.config > docs/configuration.md`; a test compares.

`meshca up` needs no configuration. What it is told counts in this order, setting by setting: a flag, the file of `--config` (TOML), the
environment, the default. A flag was typed just now and is meant; a file that was reviewed is not bent by a variable left in a shell.
A `--socket NAME=PATH[,mode=0660][,group=GROUP]` is added to the sockets of the file, and replaces the one of its name.

- `meshca config check --config FILE` says everything that is wrong, at once. `meshca config show` prints every setting, defaults included.
- Durations are written `"90s"`, `"15m"`, `"1h30m"`, `"365d"`; also `w`, `ms`, `us`. File permissions are written `"0660"`, in quotes.
- Paths are absolute in the file; those of flags are meant from the working directory.
- Unknown keys are refused, and so are settings that contradict each other: `intermediate_lifetime` is at least three leaf lifetimes,
  `root_lifetime` at least an intermediate's and two leaf lifetimes more, `settle` is shorter than a leaf's life; keys in memory need a
  store in memory; no two sockets have one path.
- SIGHUP reads the file again and applies the settings marked ↻. The others need a restart, and the log names them if they changed.
"""


def render_toml(config: Config) -> str:
    """The whole configuration as a TOML document that says the same, but for secrets, which are not shown."""
    return "\n".join(_table(config, "")).lstrip("\n") + "\n"


def reference() -> str:
    """All settings as Markdown."""
    tables = {f"[{name}]": model for name, model in _sections()}
    lines = [_INTRODUCTION, "## Top level", "", *_rows(Config)]
    for name, model in tables.items():
        lines += ["", f"## `{name}`", "", (model.__doc__ or "").partition(": ")[2].capitalize(), "", *_rows(model)]
    return "\n".join([*lines, "", *_environment_rows()]) + "\n"


def _table(section: Section, prefix: str) -> Iterator[str]:
    """The lines of a table, its plain values before the tables in it, since TOML has no way back."""
    values = {name: getattr(section, name) for name in type(section).model_fields}
    yield from (
        _setting(name, value)
        for name, value in values.items()
        if not isinstance(value, Section | dict) and value is not None
    )
    for name, value in values.items():
        inner = (
            {f"{name}.{key_written(key)}": each for key, each in value.items()}
            if isinstance(value, dict)
            else {name: value}
        )
        for title, each in inner.items():
            if isinstance(each, Section):
                yield from ("", f"[{prefix}{title}]", *_table(each, f"{prefix}{title}."))


def _setting(name: str, value: Any) -> str:
    if isinstance(value, SecretStr):
        return f"# {name} is set and not shown"
    return f"{name} = {written(f'{value:04o}') if name == 'mode' else written(value)}"


def _sections() -> Iterator[tuple[str, type[BaseModel]]]:
    for name, field in Config.model_fields.items():
        if name == "sockets":
            yield "sockets.NAME", Socket
        elif isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield name, field.annotation


def _rows(model: type[BaseModel]) -> Iterator[str]:
    yield from ("| setting | default | what, and why |", "|---|---|---|")
    for name, field in model.model_fields.items():
        if field.description:
            mark = " ↻" if is_reloaded(field) else ""
            yield f"| `{name}`{mark} | {_default(name, field)} | {field.description} |"


def _default(name: str, field: FieldInfo) -> str:
    if field.is_required():
        return str(extra(field).get("default", "none: it must be given"))
    if field.default is None or field.default is PydanticUndefined:
        return "not set"
    return f"`{_setting(name, field.default).partition(' = ')[2]}`"


def _environment_rows() -> Iterator[str]:
    yield from ("## Environment", "", "| variable | setting |", "|---|---|")
    yield from (f"| `{variable}` | `{'.'.join(key)}` |" for variable, key in ENVIRONMENT.items())
