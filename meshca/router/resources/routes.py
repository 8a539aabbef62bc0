"""Virtual hosts and their routes: where a request goes, by its host, path and headers, and by who asks. Pure.

Rules:
- Rules keep their order, and the first that matches decides; a rule for other callers than this one is left out.
- A service without rules of its own gets one route: everything to its own cluster.
- Istio's defaults: no timeout, and two retries of what can not have done anything. A fault without a percentage affects nobody.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from itertools import chain

from envoy.config.core.v3.base_pb2 import HeaderValueOption
from envoy.config.route.v3.route_components_pb2 import (
    HeaderMatcher,
    QueryParameterMatcher,
    RedirectAction,
    RetryPolicy,
    RouteAction,
    RouteMatch,
    WeightedCluster,
)
from envoy.config.route.v3.route_components_pb2 import Route as RouteMessage
from envoy.extensions.filters.common.fault.v3.fault_pb2 import FaultDelay
from envoy.extensions.filters.http.fault.v3.fault_pb2 import FaultAbort, HTTPFault
from envoy.extensions.retry.host.previous_hosts.v3.previous_hosts_pb2 import PreviousHostsPredicate
from envoy.type.matcher.v3.regex_pb2 import RegexMatcher
from envoy.type.matcher.v3.string_pb2 import StringMatcher
from envoy.type.v3.percent_pb2 import FractionalPercent

from meshca.router.mesh.endpoints import namespace_of
from meshca.router.mesh.objects import (
    HeaderOperations,
    HTTPMatch,
    HTTPRule,
    MatchKind,
    Mirror,
    Redirect,
    Retries,
    StringMatch,
    WeightedDestination,
)
from meshca.router.mesh.table import ClusterKey, Route
from spiffe.id import SpiffeID

HTTP_PORT = 80
FAULT_FILTER = "envoy.filters.http.fault"
DEFAULT_RETRY_ON = ("connect-failure", "refused-stream", "unavailable", "cancelled", "retriable-status-codes")
DEFAULT_ATTEMPTS = 2
_HOST_TRIES = 20
"""How often a retry looks for an endpoint that it has not tried. With Istio's 5, and one of two endpoints dead and so the least busy, every
thirtieth request or so failed; looking costs nothing.
"""
_REDIRECTS = {
    301: RedirectAction.MOVED_PERMANENTLY,
    302: RedirectAction.FOUND,
    303: RedirectAction.SEE_OTHER,
    307: RedirectAction.TEMPORARY_REDIRECT,
    308: RedirectAction.PERMANENT_REDIRECT,
}
_ANYWHERE = HTTPMatch()


def routes(resolved: Sequence[Route], caller: SpiffeID, port: int | None = None) -> tuple[RouteMessage, ...]:
    """The routes of a virtual host as this caller has them, on this port of the service (None: whichever)."""
    return tuple(chain.from_iterable(_of_rule(each, caller, port) for each in resolved))


def is_for(resolved: Route, caller: SpiffeID) -> bool:
    """Whether a rule holds for this caller: where nobody is named, for everybody."""
    return not resolved.rule.source_principals or caller in resolved.rule.source_principals


def to_cluster(key: ClusterKey) -> RouteMessage:
    """Everything to one cluster, on Istio's default terms."""
    made = RouteMessage(name="default")
    made.match.prefix = "/"
    made.route.cluster = key.name
    _finish(made.route, HTTPRule(line=0, where=""))
    return made


def _of_rule(resolved: Route, caller: SpiffeID, port: int | None) -> Iterator[RouteMessage]:
    """One route for each way to match: matches of a rule are alternatives."""
    rule = resolved.rule
    if not is_for(resolved, caller):
        return
    for match in rule.matches or (_ANYWHERE,):
        if _concerns(match, caller, port):
            made = RouteMessage(name=rule.name, match=_match(match))
            _act(made, resolved, port)
            yield made


def _concerns(match: HTTPMatch, caller: SpiffeID, port: int | None) -> bool:
    """What is known already: who asks, and on which port."""
    right_namespace = match.source_namespace in {"", namespace_of(caller)}
    return right_namespace and (match.port is None or port is None or match.port == port)


def _match(match: HTTPMatch) -> RouteMatch:
    made = RouteMatch(headers=_headers(match))
    made.query_parameters.extend(_query(name, how) for name, how in match.query_params)
    if match.ignore_uri_case:
        made.case_sensitive.value = False
    uri = match.uri or StringMatch(MatchKind.PREFIX, "/")
    match uri.kind:
        case MatchKind.EXACT:
            made.path = uri.value
        case MatchKind.REGEX:
            made.safe_regex.CopyFrom(RegexMatcher(regex=uri.value))
        case MatchKind.PATH_PREFIX if uri.value.rstrip("/"):
            made.path_separated_prefix = uri.value.rstrip("/")
        case _:
            made.prefix = uri.value or "/"
    return made


def _headers(match: HTTPMatch) -> Iterator[HeaderMatcher]:
    pseudo = ((":method", match.method), (":authority", match.authority), (":scheme", match.scheme))
    for name, how in (*pseudo, *match.headers):
        if how is not None:
            yield _header(name, how)
    for name, how in match.without_headers:
        made = _header(name, how)
        made.invert_match = True
        yield made


def _header(name: str, how: StringMatch) -> HeaderMatcher:
    if how.kind is MatchKind.PRESENT:
        return HeaderMatcher(name=name, present_match=True)
    return HeaderMatcher(name=name, string_match=_string(how))


def _query(name: str, how: StringMatch) -> QueryParameterMatcher:
    if how.kind is MatchKind.PRESENT:
        return QueryParameterMatcher(name=name, present_match=True)
    return QueryParameterMatcher(name=name, string_match=_string(how))


def _string(how: StringMatch) -> StringMatcher:
    match how.kind:
        case MatchKind.REGEX:
            return StringMatcher(safe_regex=RegexMatcher(regex=how.value))
        case MatchKind.PREFIX:
            return StringMatcher(prefix=how.value)
        case MatchKind.SUFFIX:
            return StringMatcher(suffix=how.value)
        case _:
            return StringMatcher(exact=how.value)


def _act(made: RouteMessage, resolved: Route, port: int | None) -> None:
    rule = resolved.rule
    if rule.redirect:
        made.redirect.CopyFrom(_redirect(rule.redirect, port))
    elif rule.direct_response:
        made.direct_response.status = rule.direct_response.status
        if rule.direct_response.body:
            made.direct_response.body.inline_bytes = rule.direct_response.body
    else:
        _send(made.route, resolved)
    made.request_headers_to_add.extend(_added(rule.request_headers))
    made.request_headers_to_remove.extend(rule.request_headers.remove)
    made.response_headers_to_add.extend(_added(rule.response_headers))
    made.response_headers_to_remove.extend(rule.response_headers.remove)
    if rule.delay or rule.abort:
        made.typed_per_filter_config[FAULT_FILTER].Pack(_fault(rule), deterministic=True)


def _send(made: RouteAction, resolved: Route) -> None:
    rule, total = resolved.rule, sum(each.weight or 0 for each in resolved.rule.route)
    if len(rule.route) == 1 and not _touches_headers(rule):
        made.cluster = resolved.clusters[0].name
    else:
        for part, key in zip(rule.route, resolved.clusters, strict=True):
            weight = part.weight if total else 1
            if weight:
                made.weighted_clusters.clusters.append(_share(part, key, weight))
    made.request_mirror_policies.extend(map(_mirror, rule.mirrors, resolved.mirrors))
    _finish(made, rule)


def _touches_headers(rule: HTTPRule) -> bool:
    nothing = HeaderOperations()
    return any(
        each.request_headers != nothing or each.response_headers != nothing or each.authority for each in rule.route
    )


def _share(part: WeightedDestination, key: ClusterKey, weight: int) -> WeightedCluster.ClusterWeight:
    made = WeightedCluster.ClusterWeight(
        name=key.name,
        request_headers_to_add=_added(part.request_headers),
        request_headers_to_remove=part.request_headers.remove,
        response_headers_to_add=_added(part.response_headers),
        response_headers_to_remove=part.response_headers.remove,
    )
    made.weight.value = weight
    if part.authority:
        made.host_rewrite_literal = part.authority
    return made


def _mirror(mirror: Mirror, key: ClusterKey) -> RouteAction.RequestMirrorPolicy:
    made = RouteAction.RequestMirrorPolicy(cluster=key.name, disable_shadow_host_suffix_append=True)
    made.runtime_fraction.default_value.CopyFrom(_fraction(mirror.share))
    made.trace_sampled.value = False
    return made


def _finish(made: RouteAction, rule: HTTPRule) -> None:
    """Timeout, retries, rewriting."""
    made.timeout.FromTimedelta(rule.timeout or timedelta())
    made.max_stream_duration.max_stream_duration.FromTimedelta(rule.timeout or timedelta())
    attempts = DEFAULT_ATTEMPTS if rule.retries is None else rule.retries.attempts
    if attempts > 0:
        made.retry_policy.CopyFrom(_retry(rule.retries or Retries(attempts=attempts)))
    rewrite = rule.rewrite
    if rewrite is None:
        return
    if rewrite.uri:
        made.prefix_rewrite = rewrite.uri
    if rewrite.full_path:
        made.regex_rewrite.pattern.regex, made.regex_rewrite.substitution = ".*", rewrite.full_path
    if rewrite.regex:
        made.regex_rewrite.pattern.regex, made.regex_rewrite.substitution = rewrite.regex, rewrite.substitution
    if rewrite.authority:
        made.host_rewrite_literal = rewrite.authority


def _retry(retries: Retries) -> RetryPolicy:
    """`retry_on` has Envoy's names, and numbers that become status codes."""
    codes = [int(each) for each in retries.retry_on if each.isdigit()]
    names = [each for each in retries.retry_on if not each.isdigit()] or list(DEFAULT_RETRY_ON)
    if codes and "retriable-status-codes" not in names:
        names.append("retriable-status-codes")
    made = RetryPolicy(
        retry_on=",".join(names), retriable_status_codes=codes, host_selection_retry_max_attempts=_HOST_TRIES
    )
    made.num_retries.value = retries.attempts
    if retries.per_try_timeout:
        made.per_try_timeout.FromTimedelta(retries.per_try_timeout)
    if retries.backoff:
        made.retry_back_off.base_interval.FromTimedelta(retries.backoff)
    if retries.ignore_previous_hosts:
        predicate = made.retry_host_predicate.add(name="envoy.retry_host_predicates.previous_hosts")
        predicate.typed_config.Pack(PreviousHostsPredicate(), deterministic=True)
    return made


def _redirect(redirect: Redirect, dialled: int | None) -> RedirectAction:
    """Envoy keeps the port of the request with its host; with another host that is said, unless HTTP means it anyway."""
    made = RedirectAction(response_code=_REDIRECTS[redirect.code])
    if redirect.uri:
        made.path_redirect = redirect.uri
    if redirect.prefix:
        made.prefix_rewrite = redirect.prefix
    if redirect.authority:
        made.host_redirect = redirect.authority
    if redirect.scheme:
        made.scheme_redirect = redirect.scheme
    kept = dialled if redirect.keep_port and redirect.authority and dialled != HTTP_PORT else None
    if port := redirect.port or kept:
        made.port_redirect = port
    return made


def _fault(rule: HTTPRule) -> HTTPFault:
    made = HTTPFault()
    if rule.delay:
        delay = FaultDelay(percentage=_fraction(rule.delay.share))
        delay.fixed_delay.FromTimedelta(rule.delay.fixed)
        made.delay.CopyFrom(delay)
    if rule.abort:
        abort = FaultAbort(percentage=_fraction(rule.abort.share))
        if rule.abort.http_status:
            abort.http_status = rule.abort.http_status
        else:
            abort.grpc_status = GRPC_CODES[rule.abort.grpc_status]
        made.abort.CopyFrom(abort)
    return made


GRPC_CODES = {
    name: number
    for number, name in enumerate(
        (
            "OK",
            "CANCELLED",
            "UNKNOWN",
            "INVALID_ARGUMENT",
            "DEADLINE_EXCEEDED",
            "NOT_FOUND",
            "ALREADY_EXISTS",
            "PERMISSION_DENIED",
            "RESOURCE_EXHAUSTED",
            "FAILED_PRECONDITION",
            "ABORTED",
            "OUT_OF_RANGE",
            "UNIMPLEMENTED",
            "INTERNAL",
            "UNAVAILABLE",
            "DATA_LOSS",
            "UNAUTHENTICATED",
        )
    )
}


def _fraction(share: int) -> FractionalPercent:
    return FractionalPercent(numerator=share, denominator=FractionalPercent.MILLION)


def _added(operations: HeaderOperations) -> Iterable[HeaderValueOption]:
    ways = (
        (operations.set, HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD),
        (operations.add, HeaderValueOption.APPEND_IF_EXISTS_OR_ADD),
    )
    for pairs, action in ways:
        for name, value in pairs:
            made = HeaderValueOption(append_action=action)
            made.header.key, made.header.value = name, value
            yield made
