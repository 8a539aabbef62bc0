"""Routes as gRPC takes them, from those that a proxy has. Pure.

Rules:
- A rule that no gRPC request can match is left out: it has no query, and is a POST. Conditions on authority and scheme gRPC does not
  have, so such a rule is left out, too.
- What gRPC does not do with a request, such as rewriting, mirroring and headers, stays in place, where it overlooks it. A call that a rule
  redirects or answers directly fails.
"""

import re
from collections.abc import Iterable

from envoy.config.route.v3.route_components_pb2 import HeaderMatcher, Route, RouteMatch
from envoy.type.matcher.v3.string_pb2 import StringMatcher

from meshca.router.parsing.re2 import fullmatch

_METHOD = "POST"


def routes(of_proxy: Iterable[Route]) -> list[Route]:
    """Those that a gRPC request may match."""
    return [_adapted(route) for route in of_proxy if _is_possible(route.match)]


def destinations(of_proxy: Iterable[Route]) -> frozenset[str]:
    """The clusters that calls may be sent to."""
    actions = [route.route for route in of_proxy if _is_possible(route.match)]
    shares = (share.name for action in actions for share in action.weighted_clusters.clusters)
    return frozenset((*shares, *(action.cluster for action in actions if action.cluster)))


def _is_possible(match: RouteMatch) -> bool:
    pseudo = [each for each in match.headers if each.name.startswith(":")]
    return not match.query_parameters and all(map(_is_true, pseudo))


def _is_true(header: HeaderMatcher) -> bool:
    """Whether a condition on a pseudo-header holds for each gRPC request."""
    return header.name == ":method" and (_matches(header) is not header.invert_match)


def _matches(header: HeaderMatcher) -> bool:
    return header.WhichOneof("header_match_specifier") == "present_match" or _says(header.string_match)


def _says(how: StringMatcher) -> bool:
    match how.WhichOneof("match_pattern"):
        case "exact":
            return bool(how.exact == _METHOD)
        case "prefix":
            return _METHOD.startswith(how.prefix)
        case "suffix":
            return _METHOD.endswith(how.suffix)
        case _:
            return fullmatch(how.safe_regex.regex, _METHOD)


def _adapted(route: Route) -> Route:
    made = Route()
    made.CopyFrom(route)
    del made.match.headers[:]
    made.match.headers.extend(each for each in route.match.headers if not each.name.startswith(":"))
    if route.match.path_separated_prefix:
        # gRPC refuses this kind of match, and all of the configuration with it.
        careless = route.match.HasField("case_sensitive") and not route.match.case_sensitive.value
        flag = "(?i)" if careless else ""
        made.match.safe_regex.regex = f"{flag}{re.escape(route.match.path_separated_prefix)}(/.*)?"
    return made
