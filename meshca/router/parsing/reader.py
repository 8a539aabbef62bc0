"""A cursor over a mapping, with which each kind's parser is written as a list of what it reads. Pure.

Rules:
- Nothing raises: what is wrong goes into the report with its line and the path of its field, and reading goes on with the next field, so
  that all problems of an object are told at once. Whoever reads must drop the object if the report has any.
- What is not there (or null) reads as None or empty. A mapping that is not there reads as one without fields, in which nothing is required.
- A field that nobody asked for is a problem. `Report.finish` tells them, when all has been read.
- Istio's kinds are protobuf messages: there `per_try_timeout` is another spelling of `perTryTimeout`. Kubernetes' own have one spelling.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import TypeVar

from meshca.errors import InvalidInput
from meshca.router.parsing.documents import Field, Sort, Tree
from meshca.router.parsing.report import Report
from meshca.router.parsing.scalars import Convert
from meshca.router.parsing.wording import did_you_mean, shown
from spiffe.errors import InvalidID

T = TypeVar("T")

MAX_ITEMS = 10_000
"""Of one list or mapping: what nobody writes must not cost minutes."""

_PLAIN = re.compile(r"[A-Za-z0-9_]{1,80}")
_SNAKE = re.compile(r"[a-z0-9]+(?:_[a-z0-9]+)+")


class Reader:
    """One mapping. `present` tells whether it is there; `line` and `path` say where."""

    def __init__(
        self,
        report: Report,
        *,
        line: int,
        path: str,
        tree: Tree | None = None,
        protobuf: bool = False,
        complete: bool = True,
    ) -> None:
        """Read `tree`. In one that is not `complete`, other fields may stand that are nobody's business here."""
        self.report = report
        self.line = line
        self.path = path
        self.present = tree is not None
        self._protobuf = protobuf
        self._complete = complete
        self._asked: set[str] = set()
        self._refused: dict[str, str] = {}
        self._fields: dict[str, tuple[str, Field]] = {}
        if tree is not None:
            for written, each in tree.fields.items():
                self._keep(written, each)
            report.at_end.append(self.finish)

    def _keep(self, written: str, each: Field) -> None:
        name = _camel_case(written) if self._protobuf and self._complete else written
        if name in self._fields:
            other = self._fields[name][0]
            self.report.problem(each.line, _join(self.path, written), f"the same field as {shown(other)}")
        self._fields[name] = (written, each)

    # What is there.

    def has(self, name: str) -> bool:
        """Whether the field is there, and not null."""
        return self._take(name) is not None

    def is_empty(self) -> bool:
        """Whether it is there, with nothing in it."""
        return self.present and not self._fields

    def unread(self) -> tuple[str, ...]:
        """The names of the fields that nobody asked for."""
        return tuple(name for name in self._fields if name not in self._asked)

    def where(self, name: str) -> str:
        """The path of a field, in the spelling that was used."""
        return _join(self.path, self._fields[name][0] if name in self._fields else name)

    def _take(self, name: str) -> Field | None:
        self._asked.add(name)
        found = self._fields.get(name)
        return None if found is None or found[1].value.sort is Sort.NULL else found[1]

    def _line(self, name: str) -> int:
        return self._fields[name][1].line if name in self._fields else self.line

    # What is wrong.

    def problem(self, name: str, text: str) -> None:
        """Report a problem with a field, or with the whole mapping if the name is empty."""
        self.report.problem(self._line(name), self.where(name) if name else self.path, text)

    def warn(self, name: str, text: str) -> None:
        """Report something odd about a field."""
        self.report.warn(self._line(name), self.where(name), text)

    def ignored(self, *names: str) -> None:
        """Fields that may be there and mean nothing to us."""
        self._asked.update(names)

    def unsupported(self, *names: str, instead: str = "") -> None:
        """Fields that exist, but that meshca does not do; `instead` says what to do about it."""
        self._refused.update(dict.fromkeys(names, instead))

    def finish(self) -> None:
        """Report every field that nobody asked for."""
        for name in self.unread() if self._complete else ():
            if self.report.full:
                return
            self.refuse(name)

    def refuse(self, name: str) -> None:
        """Report a field as one that is not read."""
        self.problem(name, self._refusal(name))

    def _refusal(self, name: str) -> str:
        if name in self._refused:
            return ": ".join(part for part in ("not supported by meshca", self._refused[name]) if part)
        return f"unknown field{did_you_mean(name, self._asked)}"

    # One value.

    def optional(self, name: str, convert: Convert[T]) -> T | None:
        """Read a field that may be missing; None also if it is wrong."""
        found = self._take(name)
        return None if found is None else self._convert(convert, found.value, found.line, self.where(name))

    def required(self, name: str, convert: Convert[T], otherwise: T) -> T:
        """Read a field that must be there; `otherwise` if there is a problem with it."""
        self._demand(name)
        value = self.optional(name, convert)
        return otherwise if value is None else value

    def _demand(self, name: str) -> None:
        if self.present and not self.has(name):
            self.problem(name, "required")

    def _convert(self, convert: Convert[T], tree: Tree, line: int, path: str) -> T | None:
        try:
            return convert(tree)
        except (InvalidInput, InvalidID) as error:
            self.report.problem(line, path, str(error))
            return None

    def choice(self, *names: str, needed: bool = True) -> str:
        """The one of these fields that is there. More than one is a problem, and none if one is needed; then it is empty."""
        there = [name for name in names if self.has(name)]
        for name in there[1:]:
            self.problem(name, f"can not stand beside {there[0]}")
        if not there and needed and self.present:
            self.problem("", f"needs one of {', '.join(names)}")
        return there[0] if there else ""

    # Many values.

    def several(self, name: str, convert: Convert[T], *, required: bool = False, filled: bool = False) -> tuple[T, ...]:
        """Read a list of scalars. One that is `filled` must have an item if it is written at all."""
        items = self._list(name, required=required, filled=filled)
        values = (self._convert(convert, tree, tree.line, path) for path, tree in items)
        return tuple(value for value in values if value is not None)

    def children(self, name: str, *, required: bool = False, filled: bool = False) -> "tuple[Reader, ...]":
        """Read a list of mappings."""
        items = self._list(name, required=required, filled=filled)
        return tuple(self._below(tree, tree.line, path) for path, tree in items)

    def _list(self, name: str, *, required: bool, filled: bool) -> tuple[tuple[str, Tree], ...]:
        if required:
            self._demand(name)
        found = self._take(name)
        if found is not None and found.value.sort is not Sort.LIST:
            self.problem(name, f"expected a list, found {found.value.sort}")
            return ()
        items = self._bounded(name, found.value.items) if found else ()
        if not items and ((found and required) or (filled and name in self._fields)):
            self.problem(name, "is empty")
        return tuple((f"{self.where(name)}[{index}]", tree) for index, tree in enumerate(items))

    def mapping(self, name: str, key: Callable[[str], str], convert: Convert[T]) -> dict[str, T]:
        """Read a mapping with keys of the user's own choice; `key` checks each and may spell it otherwise."""
        return dict(self._pairs(name, key, lambda tree, line, path: self._convert(convert, tree, line, path)))

    def keyed(self, name: str, key: Callable[[str], str]) -> "dict[str, Reader]":
        """Read a mapping of mappings; as `mapping`."""
        return dict(self._pairs(name, key, self._below))

    def _pairs(
        self, name: str, key: Callable[[str], str], read: Callable[[Tree, int, str], T | None]
    ) -> Iterator[tuple[str, T]]:
        seen: set[str] = set()
        for written, each in self._mapping(name).items():
            path = _join(self.where(name), written)
            spelled = self._convert(partial(_spelled, key, written), each.value, each.line, path)
            if spelled is None:
                continue
            if spelled in seen:
                self.report.problem(each.line, path, "is there twice, but for upper and lower case")
            seen.add(spelled)
            value = read(each.value, each.line, path)
            if value is not None:
                yield spelled, value

    def _mapping(self, name: str) -> Mapping[str, Field]:
        found = self._take(name)
        if found is not None and found.value.sort is not Sort.MAPPING:
            self.problem(name, f"expected a mapping, found {found.value.sort}")
        return dict(self._bounded(name, tuple(found.value.fields.items()))) if found else {}

    def _bounded(self, name: str, items: tuple[T, ...]) -> tuple[T, ...]:
        if len(items) <= MAX_ITEMS:
            return items
        self.problem(name, f"{len(items)} items are too many: {MAX_ITEMS} are read")
        return items[:1]

    # Mappings below.

    def child(
        self, name: str, *, required: bool = False, complete: bool = True, protobuf: bool | None = None
    ) -> "Reader":
        """Read a mapping; `complete` as in the constructor."""
        if required:
            self._demand(name)
        found = self._take(name)
        if found is None:
            return self.absent(self.line, self.where(name))
        return self._below(found.value, found.line, self.where(name), complete=complete, protobuf=protobuf)

    def absent(self, line: int = 0, path: str = "") -> "Reader":
        """A mapping that is not there: all of it reads as missing, and nothing of it is required."""
        return Reader(self.report, line=line, path=path)

    def _below(
        self, tree: Tree, line: int, path: str, *, complete: bool = True, protobuf: bool | None = None
    ) -> "Reader":
        if tree.sort is not Sort.MAPPING:
            self.report.problem(line, path, f"expected a mapping, found {tree.sort}")
            return self.absent(line, path)
        protobuf = self._protobuf if protobuf is None else protobuf
        return Reader(self.report, line=line, path=path, tree=tree, protobuf=protobuf, complete=complete)


def distinct(readers: Iterable[Reader], name: str, values: Iterable[object]) -> None:
    """Report each value of the list's readers that an earlier one has too. None is no value."""
    seen: set[object] = set()
    for reader, value in zip(readers, values, strict=True):
        if value is not None and value in seen:
            reader.problem(name, f"{value} is there twice")
        seen.add(value)


def _spelled(key: Callable[[str], str], written: str, _: Tree) -> str:
    """A key, checked like a value."""
    return key(written)


def _camel_case(name: str) -> str:
    """The JSON name of a protobuf field, for its name in the schema."""
    if not _SNAKE.fullmatch(name):
        return name
    first, *rest = name.split("_")
    return first + "".join(word[:1].upper() + word[1:] for word in rest)


def _join(path: str, key: str) -> str:
    if not _PLAIN.fullmatch(key):
        return f"{path}[{shown(key).strip(chr(39))}]"
    return f"{path}.{key}" if path else key
