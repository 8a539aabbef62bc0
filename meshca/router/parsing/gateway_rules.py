"""What Gateway API's rules do: backends, filters, timeouts and retries. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta

from meshca.router.mesh.objects import DirectResponse, HTTPRule, Redirect, Retries, WeightedDestination
from meshca.router.parsing.gateway_filters import (
    MIRROR,
    REDIRECT,
    REQUEST_HEADERS,
    RESPONSE_HEADERS,
    REWRITE,
    Filters,
    PathChange,
    backend,
    mirror,
    redirect,
    rewrite,
)
from meshca.router.parsing.gateway_matches import Candidate
from meshca.router.parsing.reader import Reader
from meshca.router.parsing.scalars import INT32, MILLISECOND, duration, integer, text

MAX_WEIGHT = 1_000_000
DEFAULT_ATTEMPTS = 2

_RETRY_ON = ("connect-failure", "refused-stream", "unavailable", "cancelled")
_DURATION = duration(MILLISECOND, or_zero=True)
_NOTHING = DirectResponse(status=500)
_GRPC_FILTERS = (REQUEST_HEADERS, RESPONSE_HEADERS, MIRROR)
_HTTP_FILTERS = (*_GRPC_FILTERS, REDIRECT, REWRITE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """What a rule does with whatever it matches: `rule` is still without matches, and without a change of path."""

    rule: HTTPRule
    path: PathChange = field(default_factory=PathChange)

    def rules(self, reader: Reader, candidate: Candidate) -> Iterator[HTTPRule]:
        """The rule for one of its matches, or the two that it takes. `reader` is where a problem with that is reported."""
        if self.path.prefix is not None and candidate.prefix is None:
            reader.problem("filters", "replacePrefixMatch is for PathPrefix matches only")
        yield from self.path.applied(replace(self.rule, matches=(candidate.match,)), candidate)


def http_action(reader: Reader) -> Action:
    """What a rule of an HTTPRoute does."""
    reader.unsupported("sessionPersistence")
    filters = Filters(reader, _HTTP_FILTERS)
    answer, answer_path = redirect(filters.one(REDIRECT))
    change, change_path = rewrite(filters.one(REWRITE))
    timeout, retries = _times(reader)
    if answer and (filters.all(REWRITE) or reader.has("backendRefs")):
        reader.problem("filters", "a redirect can stand neither beside a rewrite nor beside backendRefs")
    rule = replace(_rule(reader, filters, answer), rewrite=change, timeout=timeout, retries=retries)
    return Action(rule=rule, path=answer_path if answer else change_path)


def grpc_action(reader: Reader) -> Action:
    """What a rule of a GRPCRoute does."""
    reader.unsupported("sessionPersistence", "timeouts", "retry")
    return Action(rule=_rule(reader, Filters(reader, _GRPC_FILTERS), None))


def _rule(reader: Reader, filters: Filters, answer: Redirect | None) -> HTTPRule:
    """What both kinds have. Without anywhere to go the answer is 500, as the specification has it."""
    route = _backends(reader)
    return HTTPRule(
        line=reader.line,
        where=reader.path,
        name=reader.optional("name", text) or "",
        route=route,
        redirect=answer,
        direct_response=None if route or answer else _NOTHING,
        mirrors=tuple(map(mirror, filters.all(MIRROR))),
        request_headers=filters.headers(REQUEST_HEADERS),
        response_headers=filters.headers(RESPONSE_HEADERS),
    )


def _backends(reader: Reader) -> tuple[WeightedDestination, ...]:
    """The backends; none if no request would go to any."""
    route = tuple(map(_weighted, reader.children("backendRefs")))
    return route if any(each.weight for each in route) else ()


def _weighted(reader: Reader) -> WeightedDestination:
    weight = reader.optional("weight", integer(0, MAX_WEIGHT))
    filters = Filters(reader, (REQUEST_HEADERS, RESPONSE_HEADERS))
    return WeightedDestination(
        destination=backend(reader),
        weight=1 if weight is None else weight,
        request_headers=filters.headers(REQUEST_HEADERS),
        response_headers=filters.headers(RESPONSE_HEADERS),
        line=reader.line,
        where=reader.path,
    )


def _times(reader: Reader) -> tuple[timedelta | None, Retries | None]:
    """How long a rule lets things take, and how often it tries. A limit for each try alone leaves the default policy in force."""
    timeouts, retry = reader.child("timeouts"), reader.child("retry")
    whole = timeouts.optional("request", _DURATION)
    each = timeouts.optional("backendRequest", _DURATION) or None
    if whole and each and each > whole:
        timeouts.problem("backendRequest", "is longer than `request`")
    codes = retry.several("codes", integer(400, 599))
    attempts = retry.optional("attempts", integer(0, INT32))
    backoff = retry.optional("backoff", duration(MILLISECOND))
    if not retry.present:
        return whole, Retries(attempts=DEFAULT_ATTEMPTS, per_try_timeout=each) if each else None
    return whole, Retries(
        attempts=DEFAULT_ATTEMPTS if attempts is None else attempts,
        per_try_timeout=each,
        retry_on=(*_RETRY_ON, *map(str, codes)),
        backoff=backoff,
    )
