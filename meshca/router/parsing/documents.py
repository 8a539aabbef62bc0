"""YAML text into small trees that know where everything stands. Pure.

Rules:
- Nothing is constructed: scalars stay as they are written, together with what YAML takes them for. Trees are made straight from the
  parser's events, since its node graph no longer tells where an alias was.
- A document that is broken costs its file nothing else: the text is divided at `---` before it is parsed. Nothing inside a document can
  look like that.
- What an attacker could make big out of little is refused: anchors and aliases, merge keys, deep nesting, long documents.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from typing import Any, NamedTuple

import yaml

from meshca.router.parsing.wording import shown

MAX_CHARACTERS = 1 << 20
MAX_DEPTH = 50

_DIVIDER = re.compile(r"^---(?=[ \t\r\n]|\Z)", re.MULTILINE)
_BLANK = re.compile(r"(?:\s*(?:#.*)?|%YAML .*|---\s*(?:#.*)?|\.\.\.\s*)")
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_INTEGER_KEY = re.compile(r"0|[1-9][0-9]*")
_CORE = "tag:yaml.org,2002:"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml where PyYAML was built with it: ten times as fast


class Sort(StrEnum):
    """What YAML takes a node for, in words that fit behind `found`."""

    TEXT = "text"
    NUMBER = "a number"
    BOOLEAN = "a boolean"
    NULL = "nothing"
    LIST = "a list"
    MAPPING = "a mapping"


# Dates and a lone `=` have types of their own in YAML 1.1, but mean nothing else to people than the text that is there.
_SCALARS = {
    f"{_CORE}str": Sort.TEXT,
    f"{_CORE}timestamp": Sort.TEXT,
    f"{_CORE}value": Sort.TEXT,
    f"{_CORE}int": Sort.NUMBER,
    f"{_CORE}float": Sort.NUMBER,
    f"{_CORE}bool": Sort.BOOLEAN,
    f"{_CORE}null": Sort.NULL,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """One node: `text` is a scalar as written, `items` those of a list, `fields` those of a mapping."""

    line: int
    sort: Sort
    text: str = ""
    items: "tuple[Tree, ...]" = ()
    fields: "Mapping[str, Field]" = field(default_factory=dict)


class Field(NamedTuple):
    """A value in a mapping, and the line of its key."""

    line: int
    value: Tree


class Fault(NamedTuple):
    """Something that is wrong with a document as YAML."""

    line: int
    text: str


class Part(NamedTuple):
    """A stretch of a file that is parsed on its own, and the number of its first line."""

    file: str
    line: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One document that is not empty. `root` is a mapping, or None when there is no telling; with `faults` it must not be used."""

    file: str
    root: Tree | None = None
    faults: tuple[Fault, ...] = ()


class _Refused(Exception):  # noqa: N818 - never leaves this module
    def __init__(self, fault: Fault) -> None:
        super().__init__(fault)
        self.fault = fault


def parts(file: str, text: str) -> Iterator[Part]:
    """What stands between the dividers of a file, in order, without what is blank."""
    text = text.removeprefix("\ufeff")
    starts = [0, *(match.start() for match in _DIVIDER.finditer(text)), len(text)]
    line = 1
    for start, end in pairwise(starts):
        part = text[start:end]
        if not all(map(_BLANK.fullmatch, part.splitlines())):
            yield Part(file, line, part)
        line += part.count("\n")


def documents(part: Part) -> Iterator[Document]:
    """The documents of one part: nearly always one, more only where `...` ends one without a divider. Raises nothing, whatever the text."""
    try:
        _check_text(part.line, part.text)
        events = yaml.parse(part.text, Loader=_LOADER)
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                yield from _document(part.file, _Composer(events, part.line))
    except _Refused as error:
        yield Document(file=part.file, faults=(error.fault,))
    except yaml.MarkedYAMLError as error:
        yield Document(file=part.file, faults=(_syntax_fault(error, part.line),))


def _check_text(first: int, part: str) -> None:
    if len(part) > MAX_CHARACTERS:
        raise _Refused(Fault(first, f"a document of {len(part)} characters is too long: {MAX_CHARACTERS} are read"))
    if bad := _UNPRINTABLE.search(part):
        line = first + part.count("\n", 0, bad.start())
        raise _Refused(Fault(line, f"the character U+{ord(bad[0]):04X} is not allowed in YAML"))


def _syntax_fault(error: yaml.MarkedYAMLError, first: int) -> Fault:
    """PyYAML's own words and place."""
    mark = error.problem_mark or error.context_mark
    words = ", ".join(part for part in (error.context, error.problem) if part)
    return Fault(first + mark.line if mark else first, f"this is not YAML: {words}")


def _document(file: str, composer: "_Composer") -> Iterator[Document]:
    """The document whose start was just read, unless it is empty."""
    root = composer.node(composer.next(), 0)
    if root.sort is Sort.MAPPING:
        yield Document(file=file, root=root, faults=tuple(composer.faults))
    elif root.sort is not Sort.NULL:
        yield Document(file=file, faults=(Fault(root.line, f"expected an object with a kind, found {root.sort}"),))


class _Composer:
    """Makes trees of events. Faults that leave the rest readable are collected, others raised."""

    def __init__(self, events: Iterator[yaml.Event], first: int) -> None:
        self._events = events
        self._first = first
        self._resolver = yaml.resolver.Resolver()
        self.faults: list[Fault] = []

    def next(self) -> yaml.Event:
        """The next event: there always is one before the end of a document."""
        return next(self._events)

    def node(self, event: Any, depth: int) -> Tree:
        """The tree that starts with the event."""
        line = self._first + event.start_mark.line
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise _Refused(Fault(line, f"anchors and aliases (here {shown(event.anchor)}) are not read: write it out"))
        if depth > MAX_DEPTH:
            raise _Refused(Fault(line, f"this is nested more than {MAX_DEPTH} levels deep"))
        if isinstance(event, yaml.ScalarEvent):
            return Tree(line=line, sort=self._scalar_sort(event, line), text=event.value)
        if isinstance(event, yaml.SequenceStartEvent):
            self._check_tag(event, "seq", line)
            return Tree(line=line, sort=Sort.LIST, items=tuple(self._items(depth + 1)))
        self._check_tag(event, "map", line)
        return Tree(line=line, sort=Sort.MAPPING, fields=self._fields(depth + 1))

    def _scalar_sort(self, event: Any, line: int) -> Sort:
        if bad := _UNPRINTABLE.search(
            event.value
        ):  # escaped in double quotes: legal in YAML, but of no use in any field
            self.faults.append(Fault(line, f"the character U+{ord(bad[0]):04X} is not read"))
        tag = event.tag
        if tag in {None, "!"}:
            tag = self._resolver.resolve(yaml.ScalarNode, event.value, event.implicit)  # type: ignore[no-untyped-call]  # PyYAML's stubs
        if tag not in _SCALARS:
            self._refuse_tag(tag, line)
        return _SCALARS.get(tag, Sort.TEXT)

    def _check_tag(self, event: Any, name: str, line: int) -> None:
        if event.tag not in {None, "!", _CORE + name}:
            self._refuse_tag(event.tag, line)

    def _refuse_tag(self, tag: str, line: int) -> None:
        merge = tag == f"{_CORE}merge"
        text = "merge keys (<<) are not read: write it out" if merge else f"the tag {shown(tag)} is not read"
        self.faults.append(Fault(line, text))

    def _items(self, depth: int) -> Iterator[Tree]:
        while not isinstance(event := self.next(), yaml.SequenceEndEvent):
            yield self.node(event, depth)

    def _fields(self, depth: int) -> dict[str, Field]:
        fields: dict[str, Field] = {}
        while not isinstance(event := self.next(), yaml.MappingEndEvent):
            key = self.node(event, depth)
            value = self.node(self.next(), depth)
            if key.text in fields and key.sort not in {Sort.LIST, Sort.MAPPING}:
                first = fields[key.text].line
                self.faults.append(Fault(key.line, f"the key {shown(key.text)} is there twice, first on line {first}"))
            self._check_key(key)
            fields.setdefault(key.text, Field(key.line, value))
        return fields

    def _check_key(self, key: Tree) -> None:
        """Text, or a whole number such as a port, which Kubernetes too takes for text."""
        if key.sort is Sort.TEXT or (key.sort is Sort.NUMBER and _INTEGER_KEY.fullmatch(key.text)):
            return
        if key.sort in {Sort.LIST, Sort.MAPPING}:
            self.faults.append(Fault(key.line, f"a key must be text, not {key.sort}"))
        else:
            self.faults.append(Fault(key.line, f"YAML takes the key {shown(key.text)} for {key.sort}: quote it"))
