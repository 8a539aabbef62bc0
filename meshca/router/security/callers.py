"""What a Source says of a caller: its fields as comparisons with a whole SPIFFE ID. Pure.

Rules:
- There is one reading for both who may pass (RBAC at the callee) and who may see (scope).
- Each value begins with `spiffe://`: Envoy also holds what it compares against DNS names and the subject of the certificate, and neither
  a host nor a common name may pass for an ID.
- Values are Istio's: `*` is presence, `*x` and `x*` are ends. Namespaces and service accounts are those of the ns/sa scheme, right below
  the trust domain.
- A value whose expression Envoy would not take becomes several comparisons that must all hold. They leave open how deep in the path it
  stands, as Istio's own expressions always do.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from meshca.router.mesh.objects import PolicyRule, Source
from meshca.router.parsing.re2 import Piece, Wild, expression, fits, fullmatch
from spiffe.id import SCHEME, SpiffeID


class Comparison(NamedTuple):
    """One comparison of an ID: `kind` is Envoy's word: exact, prefix, suffix, contains, safe_regex."""

    kind: str
    text: str

    def holds(self, spiffe_id: str) -> bool:
        """Whether it does for this ID."""
        return _HOLDS[self.kind](self.text, spiffe_id)


_HOLDS: dict[str, Callable[[str, str], bool]] = {
    "exact": lambda text, spiffe_id: spiffe_id == text,
    "prefix": lambda text, spiffe_id: spiffe_id.startswith(text),
    "suffix": lambda text, spiffe_id: spiffe_id.endswith(text),
    "contains": lambda text, spiffe_id: text in spiffe_id,
    "safe_regex": fullmatch,
}

Value = tuple[Comparison, ...]
"""One value of a field: all must hold."""


class Condition(NamedTuple):
    """The caller's ID must match one of the values; if `negated`, none."""

    values: tuple[Value, ...]
    negated: bool

    def holds(self, spiffe_id: str) -> bool:
        """Whether it does for a caller that shows this ID and no other."""
        return any(all(each.holds(spiffe_id) for each in value) for value in self.values) is not self.negated


def conditions(source: Source, namespace: str) -> tuple[Condition, ...]:
    """All that must hold for the source to match; none: everybody. `namespace` is the policy's, for service accounts that name none."""
    return tuple(_conditions(source, namespace))


def matches_any(rule: PolicyRule, namespace: str, spiffe_id: SpiffeID) -> bool:
    """Whether one of the rule's sources matches a caller with this ID; without sources every caller does."""
    text = str(spiffe_id)
    sources = rule.sources or (Source(),)
    return any(all(each.holds(text) for each in _conditions(source, namespace)) for source in sources)


def _conditions(source: Source, namespace: str) -> Iterator[Condition]:
    fields = (
        (source.principals, source.not_principals, _principal),
        (source.namespaces, source.not_namespaces, _namespace),
        (source.service_accounts, source.not_service_accounts, partial(_service_account, namespace)),
        (source.trust_domains, source.not_trust_domains, _trust_domain),
    )
    for values, not_values, read in fields:
        for each, negated in ((values, False), (not_values, True)):
            if each:
                yield Condition(tuple(map(read, each)), negated)


def _principal(value: str) -> Value:
    text = value.removeprefix(SCHEME)
    if text.startswith("*") and text != "*":
        return _value(SCHEME, Wild.ANY, text[1:])
    if text.endswith("*"):
        return (Comparison("prefix", SCHEME + text[:-1]),)
    return (Comparison("exact", SCHEME + text),)


def _namespace(value: str) -> Value:
    return _value(SCHEME, Wild.SEGMENT, "/ns/", *_segment(value), "/", Wild.REST)


def _service_account(own_namespace: str, value: str) -> Value:
    namespace, slash, name = value.rpartition("/")
    in_namespace = _segment(namespace if slash else own_namespace)
    return _value(SCHEME, Wild.SEGMENT, "/ns/", *in_namespace, "/sa/", *_segment(name))


def _trust_domain(value: str) -> Value:
    if "*" not in value:
        return (Comparison("prefix", f"{SCHEME}{value}/"),)
    return _value(SCHEME, *_segment(value), "/", Wild.REST)


def _segment(value: str) -> tuple[Piece, ...]:
    """The value as texts and wildcards within one segment; `*` alone wants one that is not empty."""
    if value == "*":
        return (Wild.SEGMENT,)
    first, *others = value.split("*")
    return (first, *(piece for text in others for piece in (Wild.PART, text)))


def _value(*pieces: Piece) -> Value:
    if fits(*pieces):
        return (Comparison("safe_regex", expression(*pieces)),)
    return tuple(_loosely(_joined(pieces)))


def _loosely(texts: list[str]) -> Iterator[Comparison]:
    """The texts between the wildcards, each on its own; the last is empty where a wildcard ends the value."""
    first, *middle, last = texts
    yield Comparison("prefix", first)
    for text in middle:
        yield Comparison("contains", text)
    if last:
        yield Comparison("suffix", last)


def _joined(pieces: tuple[Piece, ...]) -> list[str]:
    texts = [""]
    for piece in pieces:
        if isinstance(piece, Wild):
            texts.append("")
        else:
            texts[-1] += piece
    return texts
