"""Where requests go, and what happens to their headers on the way: the parts of a route that its rules and its shares have alike. Pure."""

from collections.abc import Iterable
from typing import NamedTuple

from meshca.router.mesh.objects import Destination, HeaderOperations, Mirror, WeightedDestination
from meshca.router.parsing import grammar
from meshca.router.parsing.reader import Reader
from meshca.router.parsing.scalars import INT32, integer, share, text_as

MAX_WEIGHTS = (1 << 32) - 1  # Envoy's sum of the weights of one route

PORT = integer(1, grammar.MAX_PORT)
_AUTHORITY = "host"


class Headers(NamedTuple):
    """What a `headers` block says. `authority` is what it sets the Host header to, which is not done like other headers."""

    request: HeaderOperations
    response: HeaderOperations
    authority: str


def destinations(rule: Reader) -> tuple[WeightedDestination, ...]:
    """The shares of a rule's `route`. Of several each has a weight."""
    readers = rule.children("route", filled=True)
    alone = len(readers) == 1
    route = tuple(_weighted(reader, alone=alone) for reader in readers)
    check_weights(rule, "route", route)
    return route


def check_weights(rule: Reader, name: str, route: Iterable[WeightedDestination]) -> None:
    """Report weights that Envoy could not do."""
    weights = [1 if each.weight is None else each.weight for each in route]
    if weights and not any(weights):
        rule.problem(name, "all weights are 0: requests would go nowhere")
    if sum(weights) > MAX_WEIGHTS:
        rule.problem(name, f"the weights add up to {sum(weights)}, at most {MAX_WEIGHTS} is possible")


def _weighted(reader: Reader, *, alone: bool) -> WeightedDestination:
    target = reader.child("destination", required=True)
    weight = reader.optional("weight", integer(0, INT32))
    if not alone and reader.present and not reader.has("weight"):
        reader.warn("weight", "of several destinations this one has no weight: nothing goes there")
    changes = headers(reader)
    return WeightedDestination(
        destination=destination(target),
        weight=weight if alone else weight or 0,
        request_headers=changes.request,
        response_headers=changes.response,
        authority=changes.authority,
        line=reader.line,
        where=reader.path,
    )


def destination(reader: Reader) -> Destination:
    """One destination."""
    return Destination(
        host=reader.required("host", text_as(grammar.host), ""),
        subset=reader.optional("subset", text_as(grammar.dns_label)) or "",
        port=port_selector(reader),
    )


def port_selector(reader: Reader, *, required: bool = False) -> int | None:
    """The number in Istio's `port: {number: 80}`."""
    return reader.child("port", required=required).required("number", PORT, 0) or None


def mirrors(rule: Reader) -> tuple[Mirror, ...]:
    """Both spellings: `mirror` with `mirrorPercentage` beside it, and `mirrors`."""
    rule.choice("mirror", "mirrors", needed=False)
    rule.unsupported("mirrorPercent", instead="write mirrorPercentage: {value: ...}")
    one = rule.child("mirror")
    portion = percent(rule, "mirrorPercentage")
    if rule.has("mirrorPercentage") and not rule.has("mirror"):
        rule.problem("mirrorPercentage", "there is no mirror that it could be of")
    alone = (_mirror(one, one, portion),) if one.present else ()
    several = rule.children("mirrors", filled=True)
    return alone + tuple(
        _mirror(reader, reader.child("destination", required=True), percent(reader, "percentage")) for reader in several
    )


def _mirror(reader: Reader, target: Reader, portion: int | None) -> Mirror:
    mirror = Mirror(destination=destination(target), line=reader.line, where=reader.path)
    if portion is None:
        return mirror
    return Mirror(destination=mirror.destination, share=portion, line=reader.line, where=reader.path)


def percent(reader: Reader, name: str) -> int | None:
    """The share in Istio's `percentage: {value: 0.1}`; None if it is not there."""
    child = reader.child(name)
    portion = child.required("value", share, 0)
    return portion if child.present else None


def headers(reader: Reader) -> Headers:
    """The `headers` block."""
    block = reader.child("headers")
    request, response = block.child("request"), block.child("response")
    operations, authority = _operations(request, authority=True)
    return Headers(operations, _operations(response, authority=False)[0], authority)


def _operations(reader: Reader, *, authority: bool) -> tuple[HeaderOperations, str]:
    value = text_as(grammar.header_value)
    overwritten = reader.mapping("set", _set_header if authority else grammar.changed_header, value)
    host = overwritten.pop(_AUTHORITY, "")
    if host:
        reader.optional("set", lambda _: grammar.authority(host))
    operations = HeaderOperations(
        set=tuple(overwritten.items()),
        add=tuple(reader.mapping("add", grammar.changed_header, value).items()),
        remove=reader.several("remove", text_as(grammar.changed_header)),
    )
    return operations, host


def _set_header(written: str) -> str:
    """The name of a request header to set. Host is one that becomes another operation."""
    return _AUTHORITY if written.lower() in {"host", ":authority"} else grammar.changed_header(written)
