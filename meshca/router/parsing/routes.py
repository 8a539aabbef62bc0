"""HTTP rules of a VirtualService: what matches, and what then happens. Pure."""

from collections.abc import Callable

from meshca.router.mesh.objects import HTTPMatch, HTTPRule, MatchKind, StringMatch
from meshca.router.parsing import grammar
from meshca.router.parsing.actions import direct_response, faults, redirect, retries, rewrite
from meshca.router.parsing.destinations import PORT, destinations, headers, mirrors
from meshca.router.parsing.envelope import accept_only
from meshca.router.parsing.reader import Reader
from meshca.router.parsing.regex import regular_expression
from meshca.router.parsing.scalars import MILLISECOND, boolean, duration, filled, text, text_as
from spiffe.id import SpiffeID

_NOT_BESIDE_AN_ANSWER = ("rewrite", "fault", "mirror", "mirrors")
_WITHOUT_EFFECT = ("timeout", "retries")


def http_rule(reader: Reader, callers: tuple[SpiffeID, ...]) -> HTTPRule:
    """One rule, limited to these callers (empty: everybody)."""
    _check_action(reader)
    reader.unsupported("corsPolicy", "delegate", "websocketUpgrade")
    changes = headers(reader)
    delay, abort = faults(reader.child("fault"))
    return HTTPRule(
        line=reader.line,
        where=reader.path,
        name=reader.optional("name", text) or "",
        matches=tuple(map(_match, reader.children("match"))),
        source_principals=callers,
        route=destinations(reader),
        redirect=redirect(reader.child("redirect")),
        direct_response=direct_response(reader.child("directResponse")),
        rewrite=rewrite(reader, changes.authority),
        timeout=reader.optional("timeout", duration(MILLISECOND, or_zero=True)),
        retries=retries(reader.child("retries")),
        delay=delay,
        abort=abort,
        mirrors=mirrors(reader),
        request_headers=changes.request,
        response_headers=changes.response,
    )


def _check_action(reader: Reader) -> None:
    """A rule does one thing, and an answer without a destination leaves nothing to rewrite, delay or try again."""
    action = reader.choice("route", "redirect", "directResponse")
    if action in {"redirect", "directResponse"}:
        for name in filter(reader.has, _NOT_BESIDE_AN_ANSWER):
            reader.problem(name, f"can not stand beside {action}")
        for name in filter(reader.has, _WITHOUT_EFFECT):
            reader.warn(name, f"has no effect beside {action}")


def _match(reader: Reader) -> HTTPMatch:
    reader.unsupported("name", "statPrefix")
    reader.unsupported("sourceLabels", instead="limit it to identities, by the annotation meshca.dev/source-principals")
    accept_only(reader, "gateways", "mesh", "there are no gateways")
    match = HTTPMatch(
        uri=_string_match(reader.child("uri"), grammar.path),
        ignore_uri_case=reader.optional("ignoreUriCase", boolean) or False,
        method=_string_match(reader.child("method"), grammar.method),
        authority=_string_match(reader.child("authority"), filled),
        scheme=_string_match(reader.child("scheme"), filled),
        headers=_string_matches(reader, "headers", grammar.matched_header),
        without_headers=_string_matches(reader, "withoutHeaders", grammar.matched_header),
        query_params=_string_matches(reader, "queryParams", filled),
        port=reader.optional("port", PORT),
        source_namespace=reader.optional("sourceNamespace", text_as(grammar.dns_label)) or "",
    )
    if match.ignore_uri_case and (match.uri is None or match.uri.kind is MatchKind.REGEX):
        reader.warn("ignoreUriCase", "has no effect without an exact or prefix match of the uri")
    return match


def _string_match(reader: Reader, check: Callable[[str], str]) -> StringMatch | None:
    """How a text is compared; None if nothing is said of it."""
    exact = reader.optional("exact", text_as(check))
    prefix = reader.optional("prefix", text_as(lambda value: check(filled(value))))
    regex = reader.optional("regex", text_as(regular_expression))
    if not reader.present:
        return None
    kind = reader.choice("exact", "prefix", "regex")
    return StringMatch(MatchKind(kind or "exact"), exact or prefix or regex or "")


def _string_matches(reader: Reader, name: str, key: Callable[[str], str]) -> tuple[tuple[str, StringMatch], ...]:
    """Named comparisons. One that says nothing asks for presence."""
    return tuple((key, _presence_or_match(each)) for key, each in reader.keyed(name, key).items())


def _presence_or_match(reader: Reader) -> StringMatch:
    if reader.is_empty():
        return StringMatch(MatchKind.PRESENT)
    return _string_match(reader, _value) or StringMatch(MatchKind.PRESENT)


def _value(value: str) -> str:
    """A value of a header or of a parameter: any text, also none."""
    return value
