"""Scalars of a document into values: each function takes a tree and raises InvalidInput with what was expected and what is there. Pure.

Rules:
- YAML's guesses are reported, not followed: text that it takes for a number or a boolean must be quoted, as Kubernetes demands too.
- Numbers are plain decimals. Octal, sexagesimal, hexadecimal and underscores mean one thing to YAML 1.1 and another to its reader.
"""

import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from enum import StrEnum
from fractions import Fraction
from typing import TypeVar

from meshca.errors import InvalidInput
from meshca.router.mesh.objects import MILLION
from meshca.router.parsing.documents import Sort, Tree
from meshca.router.parsing.wording import did_you_mean, shown

T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)
Convert = Callable[[Tree], T]

INT32 = (1 << 31) - 1
LONGEST = timedelta(days=365)
MILLISECOND = timedelta(milliseconds=1)

_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})")
_DECIMAL = re.compile(r"[-+]?[0-9]{1,9}(?:\.[0-9]{0,12})?")
_DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)(h|ms|m|s|us|µs|ns)")
_UNITS: dict[str, int | Fraction] = {
    "h": 3_600_000_000,
    "m": 60_000_000,
    "s": 1_000_000,
    "ms": 1_000,
    "us": 1,
    "µs": 1,
    "ns": Fraction(1, 1000),
}
_TRUE = {"true", "yes", "on"}


def text(tree: Tree) -> str:
    """Text. What YAML takes for something else must be quoted."""
    if tree.sort is Sort.TEXT:
        return tree.text
    if tree.text:
        raise InvalidInput(f"expected text, but YAML takes {shown(tree.text)} for {tree.sort}: quote it")
    raise InvalidInput(f"expected text, found {tree.sort}")


def text_as(check: Callable[[str], T]) -> Convert[T]:
    """Text of a certain grammar."""
    return lambda tree: check(text(tree))


def filled(value: str) -> str:
    """Any text but none."""
    if not value:
        raise InvalidInput("is empty")
    return value


def integer(low: int, high: int) -> Convert[int]:
    """A whole number within bounds, both included."""

    def convert(tree: Tree) -> int:
        if tree.sort is Sort.NUMBER and _INTEGER.fullmatch(tree.text) and low <= int(tree.text) <= high:
            return int(tree.text)
        raise _unexpected(f"a whole number from {low} to {high}", tree)

    return convert


def boolean(tree: Tree) -> bool:
    """True or false, in any of YAML's spellings."""
    if tree.sort is Sort.BOOLEAN:
        return tree.text.lower() in _TRUE
    raise _unexpected("true or false", tree)


def share(tree: Tree) -> int:
    """A percentage, as millionths of the whole."""
    if tree.sort is Sort.NUMBER and _DECIMAL.fullmatch(tree.text):
        millionths = Fraction(tree.text.rstrip(".")) * MILLION / 100
        if 0 <= millionths <= MILLION and millionths.denominator == 1:
            return int(millionths)
    raise _unexpected("a percentage from 0 to 100, in steps of 0.0001", tree)


def duration(least: timedelta = timedelta(0), *, or_zero: bool = False) -> Convert[timedelta]:
    """A length of time such as `1.5s` or `1h30m`; with `or_zero` zero may stand below the least."""

    def convert(tree: Tree) -> timedelta:
        microseconds = _microseconds(tree.text) if tree.sort is Sort.TEXT else None
        if microseconds is None:
            raise _unexpected("a duration such as `1.5s`, `100ms` or `1h`", tree)
        return _bounded(microseconds, tree, least, or_zero=or_zero)

    return convert


def _microseconds(written: str) -> Fraction | None:
    """The sum of all parts, None when it is no duration."""
    parts = _DURATION.findall(written)
    if not parts or "".join(number + unit for number, unit in parts) != written:
        return None
    return sum((Fraction(number) * _UNITS[unit] for number, unit in parts), Fraction(0))


def _bounded(microseconds: Fraction, tree: Tree, least: timedelta, *, or_zero: bool) -> timedelta:
    if microseconds.denominator != 1:
        raise InvalidInput(f"{shown(tree.text)} is finer than a microsecond")
    value = timedelta(microseconds=min(int(microseconds), 2 * LONGEST // timedelta(microseconds=1)))
    if value > LONGEST:
        raise InvalidInput(f"{shown(tree.text)} is longer than {LONGEST.days} days")
    if value < least and (value or not or_zero):
        unless = ", or 0s" if or_zero else ""
        raise InvalidInput(f"{shown(tree.text)} is too short: it must be at least 1ms{unless}")
    return value


def one_of(kind: type[E], refused: Mapping[str, str] | None = None) -> Convert[E]:
    """A member of an enumeration, by its value. `refused` are names that exist elsewhere but not here, each with what to do instead."""
    return named({member.value: member for member in kind}, refused)


def named(members: Mapping[str, T], refused: Mapping[str, str] | None = None) -> Convert[T]:
    """What a name stands for; as `one_of`."""

    def convert(tree: Tree) -> T:
        name = text(tree)
        if name in members:
            return members[name]
        if refused and name in refused:
            raise InvalidInput(
                ": ".join(part for part in (f"{name} is not supported by meshca", refused[name]) if part)
            )
        raise InvalidInput(f"{shown(name)} is not one of {', '.join(members)}{did_you_mean(name, members)}")

    return convert


def _unexpected(expected: str, tree: Tree) -> InvalidInput:
    """What to raise where something else stands."""
    if tree.sort is Sort.TEXT:
        return InvalidInput(f"expected {expected}, found the text {shown(tree.text)}")
    found = shown(tree.text).strip("'") if tree.text else tree.sort
    return InvalidInput(f"expected {expected}, found {found}")
