"""From file, flags and environment to a Config, or to all that is wrong with them at once.

Rules:
- A flag counts more than the file, the file more than the environment, that more than the default: what somebody typed just now is meant,
  and a file that is reviewed is not bent by a variable left in a shell. Setting by setting; a whole socket at a time.
- Each error names where the value came from, its key, the value, and what is allowed. Values that may be secret are not repeated.
"""

import tomllib
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from meshca.config.places import ADMIN, WORKLOAD, data_directory, runtime_directory
from meshca.config.sections import Section, Socket
from meshca.config.settings import Config, KeyPath, Problem
from meshca.config.values import key_path_written, parse_socket_flag, written
from meshca.errors import CannotStart, InvalidInput

FLAGS: Mapping[str, KeyPath] = {
    "trust_domain": ("trust_domain",),
    "data_dir": ("data_dir",),
    "admin_socket": ("admin_socket",),
    "config_dir": ("router", "config_dir"),
    "log_format": ("log", "format"),
    "log_level": ("log", "level"),
}
"""Flags of `meshca up` that stand for one setting; `socket` is the other one, a list of `NAME=PATH`."""

ENVIRONMENT: Mapping[str, KeyPath] = {
    "MESHCA_TRUST_DOMAIN": ("trust_domain",),
    "MESHCA_DATA_DIR": ("data_dir",),
    "MESHCA_ADMIN_SOCKET": ("admin_socket",),
    "MESHCA_LOG_FORMAT": ("log", "format"),
    "MESHCA_LOG_LEVEL": ("log", "level"),
    "MESHCA_STORE_URL": ("store", "url"),
}

_SECRET = {("store",), ("store", "url"), ("key_manager",), ("key_manager", "passphrase_env")}
_TABLES = {"sockets"} | {
    name
    for name, field in Config.model_fields.items()
    if isinstance(field.get_default(call_default_factory=True), Section)
}
_PATH_FLAGS = {"data_dir", "admin_socket", "config_dir"}
_MOST_FILE_BYTES = 1024 * 1024
_MOST_SHOWN = 200
_TYPES = {
    "string_type": "is not a text in quotes",
    "bool_type": "is not true or false",
    "int_type": "is not a whole number",
    "tuple_type": "is not a list, such as [1000, 1001]",
    "dict_type": "is not a table",
    "model_type": "is not a table",
    "string_too_short": "is empty",
    "too_short": "is empty: at least one is needed",
    "missing": "is missing",
    "string_pattern_mismatch": "is not a name of 1 to 64 letters, digits, . _ and -",
}


class Said(NamedTuple):
    """A value and who said it."""

    value: Any
    source: str


def load(path: Path | None, overrides: Mapping[str, Any], environ: Mapping[str, str], uid: int) -> Config:
    """Read the configuration of a server that runs as `uid`.

    `overrides` are flags of `meshca up` by name. Relative paths in them are meant from where we are.
    Raises InvalidInput with everything that is wrong, a line each, and CannotStart when the file can not be read.
    """
    file = _flat(_document(path), str(path)) if path else {}
    given = _environment(environ) | file | _flags(overrides)
    said = _defaults(environ, uid, given) | given
    config, problems = _validate(said)
    if config is None:  # what contradicts each other shows only once each value is good: so leave out what is not
        blamed = {_place(key, said) for problem in problems for key in problem.keys}
        rest = {key: each for key, each in given.items() if key not in blamed}
        _, more = _validate(_defaults(environ, uid, rest) | rest)
        problems += [each for each in more if not any(_place(key, said) in blamed - {()} for key in each.keys)]
        raise InvalidInput(_report(problems, said))
    return config


def _document(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_FILE_BYTES + 1)
        if len(text) > _MOST_FILE_BYTES:
            raise InvalidInput(f"{path}: has more than {_MOST_FILE_BYTES} bytes, which no configuration needs")
        return tomllib.loads(text.decode())
    except OSError as error:
        raise CannotStart(f"configuration file {path} can not be read: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"{path}: is not TOML: {error}") from error


def _flat(document: Mapping[str, Any], source: str) -> dict[KeyPath, Said]:
    """The settings of a document by key path: a top-level value, or a value of a table that we know and that is not empty."""
    found: dict[KeyPath, Said] = {}
    for key, value in document.items():
        if key in _TABLES and isinstance(value, dict) and value:
            found |= {(key, inner): Said(each, source) for inner, each in value.items()}
        else:
            found[key,] = Said(value, source)
    return found


def _flags(overrides: Mapping[str, Any]) -> dict[KeyPath, Said]:
    found: dict[KeyPath, Said] = {}
    for flag, value in overrides.items():
        if flag == "socket":
            found |= _socket_flags(value)
        else:
            text = str(Path(value).absolute()) if flag in _PATH_FLAGS else str(value)
            found[FLAGS[flag]] = Said(text, f"--{flag.replace('_', '-')}")
    return found


def _socket_flags(flags: list[str]) -> dict[KeyPath, Said]:
    found: dict[KeyPath, Said] = {}
    wrong: list[str] = []
    for flag in flags:
        try:
            name, table = parse_socket_flag(flag)
        except InvalidInput as error:
            wrong.append(str(error))
            continue
        if ("sockets", name) in found:
            wrong.append(f"--socket: the name {name!r} is given twice")
        found["sockets", name] = Said(table, "--socket")
    if wrong:
        raise InvalidInput("\n  ".join(wrong))
    return found


def _environment(environ: Mapping[str, str]) -> dict[KeyPath, Said]:
    return {key: Said(environ[name], name) for name, key in ENVIRONMENT.items() if environ.get(name)}


def _defaults(environ: Mapping[str, str], uid: int, given: Mapping[KeyPath, Said]) -> dict[KeyPath, Said]:
    """The defaults that depend on the user, of what is not given: so whoever says all needs no HOME."""
    found: dict[KeyPath, Said] = {}
    if ("data_dir",) not in given:
        found["data_dir",] = Said(str(data_directory(environ, uid)), "default")
    if ("admin_socket",) not in given:
        found["admin_socket",] = Said(str(runtime_directory(environ, uid) / ADMIN), "default")
    if not any(key[0] == "sockets" for key in given):
        found["sockets", "default"] = Said({"path": str(runtime_directory(environ, uid) / WORKLOAD)}, "default")
    return found


def _validate(said: Mapping[KeyPath, Said]) -> tuple[Config | None, list[Problem]]:
    try:
        return Config.model_validate(_nested(said)), []
    except ValidationError as error:
        return None, [problem for each in error.errors(include_url=False) for problem in _problems(each)]


def _nested(said: Mapping[KeyPath, Said]) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for (key, *inner), each in said.items():
        if not inner:
            document[key] = each.value
        elif isinstance(document.get(key), dict):
            document[key] = {**document[key], inner[0]: each.value}
        else:
            document[key] = {inner[0]: each.value}
    return document


def _problems(error: ErrorDetails) -> Iterator[Problem]:
    if error["type"] == "relations":
        yield from error["ctx"]["found"]
    else:
        key = tuple(str(part) for part in error["loc"] if part != "[key]")
        yield Problem((key,), _wrong(error, key))


def _wrong(error: ErrorDetails, key: KeyPath) -> str:
    context = error.get("ctx", {})
    match error["type"]:
        case "extra_forbidden":
            return f"is no setting{_meant(key)}"
        case "value_error":
            return str(context["error"])
        case "literal_error" | "enum":
            return f"is not {context['expected']}"
        case "greater_than_equal":
            return f"is less than {context['ge']}"
        case "less_than_equal":
            return f"is more than {context['le']}"
        case other:
            return _TYPES.get(other, error["msg"])


def _meant(key: KeyPath) -> str:
    """The settings that may have been meant by an unknown key."""
    fields = _fields(key)
    close = get_close_matches(key[-1], fields, n=1)
    return f": did you mean {close[0]}?" if close else f": there are {', '.join(fields)}"


def _fields(key: KeyPath) -> list[str]:
    """What the table that the key is in has."""
    model: type[BaseModel] = Config
    for part in key[:-1]:
        if part in model.model_fields:
            inner = model.model_fields[part].annotation
            model = inner if isinstance(inner, type) and issubclass(inner, BaseModel) else Socket
    return list(model.model_fields)


def _report(problems: list[Problem], said: Mapping[KeyPath, Said]) -> str:
    lines = [_line(problem, said) for problem in problems]
    return "\n  ".join([f"{len(lines)} error{'s' * (len(lines) != 1)} in the configuration:", *lines])


def _line(problem: Problem, said: Mapping[KeyPath, Said]) -> str:
    """Where it comes from (of a default: what contradicts it), the key, its value and what is wrong."""
    sources = [said[place].source for place in map(partial(_place, said=said), problem.keys) if place]
    source = next((each for each in sources if each != "default"), "default")
    return f"{source}: {key_path_written(problem.keys[0])}{_shown(problem, said)} {problem.text}"


def _place(key: KeyPath, said: Mapping[KeyPath, Said]) -> KeyPath:
    """The part of a key path that something was said of; () where the default stands."""
    return next((key[:length] for length in (2, 1) if key[:length] in said), ())


def _shown(problem: Problem, said: Mapping[KeyPath, Said]) -> str:
    key = problem.keys[0]
    place = _place(key, said)
    if key in _SECRET:
        return " (not shown)"
    if problem.text.startswith(("is no setting", "is missing")):
        return ""
    if not place:
        return f" = {written(_default(key))} (default)"
    return f" = {written(_inside(said[place].value, key[len(place) :]))[:_MOST_SHOWN]}"


def _inside(value: Any, key: KeyPath) -> Any:
    for part in key:
        value = value[int(part)] if isinstance(value, list) else value[part]
    return value


def _default(key: KeyPath) -> Any:
    table = Config.model_fields[key[0]].get_default(call_default_factory=True)
    return getattr(table, key[1])
