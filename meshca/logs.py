"""Structured logs on the standard library: one event a line, JSON for collectors or a console line for people.

Rules:
- An event is a short constant text; what varies goes into `extra` fields: `logger.info("issued", extra={"serial": serial})`.
- Nothing that a caller sent can start a new line, move a terminal's cursor, or stand for a field of ours.
- Whatever looks like a PEM private key is removed from every text, tracebacks included: the last net, into which nothing should ever fall.
"""

import json
import logging
import math
import re
import secrets
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

Format = Literal["console", "json"]

REMOVED = "[private key removed]"

_PRIVATE_KEY = re.compile(
    r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\Z)", re.DOTALL
)
_OWN = frozenset({*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"})
_FIRST = ("time", "level", "logger", "event", "request_id")
_CHATTY = ("alembic", "apscheduler", "asyncio", "sqlalchemy")
_PLAIN_WORD = re.compile(r"[^\s\"'=\\]+")

_request_id: ContextVar[str] = ContextVar("request_id", default="")


def configure(form: Format, level: str, stream: TextIO | None = None) -> None:
    """Log from now on in this form, events of this level and above, to this stream (else standard error). Call it again to change."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JSONLines() if form == "json" else ConsoleLines())
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    for name in _CHATTY:  # they tell of each job and statement
        logging.getLogger(name).setLevel(logging.NOTSET if level == "debug" else logging.WARNING)
    logging.captureWarnings(capture=True)


def new_request_id() -> str:
    """Give what follows in this task a request id of its own, and return it."""
    made = secrets.token_hex(4)
    _request_id.set(made)
    return made


@contextmanager
def request(request_id: str) -> Iterator[None]:
    """Let events logged inside carry this request id."""
    token = _request_id.set(request_id)
    try:
        yield
    finally:
        _request_id.reset(token)


def redact(text: str) -> str:
    """The text without any PEM private key, whole or cut off."""
    return _PRIVATE_KEY.sub(REMOVED, text)


class JSONLines(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, event, request_id if there is one, the fields, exception if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        return json.dumps(_fields(record), ensure_ascii=True)


class ConsoleLines(logging.Formatter):
    """Time (UTC), level, event, fields. A traceback follows on indented lines."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        fields = _fields(record)
        time, level, logger, event = (fields.pop(key) for key in ("time", "level", "logger", "event"))
        trace = fields.pop("exception", "")
        words = [f"{key}={_word(value)}" for key, value in {**fields, "logger": logger}.items()]
        line = " ".join([time, f"{level:<7}", printable(event), *words])
        return "\n    ".join([line, *(printable(each) for each in trace.splitlines())])


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """What a line says, ours first; a field that has the name of one of ours gets a _ behind it."""
    extra = {key: value for key, value in vars(record).items() if key not in _OWN}
    taken = (*_FIRST, "exception")
    return {
        "time": _timestamp(datetime.fromtimestamp(record.created, UTC)),
        "level": record.levelname.lower(),
        "logger": record.name,
        "event": redact(record.getMessage()),
        **({"request_id": found} if (found := _request_id.get()) else {}),
        **{f"{key}_" if key in taken else key: _plain(value) for key, value in extra.items()},
        **({"exception": redact(_traceback(record))} if record.exc_info else {}),
    }


def _timestamp(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _plain(value: Any) -> Any:
    """A value as JSON has it, without private keys. Bytes are only counted: they may be a key too."""
    match value:
        case None | bool() | int() | float() if value is None or math.isfinite(value):
            return value
        case bytes() | bytearray():
            return f"[{len(value)} bytes]"
        case datetime():
            return _timestamp(value)
        case Mapping():
            return {redact(str(key)): _plain(each) for key, each in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_plain(each) for each in value]
        case _:
            return redact(str(value))


def _traceback(record: logging.LogRecord) -> str:
    return logging.Formatter().formatException(record.exc_info) if record.exc_info else ""


def _word(value: Any) -> str:
    plain = isinstance(value, str) and _PLAIN_WORD.fullmatch(value) and value.isprintable()
    return value if plain else json.dumps(value)


def printable(text: str) -> str:
    """The text with what is not printable written out."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)
