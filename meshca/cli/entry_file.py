"""Reads entries from a file: YAML documents, lists of entries, the output of `entry list`, or JSON of the same. Pure.

Rules:
- Every scalar is text until its key says what it is: YAML's guesses (`no`, `1e3`, dates) never change an entry.
- Unknown keys, keys given twice and malformed values are refused, all at once, each with its place.
"""

import difflib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import yaml
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from meshca.cli.values import future, parse_duration
from meshca.errors import InvalidInput
from meshca.proto import admin_pb2 as pb
from meshca.server.convert import entry_of
from spiffe.errors import SpiffeError

_Reader = Callable[[pb.Entry, str, Any, datetime], None]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ABSENT = ("", "null", "~")


class _Loader(yaml.BaseLoader):
    """Scalars stay text, and a key may stand in a mapping once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002 - PyYAML's
        """The mapping. Raises ConstructorError for a key that is there twice."""
        keys = [key.value for key, _ in node.value]
        twice = sorted({str(key) for key in keys if keys.count(key) > 1})
        if twice:
            raise yaml.constructor.ConstructorError(
                None, None, f"key {', '.join(twice)} is there twice", node.start_mark
            )
        return super().construct_mapping(node, deep=deep)


def read_entries(text: str, now: datetime, *, may_be_none: bool = False) -> list[pb.Entry]:
    """The entries of a file. Raises InvalidInput, one line for each thing that is wrong.

    `may_be_none`: `entries: []`, which says so, is a file too. An empty file never is: most likely it was cut off.
    """
    errors: list[str] = []
    entries = []
    documents = _documents(text)
    for place, item in _items(documents):
        entry, wrong = read_entry(item, now)
        errors += [f"{place}: {error}" for error in wrong]
        entries.append(entry)
    if errors:
        raise InvalidInput("\n".join(errors))
    if not entries and not (may_be_none and documents == [{"entries": []}]):
        raise InvalidInput("there is no entry in the file")
    return entries


def read_entry(item: Any, now: datetime) -> tuple[pb.Entry, list[str]]:
    """One entry, and what is wrong with it. Durations of `expires_at` count from `now`."""
    entry = pb.Entry()
    if not isinstance(item, dict):
        return entry, [f"{str(item)[:60]!r} is not an entry, which has keys such as spiffe_id and selectors"]
    errors = []
    for key, value in item.items():
        try:
            _reader(key)(entry, key, value, now)
        except InvalidInput as error:
            errors.append(str(error))
    if not errors:
        try:
            entry_of(entry, entry_id=entry.id, created_at=_EPOCH)
        except (InvalidInput, SpiffeError) as error:
            errors.append(str(error))
    return entry, errors


def _documents(text: str) -> list[Any]:
    try:
        return [document for document in yaml.load_all(text, Loader=_Loader) if document not in _ABSENT]
    except yaml.YAMLError as error:
        raise InvalidInput(f"this is neither YAML nor JSON: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise InvalidInput("this is nested too deeply for a list of entries") from error


def _items(documents: list[Any]) -> Iterator[tuple[str, Any]]:
    """Each entry with its place in the file."""
    for number, content in enumerate(documents, start=1):
        listed = content["entries"] if isinstance(content, dict) and list(content) == ["entries"] else content
        if isinstance(listed, list):
            yield from ((f"document {number}, entry {index}", item) for index, item in enumerate(listed, start=1))
        else:
            yield f"document {number}", listed


def _reader(key: str) -> _Reader:
    if key not in _READERS:
        near = difflib.get_close_matches(key, _READERS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(_READERS)}"
        raise InvalidInput(f"unknown key {key!r}: {hint}")
    return _READERS[key]


def _text(entry: pb.Entry, key: str, value: Any, _: datetime) -> None:
    if not isinstance(value, str):
        raise InvalidInput(f"{key} is not one text")
    setattr(entry, key, value)


def _texts(entry: pb.Entry, key: str, value: Any, _: datetime) -> None:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InvalidInput(f"{key} is not a list of texts")
    getattr(entry, key).extend(value)


def _flag(entry: pb.Entry, key: str, value: Any, _: datetime) -> None:
    if value not in {"true", "false"}:
        raise InvalidInput(f"{key} is neither true nor false")
    setattr(entry, key, value == "true")


def _duration(entry: pb.Entry, key: str, value: Any, _: datetime) -> None:
    if value not in _ABSENT:
        getattr(entry, key).CopyFrom(duration(_scalar(key, value)))


def _time(entry: pb.Entry, key: str, value: Any, now: datetime) -> None:
    if value not in _ABSENT:
        getattr(entry, key).CopyFrom(timestamp(future(_scalar(key, value), now)))


def _scalar(key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidInput(f"{key} is not one value")
    return value


_READERS: dict[str, _Reader] = {
    "id": _text,
    "spiffe_id": _text,
    "selectors": _texts,
    "ttl": _duration,
    "dns_names": _texts,
    "hint": _text,
    "default": _flag,
    "federates_with": _texts,
    "expires_at": _time,
    "source": _text,
    "created_at": lambda *_: None,  # shown by `entry list`, decided by the server
}


def duration(text: str) -> Duration:
    """A duration as the admin API has it. Raises InvalidInput."""
    message = Duration()
    message.FromTimedelta(parse_duration(text))
    return message


def timestamp(at: datetime) -> Timestamp:
    """A time as the admin API has it."""
    message = Timestamp()
    message.FromDatetime(at)
    return message
