"""How single values are written: durations, modes, paths, addresses, `NAME=PATH` flags. Pure.

Each parser raises ValueError with what is wrong and what is allowed; the value and its key are named by whoever knows them.
"""

import json
import re
from collections.abc import Callable, Iterable
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from meshca.errors import InvalidInput
from sds.errors import SDSError
from sds.unix_socket import check_path
from spiffe.errors import InvalidID
from spiffe.id import TrustDomain

MICROSECOND, MILLISECOND, MINUTE = timedelta(microseconds=1), timedelta(milliseconds=1), timedelta(minutes=1)
LONGEST = timedelta(days=36500)

_UNITS = {
    "w": timedelta(weeks=1),
    "d": timedelta(days=1),
    "h": timedelta(hours=1),
    "m": MINUTE,
    "s": timedelta(seconds=1),
    "ms": MILLISECOND,
    "us": MICROSECOND,
}
_DURATION = re.compile("".join(rf"(?:(?P<{unit}>[0-9]{{1,12}}){unit})?" for unit in _UNITS))
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_MODE = re.compile(r"0?[0-7]{3}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_SOCKET_OPTIONS = ("mode", "group")


def parse_duration(text: str) -> timedelta:
    """Read `90s`, `15m`, `1h30m`, `365d`, `200ms`; units fall from w, d, h, m, s, ms to us. Raises ValueError; a century is the limit."""
    found = _DURATION.fullmatch(text)
    if not text or not found:
        raise ValueError("is not a duration: write 90s, 15m, 24h or 365d, in quotes")
    counts = {unit: int(count) for unit, count in found.groupdict(default="0").items()}
    if sum(_UNITS[unit] / _UNITS["d"] * count for unit, count in counts.items()) > LONGEST.days:
        raise ValueError(f"is longer than {LONGEST.days}d")
    return sum((_UNITS[unit] * count for unit, count in counts.items()), timedelta())


def format_duration(value: timedelta) -> str:
    """Write a duration that is not negative as `parse_duration` reads it, without weeks: `365d`, `1h30m`."""
    words, left = [], value
    for unit, size in _UNITS.items():
        if unit != "w":
            count, left = divmod(left, size)
            words += [f"{count}{unit}"] if count else []
    return "".join(words) or "0s"


def written(value: Any) -> str:
    """A value as TOML, of a setting or of a document."""
    match value:
        case bool():
            return str(value).lower()
        case timedelta():
            return _quoted(format_duration(value))
        case str() | Path() | TrustDomain():
            return _quoted(str(value))
        case list() | tuple():
            return f"[{', '.join(map(written, value))}]"
        case dict():
            return f"{{{', '.join(f'{key_written(key)} = {written(each)}' for key, each in value.items())}}}"
        case _:
            return str(value)


def key_written(name: str) -> str:
    """A key as TOML."""
    return name if _BARE_KEY.fullmatch(name) else _quoted(name)


def key_path_written(path: Iterable[str]) -> str:
    """A path of keys as TOML."""
    return ".".join(map(key_written, path))


def parse_socket_flag(text: str) -> tuple[str, dict[str, str]]:
    """Read `NAME=PATH[,mode=0660][,group=G]` into the name and the table that a file would have. Raises InvalidInput."""
    name, equals, rest = text.partition("=")
    path, *options = rest.split(",")
    if not (name and equals and path):
        raise InvalidInput(f"--socket {text!r} is not written NAME=PATH[,mode=0660][,group=GROUP]")
    table = {"path": str(Path(path).absolute())}
    for option in options:
        key, equals, value = option.partition("=")
        if key not in _SOCKET_OPTIONS or not value or key in table:
            raise InvalidInput(f"--socket {text!r}: {option!r} is not one mode=0660 or group=GROUP")
        table[key] = value
    return name, table


def duration(value: Any) -> timedelta:
    """A duration from text."""
    return value if isinstance(value, timedelta) else parse_duration(_text(value, 'a text such as "15m"'))


def within(least: timedelta, most: timedelta) -> Callable[[timedelta], timedelta]:
    """A check that a duration is neither less nor more."""

    def check(value: timedelta) -> timedelta:
        if not least <= value <= most:
            raise ValueError(f"is not within {format_duration(least)} to {format_duration(most)}")
        return value

    return check


def trust_domain(value: Any) -> TrustDomain:
    """A trust domain from its name."""
    if isinstance(value, TrustDomain):
        return value
    try:
        return TrustDomain(_text(value, 'a name such as "mesh.local"'))
    except InvalidID as error:
        raise ValueError(f"is no trust domain: {error}") from error


def mode(value: Any) -> int:
    """File permissions from text: as a TOML number, 660 would be decimal and mean something else."""
    if not _MODE.fullmatch(_text(value, 'octal digits in quotes, such as "0660"')):
        raise ValueError('is not within "0000" to "0777"')
    return int(value, 8)


def path(value: Any) -> Path:
    """An absolute path: the working directory of a service is nobody's intention."""
    found = value if isinstance(value, Path) else Path(_text(value, "a path in quotes"))
    if not found.is_absolute() or "\0" in str(found):
        raise ValueError("is not an absolute path")
    return found


def socket_path(value: Any) -> Path:
    """A path that a Unix socket can have."""
    found = path(value)
    try:
        check_path(found)
    except SDSError as error:
        raise ValueError(f"can not be: {error}") from error
    return found


def address(value: Any) -> str:
    """An IP address."""
    try:
        return str(ip_address(_text(value, 'an IP address in quotes, such as "127.0.0.1"')))
    except ValueError as error:
        raise ValueError('is not an IP address such as "127.0.0.1", "0.0.0.0" or "::"') from error


def variable(value: Any) -> str:
    """The name of an environment variable."""
    if not _VARIABLE.fullmatch(_text(value, "a name in quotes")):
        raise ValueError(
            "is not the name of an environment variable (letters, digits, _); the passphrase does not belong here"
        )
    return str(value)


def _text(value: Any, wanted: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"is not {wanted}")  # noqa: TRY004 - pydantic collects only ValueError
    return value


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
