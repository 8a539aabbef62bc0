"""A request as an application would make it, and whether a rule's conditions hold for it. Pure.

Rules: as Envoy would decide, except that expressions are Python's here; parsers let only those through that mean the same in both.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

from meshca.router.mesh.endpoints import namespace_of
from meshca.router.mesh.objects import HTTPMatch, MatchKind, StringMatch
from spiffe.id import SpiffeID


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """`path` may have a query. Header names are in lower case; `port` None means that none was said."""

    caller: SpiffeID
    host: str
    port: int | None = None
    path: str = "/"
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def namespace(self) -> str:
        """The caller's namespace in the ns/sa scheme, else empty."""
        return namespace_of(self.caller)


def holds(match: HTTPMatch, asked: Asked, port: int | None) -> bool:
    """Whether all conditions hold for a request on this port of a service."""
    right_place = match.port in {None, port} or port is None
    right_caller = match.source_namespace in {"", asked.namespace}
    unwanted = any(_says(how, asked.headers.get(name.lower())) for name, how in match.without_headers)
    return right_place and right_caller and not unwanted and all(_says(*pair) for pair in _wanted(match, asked))


def _wanted(match: HTTPMatch, asked: Asked) -> Iterator[tuple[StringMatch, str | None]]:
    path, _, query = asked.path.partition("?")
    if match.uri and match.ignore_uri_case:
        yield StringMatch(match.uri.kind, match.uri.value.lower()), path.lower()
    elif match.uri:
        yield match.uri, path
    for how, value in ((match.method, asked.method), (match.authority, asked.host), (match.scheme, "http")):
        if how:
            yield how, value
    for name, how in match.headers:
        yield how, asked.headers.get(name.lower())
    parameters = dict(parse_qsl(query, keep_blank_values=True))
    for name, how in match.query_params:
        yield how, parameters.get(name)


def _says(how: StringMatch, value: str | None) -> bool:
    return value is not None and _COMPARE[how.kind](value, how.value)


_COMPARE: Mapping[MatchKind, Callable[[str, str], bool]] = {
    MatchKind.PRESENT: lambda _value, _meant: True,
    MatchKind.EXACT: lambda value, meant: value == meant,
    MatchKind.PREFIX: lambda value, meant: value.startswith(meant),
    MatchKind.SUFFIX: lambda value, meant: value.endswith(meant),
    MatchKind.REGEX: lambda value, meant: re.fullmatch(meant, value) is not None,
    MatchKind.PATH_PREFIX: lambda value, meant: f"{value}/".startswith(f"{meant.rstrip('/')}/"),
}
