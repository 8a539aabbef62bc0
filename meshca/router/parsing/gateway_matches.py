"""Matches of Gateway API's routes, and which comes before which. Pure."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from meshca.errors import InvalidInput
from meshca.router.mesh.objects import HTTPMatch, MatchKind, StringMatch
from meshca.router.parsing import grammar
from meshca.router.parsing.reader import Reader, distinct
from meshca.router.parsing.regex import regular_expression
from meshca.router.parsing.scalars import filled, one_of, text_as
from meshca.router.parsing.wording import shown

_SERVICE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*")
_METHOD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ANY_SEGMENT = "[^/]+"
_PATH_RANKS = {MatchKind.EXACT: 0, MatchKind.REGEX: 1, MatchKind.PATH_PREFIX: 2}


class _PathType(StrEnum):
    EXACT = "Exact"
    PREFIX = "PathPrefix"
    REGEX = "RegularExpression"


class _Type(StrEnum):
    EXACT = "Exact"
    REGEX = "RegularExpression"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One match. The smallest `rank` is tried first. `prefix` is the path prefix that a filter may replace, None if there is none."""

    match: HTTPMatch
    rank: tuple[int, ...]
    prefix: str | None = None


def http_match(reader: Reader) -> Candidate:
    """A match of an HTTPRoute.

    Exact paths come first (then expressions, of which the specification says nothing), then long prefixes, then those that name a
    method, then those with more headers, then with more query parameters.
    """
    uri = _path(reader.child("path"))
    method = reader.optional("method", text_as(grammar.method))
    headers, params = _values(reader, "headers", grammar.header_name), _values(reader, "queryParams", filled)
    prefix = uri.value if uri.kind is MatchKind.PATH_PREFIX else None
    return Candidate(
        match=HTTPMatch(
            uri=None if prefix == "" else uri,
            method=StringMatch(MatchKind.EXACT, method) if method else None,
            headers=headers,
            query_params=params,
        ),
        rank=(_PATH_RANKS[uri.kind], -len(uri.value), int(not method), -len(headers), -len(params)),
        prefix=prefix,
    )


def _path(reader: Reader) -> StringMatch:
    """The path of a match. A prefix is without its last slash, which it does not need; that of everything is empty."""
    kind = reader.optional("type", one_of(_PathType)) or _PathType.PREFIX
    if kind is _PathType.REGEX:
        return StringMatch(MatchKind.REGEX, reader.required("value", text_as(regular_expression), ""))
    value = reader.optional("value", text_as(grammar.path)) or "/"
    if kind is _PathType.EXACT:
        return StringMatch(MatchKind.EXACT, value)
    return StringMatch(MatchKind.PATH_PREFIX, value.rstrip("/"))


def grpc_match(reader: Reader) -> Candidate:
    """A match of a GRPCRoute. Long service names come first, then long method names, then those with more headers."""
    method = reader.child("method")
    kind = method.optional("type", one_of(_Type)) or _Type.EXACT
    if method.present and not (method.has("service") or method.has("method")):
        method.problem("", "needs one of service, method")
    exact = kind is _Type.EXACT
    service = method.optional("service", text_as(_named(_SERVICE) if exact else regular_expression)) or ""
    name = method.optional("method", text_as(_named(_METHOD) if exact else regular_expression)) or ""
    headers = _values(reader, "headers", grammar.header_name)
    return Candidate(
        match=HTTPMatch(uri=_grpc_path(service, name, exact=exact), headers=headers),
        rank=(-len(service), -len(name), -len(headers)),
    )


def _named(pattern: re.Pattern[str]) -> Callable[[str], str]:
    def check(written: str) -> str:
        if len(written) > grammar.MAX_PATH or not pattern.fullmatch(written):
            raise InvalidInput(f"{shown(written)} is not a name of gRPC")
        return written

    return check


def _grpc_path(service: str, method: str, *, exact: bool) -> StringMatch | None:
    """GRPC calls `/service/method`."""
    if not service and not method:
        return None
    if exact and service:
        kind = MatchKind.EXACT if method else MatchKind.PREFIX
        return StringMatch(kind, f"/{service}/{method}")
    parts = (f"(?:{part})" if part and not exact else part or _ANY_SEGMENT for part in (service, method))
    return StringMatch(MatchKind.REGEX, "/" + "/".join(parts))


def _values(reader: Reader, name: str, key: Callable[[str], str]) -> tuple[tuple[str, StringMatch], ...]:
    """A list of named values, each name once."""
    readers = reader.children(name)
    names = [each.required("name", text_as(key), "") for each in readers]
    distinct(readers, "name", [each or None for each in names])
    return tuple(zip(names, map(_value, readers), strict=True))


def _value(reader: Reader) -> StringMatch:
    kind = reader.optional("type", one_of(_Type)) or _Type.EXACT
    if kind is _Type.REGEX:
        return StringMatch(MatchKind.REGEX, reader.required("value", text_as(regular_expression), ""))
    return StringMatch(MatchKind.EXACT, reader.required("value", text_as(filled), ""))
