"""What a command prints: results on standard output, everything else on standard error.

Rules:
- JSON and YAML are the contract for scripts: the field names of admin.proto, times in RFC 3339 UTC, durations in
  seconds, certificates in PEM, null for what is absent. Lists are objects with one named list; a stream is one JSON
  object a line, or one YAML document each.
- Nothing else is ever mixed into them. Tables are for eyes, and may change.
- What came from outside is shown printable: no control character reaches a terminal.
"""

import json
import re
import ssl
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import typer
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from meshca.cli.options import Format
from meshca.cli.values import format_duration, printable
from meshca.clock import SystemClock

Json = dict[str, Any]

_PIPE_WIDTH = 4096  # what is piped is never folded
_WHOLE = frozenset({"ID", "KIND", "STATE", "AT", "RECORD"})  # columns that are not folded: they are copied, or short


def console() -> Console:
    """Standard output: the terminal's width and colours, or plain unfolded lines in a pipe."""
    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    return Console(width=width, markup=False, highlight=False, emoji=False, soft_wrap=False)


def remark(text: str) -> None:
    """Say something beside the result, on standard error."""
    typer.echo(printable(text), err=True)


def emit(document: Json, output: Format, table: Callable[[], RenderableType | Iterable[RenderableType]]) -> None:
    """Print a result: the document, or the table made of it."""
    if output is Format.JSON:
        typer.echo(json.dumps(document, indent=2, ensure_ascii=False))
    elif output is Format.YAML:
        typer.echo(as_yaml(document), nl=False)
    else:
        _print_table(table())


def emit_event(document: Json, output: Format, line: str) -> None:
    """Print one event of a stream, at once."""
    if output is Format.JSON:
        typer.echo(json.dumps(document, ensure_ascii=False))
    elif output is Format.YAML:
        typer.echo("---\n" + as_yaml(document), nl=False)
    else:
        typer.echo(printable(line))
    sys.stdout.flush()


def as_yaml(document: Json) -> str:
    """The document as YAML, in its own order; texts of several lines as blocks."""
    import yaml  # noqa: PLC0415 - few commands need it

    class Dumper(yaml.SafeDumper):
        pass

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)

    Dumper.add_representer(str, text)
    return yaml.dump(document, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=_PIPE_WIDTH)


def _print_table(tables: RenderableType | Iterable[RenderableType]) -> None:
    screen = console()
    for each in [tables] if isinstance(tables, str | Text | Table) else tables:  # type: ignore[union-attr]
        if screen.is_terminal or not isinstance(each, Table):
            screen.print(each)
        else:
            _print_plain(screen, each)


def _print_plain(screen: Console, table: Table) -> None:
    """A table in a pipe: no lines, and no blanks at the end of a row."""
    with screen.capture() as capture:
        screen.print(table)
    for line in capture.get().splitlines():
        typer.echo(line.rstrip())


def rows(titles: Sequence[str], cells: Iterable[Sequence[object]], *, title: str = "") -> Table:
    """A table for eyes: one row each; lists one item a line; columns that are empty in every row are left out."""
    lines = [[shown(cell) for cell in row] for row in cells]
    used = [index for index in range(len(titles)) if not lines or any(line[index] for line in lines)]
    table = _table(title=title or None, title_justify="left", header_style="bold")
    for index in used:
        table.add_column(titles[index], overflow="fold", no_wrap=titles[index] in _WHOLE)
    for line in lines:
        table.add_row(*(Text(line[index]) for index in used))
    return table


def facts(pairs: Iterable[tuple[str, object]]) -> Table:
    """A two-column table of what is known about one thing; unknown things are left out."""
    table = _table(show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in pairs:
        if shown(value):
            table.add_row(name, Text(shown(value)))
    return table


def _table(**options: Any) -> Table:
    return Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), **options)


def shown(value: object) -> str:
    """A value for eyes: times as UTC to the second, durations as 1h30m, lists one item a line, nothing for what is absent."""
    match _native(value):
        case None:
            text = ""
        case bool() as flag:
            text = "yes" if flag else "no"
        case datetime() as at:
            text = f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}"
        case timedelta() as span:
            text = format_duration(span)
        case Iterable() as items if not isinstance(items, str):
            text = "\n".join(shown(item) for item in items)
        case plain:
            text = printable(str(plain))
    return text


def _native(value: Any) -> Any:
    """Protobuf's times and durations as Python's; None for empty ones."""
    if isinstance(value, Timestamp | Duration) and not value.ByteSize():
        return None
    if isinstance(value, Timestamp):
        return value.ToDatetime(UTC)
    return value.ToTimedelta() if isinstance(value, Duration) else value


def left(at: Timestamp | datetime) -> str:
    """How long until then, for eyes, in its two largest units; `ended` once it is past."""
    until = (at.ToDatetime(UTC) if isinstance(at, Timestamp) else at) - SystemClock().now()
    words = re.findall(r"\d+[a-z]", format_duration(until))
    return "".join(words[:2]) if until > timedelta() else "ended"


def document(message: Message) -> Json:
    """A message of the admin API as plain values; see this module's rules."""
    return {field.name: _field(message, field) for field in message.DESCRIPTOR.fields}


def _field(message: Message, field: Any) -> Any:
    value = getattr(message, field.name)
    if field.message_type and field.message_type.GetOptions().map_entry:
        return dict(sorted(value.items()))
    if field.is_repeated:
        return [_value(item, field) for item in value]
    if field.message_type and not message.HasField(field.name):
        return None
    return _value(value, field)


def _value(value: Any, field: Any) -> Any:
    if isinstance(value, Timestamp):
        return value.ToJsonString()
    if isinstance(value, Duration):
        seconds = value.ToTimedelta().total_seconds()
        return int(seconds) if seconds.is_integer() else seconds
    if isinstance(value, Message):
        return document(value)
    if field.type == FieldDescriptor.TYPE_BYTES:  # every bytes field of the admin API is a certificate in DER
        return ssl.DER_cert_to_PEM_cert(value) if value else None
    return value
