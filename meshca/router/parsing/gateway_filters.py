"""Filters of Gateway API's rules and backends. Pure."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from meshca.router.mesh.objects import (
    MILLION,
    Destination,
    HeaderOperations,
    HTTPRule,
    MatchKind,
    Mirror,
    Redirect,
    Rewrite,
    StringMatch,
)
from meshca.router.parsing import grammar
from meshca.router.parsing.actions import redirect_code
from meshca.router.parsing.destinations import PORT
from meshca.router.parsing.gateway_matches import Candidate
from meshca.router.parsing.reader import Reader, distinct
from meshca.router.parsing.scalars import INT32, integer, named, one_of, text, text_as

REQUEST_HEADERS = "RequestHeaderModifier"
RESPONSE_HEADERS = "ResponseHeaderModifier"
REDIRECT = "RequestRedirect"
REWRITE = "URLRewrite"
MIRROR = "RequestMirror"

_FIELDS = {
    REQUEST_HEADERS: "requestHeaderModifier",
    RESPONSE_HEADERS: "responseHeaderModifier",
    REDIRECT: "requestRedirect",
    REWRITE: "urlRewrite",
    MIRROR: "requestMirror",
}
_UNSUPPORTED = {"CORS": "", "ExtensionRef": "", "ExternalAuth": ""}
_REDIRECTED = 302
_SCHEME = named({"http": "http", "https": "https"})


class _PathChangeType(StrEnum):
    FULL = "ReplaceFullPath"
    PREFIX = "ReplacePrefixMatch"


@dataclass(frozen=True, slots=True, kw_only=True)
class PathChange:
    """What a redirect or a rewrite does to the path: another one, or another prefix in place of the matched one."""

    full: str = ""
    prefix: str | None = None

    def applied(self, rule: HTTPRule, candidate: Candidate) -> Iterator[HTTPRule]:
        """The rule with the path changed, for a candidate with a prefix if one is replaced.

        Later strings are replaced without regard to slashes, so `/foo` replaced by `/` takes two rules: for `/foo`, and for `/foo/`.
        """
        prefix = (self.prefix or "").rstrip("/")
        if self.full or self.prefix is None:
            yield _changed(rule, full=self.full)
        elif prefix and candidate.prefix:
            yield _changed(rule, prefix=prefix)
        elif candidate.prefix:
            yield _changed(_matching(rule, candidate, MatchKind.EXACT, candidate.prefix), full="/")
            yield _changed(_matching(rule, candidate, MatchKind.PREFIX, f"{candidate.prefix}/"), prefix="/")
        else:
            yield _changed(rule, prefix=f"{prefix}/" if prefix else "")


def _matching(rule: HTTPRule, candidate: Candidate, kind: MatchKind, path: str) -> HTTPRule:
    return replace(rule, matches=(replace(candidate.match, uri=StringMatch(kind, path)),))


def _changed(rule: HTTPRule, *, full: str = "", prefix: str = "") -> HTTPRule:
    if rule.redirect:
        return replace(rule, redirect=replace(rule.redirect, uri=full, prefix=prefix))
    if full or prefix:
        return replace(rule, rewrite=replace(rule.rewrite or Rewrite(), full_path=full, uri=prefix))
    return rule


class Filters:
    """The filters of a rule or a backend, by type."""

    def __init__(self, owner: Reader, known: Iterable[str]) -> None:
        self._owner = owner
        self._found: dict[str, list[Reader]] = {name: [] for name in known}
        kind = named({name: name for name in self._found}, _UNSUPPORTED)
        for each in owner.children("filters"):
            each.unsupported("cors", "extensionRef", "externalAuth")
            self._add(each, each.required("type", kind, ""))

    def _add(self, each: Reader, name: str) -> None:
        if not name:
            return
        if self._found[name] and name != MIRROR:
            each.problem("type", f"{name} is there twice")
        self._found[name].append(each.child(_FIELDS[name], required=True))

    def all(self, name: str) -> tuple[Reader, ...]:
        """All filters of a type."""
        return tuple(self._found.get(name, ()))

    def one(self, name: str) -> Reader:
        """The filter of a type, or one that is not there."""
        return next(iter(self.all(name)), self._owner.absent())

    def headers(self, name: str) -> HeaderOperations:
        """What one of the header filters says."""
        reader = self.one(name)
        return HeaderOperations(
            set=_header_values(reader, "set"),
            add=_header_values(reader, "add"),
            remove=reader.several("remove", text_as(grammar.changed_header)),
        )


def _header_values(reader: Reader, name: str) -> tuple[tuple[str, str], ...]:
    readers = reader.children(name)
    names = [each.required("name", text_as(grammar.changed_header), "") for each in readers]
    distinct(readers, "name", [each or None for each in names])
    values = [each.required("value", text_as(grammar.literal_value), "") for each in readers]
    return tuple(zip(names, values, strict=True))


def redirect(reader: Reader) -> tuple[Redirect | None, PathChange]:
    """A redirect, and what it does to the path. The port that was asked is kept unless a scheme is named, which brings its own."""
    change = _path_change(reader)
    port, scheme = reader.optional("port", PORT), reader.optional("scheme", _SCHEME) or ""
    found = Redirect(
        authority=reader.optional("hostname", text_as(grammar.host)) or "",
        scheme=scheme,
        port=port,
        keep_port=not scheme and port is None,
        code=reader.optional("statusCode", redirect_code) or _REDIRECTED,
    )
    if reader.present and not any(map(reader.has, ("hostname", "scheme", "port", "path"))):
        reader.problem("", "leads nowhere else: needs one of hostname, path, port, scheme")
    return found if reader.present else None, change


def rewrite(reader: Reader) -> tuple[Rewrite | None, PathChange]:
    """A rewrite, and what it does to the path."""
    change = _path_change(reader)
    authority = reader.optional("hostname", text_as(grammar.host)) or ""
    return Rewrite(authority=authority) if authority else None, change


def _path_change(reader: Reader) -> PathChange:
    path = reader.child("path")
    kind = path.required("type", one_of(_PathChangeType), _PathChangeType.FULL)
    full = path.optional("replaceFullPath", text_as(grammar.target)) or ""
    prefix = path.optional("replacePrefixMatch", text_as(_prefix))
    wanted = "replaceFullPath" if kind is _PathChangeType.FULL else "replacePrefixMatch"
    if path.present and path.choice("replaceFullPath", "replacePrefixMatch") not in {wanted, ""}:
        path.problem("type", f"{kind} needs {wanted}")
    return PathChange(full=full, prefix=prefix)


def _prefix(written: str) -> str:
    """A prefix may be empty, which is the same as `/`."""
    return grammar.path(written or "/")


def mirror(reader: Reader) -> Mirror:
    """A copy of the requests, or of a share of them."""
    reader.choice("percent", "fraction", needed=False)
    target = reader.child("backendRef", required=True)
    percent, fraction = reader.optional("percent", integer(0, 100)), reader.child("fraction")
    numerator = fraction.required("numerator", integer(0, INT32), 0)
    denominator = fraction.optional("denominator", integer(1, INT32)) or 100
    if numerator > denominator:
        fraction.problem("numerator", f"{numerator} of {denominator} is more than all")
    share = MILLION if percent is None else percent * MILLION // 100
    share = numerator * MILLION // denominator if fraction.present else share
    return Mirror(destination=backend(target), share=share, line=reader.line, where=reader.path)


def backend(reader: Reader) -> Destination:
    """The Service of a backendRef."""
    kind, group = reader.optional("kind", text) or "Service", reader.optional("group", text) or ""
    if kind != "Service" or group not in {"", "core"}:
        reader.problem("kind", "a backend that is no Service is not supported by meshca")
    reader.unsupported("namespace", instead="ReferenceGrants are not read, backends are of the route's own namespace")
    return Destination(
        host=reader.required("name", text_as(grammar.host), ""), port=reader.required("port", PORT, 0) or None
    )
