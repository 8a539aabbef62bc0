"""What an Operation says of a request, as an RBAC permission. Pure.

Rules:
- `*` is presence, `*x` and `x*` are ends, as Istio has it. Ports are numbers, methods and paths are compared as they are.
- A host is compared without regard to case, and to a port that the value does not name: clients write it or not as they like,
  or only its colon.
- A path is compared without its query. In a template `{*}` is one segment and `{**}` whatever is there, also nothing; it becomes an
  expression, which gRPC knows too.
"""

import re
from collections.abc import Callable, Iterator
from typing import TypeVar

from envoy.config.rbac.v3.rbac_pb2 import Permission
from envoy.config.route.v3.route_components_pb2 import HeaderMatcher
from envoy.type.matcher.v3.path_pb2 import PathMatcher
from envoy.type.matcher.v3.string_pb2 import StringMatcher

from meshca.router.mesh.objects import Operation
from meshca.router.parsing.re2 import Piece, Wild, expression, fits, regex

V = TypeVar("V", int, str)

_WITH_PORT = r"(?:\[.*\]|[^:]*):[0-9]*"
_NAMES_PORT = re.compile(_WITH_PORT, re.DOTALL)
_TEMPLATE = re.compile(r"(\{\*\*?\})")
_OPERATORS = {"{*}": Wild.SEGMENT, "{**}": Wild.ANY}


def permission(operation: Operation, *, http: bool) -> Permission:
    """The operation as one permission: all its fields, or those that a TCP connection has. Without fields it matches everything."""
    fields = [*_ports(operation), *(_http(operation) if http else ())]
    return Permission(and_rules=Permission.Set(rules=fields)) if fields else Permission(any=True)


def is_too_long(path: str) -> bool:
    """Whether the path is a template whose expression Envoy would not take."""
    pieces = _template(path)
    return len(pieces) > 1 and not fits(*pieces)


def _ports(operation: Operation) -> Iterator[Permission]:
    yield from _field(operation.ports, operation.not_ports, lambda port: Permission(destination_port=port))


def _http(operation: Operation) -> Iterator[Permission]:
    yield from _field(operation.hosts, operation.not_hosts, _host)
    yield from _field(operation.methods, operation.not_methods, _method)
    yield from _field(operation.paths, operation.not_paths, _path)


def _field(values: tuple[V, ...], not_values: tuple[V, ...], read: Callable[[V], Permission]) -> Iterator[Permission]:
    if values:
        yield _any_of(values, read)
    if not_values:
        yield Permission(not_rule=_any_of(not_values, read))


def _any_of(values: tuple[V, ...], read: Callable[[V], Permission]) -> Permission:
    return Permission(or_rules=Permission.Set(rules=map(read, values)))


def _host(value: str) -> Permission:
    if value == "*":
        return _header(":authority", None)
    if value.endswith("*"):
        return _authority(prefix=value[:-1])
    start, name = ("suffix", value[1:]) if value.startswith("*") else ("exact", value)
    as_it_is = _authority(**{start: name})
    if _NAMES_PORT.fullmatch(name):
        return as_it_is
    before = _authority(**{"contains" if start == "suffix" else "prefix": f"{name}:"})
    with_port = Permission(and_rules=Permission.Set(rules=[before, _header(":authority", regex(_WITH_PORT))]))
    return Permission(or_rules=Permission.Set(rules=[as_it_is, with_port]))


def _authority(**comparison: str) -> Permission:
    return _header(":authority", StringMatcher(**comparison, ignore_case=True))


def _method(value: str) -> Permission:
    return _header(":method", None if value == "*" else _text(value))


def _header(name: str, matcher: StringMatcher | None) -> Permission:
    """The header compares so; None: it is there."""
    return Permission(header=HeaderMatcher(name=name, string_match=matcher, present_match=None if matcher else True))


def _path(value: str) -> Permission:
    pieces = _template(value)
    matcher = _text(value) if len(pieces) == 1 else regex(expression(*pieces))
    return Permission(url_path=PathMatcher(path=matcher))


def _template(path: str) -> list[Piece]:
    return [_OPERATORS.get(text, text) for text in _TEMPLATE.split(path)]


def _text(value: str) -> StringMatcher:
    if value == "*":
        return regex(Wild.REST)
    if value.startswith("*"):
        return StringMatcher(suffix=value[1:])
    if value.endswith("*"):
        return StringMatcher(prefix=value[:-1])
    return StringMatcher(exact=value)
