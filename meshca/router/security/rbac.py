"""AuthorizationPolicies as RBAC filters of the callee's Envoy, or of a gRPC server. Pure.

Rules:
- The order is: DENY for certificates with several identities, DENY, ALLOW. The first is there whatever the
  policies say, where there are certificates.
- For HTTP, Envoy's filters refuse everybody, and the route says instead who may. So a policy holds from the next request on, over
  connections that are open too: Envoy lets these go on under the filters that they began with, but looks for the route each time.
- Of several sorts of callees all must agree. One filter has what any of them denies, and each set of ALLOW policies has one: how many
  sorts there are does not matter, only how many sets, and for those there are filters in reserve.
- Istio's meaning: any ALLOW policy makes the default deny, also one that is left with no rules; a policy without rules never matches; an
  empty rule matches everything; fields of a source or operation must all hold, their values are alternatives, `not_` values exclude.
- Dry-run policies become shadow rules: counted and logged, never enforced.
- A TCP connection has no host, method or path: an ALLOW rule that asks for one is dropped whole (less is allowed), a DENY rule loses the
  field (more is denied). `meshca.router.security.policy.dropped_on_tcp` says which.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from envoy.config.listener.v3.listener_components_pb2 import Filter
from envoy.config.rbac.v3.rbac_pb2 import RBAC, Policy, Principal
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as http_rbac
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import HttpFilter
from envoy.extensions.filters.network.rbac.v3 import rbac_pb2 as network_rbac
from envoy.type.matcher.v3.string_pb2 import StringMatcher
from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message

from meshca.router.mesh.objects import Action, AuthorizationPolicy, Operation, PolicyRule, Source
from meshca.router.parsing.re2 import regex
from meshca.router.security.callers import Comparison, Condition, Value, conditions
from meshca.router.security.guard import mixed_identities, several_identities
from meshca.router.security.operations import permission
from spiffe.id import TrustDomain

HTTP_FILTER = "envoy.filters.http.rbac"
NETWORK_FILTER = "envoy.filters.network.rbac"
MIXED_IDENTITIES = "meshca-mixed-identities"
"""The name of the rule that a refused peer is logged under."""

_RESERVE = 4
"""An HTTP listener has filters for so many sets of ALLOW policies, or for that times so many, and so on."""
_TCP_STATS = "tcp."  # Istio's prefix
_RBAC_ACTIONS = {Action.ALLOW: RBAC.ALLOW, Action.DENY: RBAC.DENY}


class _Seat(NamedTuple):
    """Where a filter stands among those of an HTTP listener."""

    action: Action
    number: int

    @property
    def name(self) -> str:
        """Of the filter."""
        return f"{HTTP_FILTER}.{self.action.lower()}" + (f".{self.number}" if self.number else "")


class _Decision(NamedTuple):
    """What one filter enforces and what it only watches; None: nothing."""

    seat: _Seat
    enforced: RBAC | None
    shadow: RBAC | None

    @property
    def http(self) -> http_rbac.RBAC:
        """As HTTP has it."""
        return http_rbac.RBAC(
            rules=self.enforced,
            shadow_rules=self.shadow,
            shadow_rules_stat_prefix=_shadow_stats(self.seat.action) if self.shadow else "",
        )


Sorts = Sequence[Sequence[AuthorizationPolicy]]
"""The policies that hold for each sort of callees that one listener stands for."""


def http_filters(allowing: int, *, plaintext: bool = False) -> tuple[HttpFilter, ...]:
    """The filters to put before Envoy's router, in order, with so many for ALLOW: they refuse whoever is not let in by `http_rules`.

    A chain without TLS says so with `plaintext`: where there is no certificate to look at, Envoy's match tree refuses everybody (tried).
    """
    guard = () if plaintext else (_http_filter("identity", http_rbac.RBAC(matcher=several_identities())),)
    return (*guard, *map(_closed, _seats(allowing)))


def http_allowing(sorts: Sorts) -> int:
    """How many filters for ALLOW an HTTP listener for these sorts has: at least as many as they need, and mostly more."""
    allowing, needed = _RESERVE, len(_allowing(sorts))
    while allowing < needed:
        allowing *= _RESERVE
    return allowing


def http_rules(sorts: Sorts) -> dict[str, Any]:
    """What a route says to these filters, by filter: the policies that apply to each sort of callees, all of which must agree."""
    decisions = {decision.seat: decision.http for decision in _decisions(sorts, http=True)}
    seats = _seats(http_allowing(sorts))
    return {seat.name: _packed(http_rbac.RBACPerRoute(rbac=decisions.get(seat))) for seat in seats}


def proxyless_filters(sorts: Sorts, own: TrustDomain) -> tuple[HttpFilter, ...]:
    """The filters for a gRPC server of this trust domain, which ends connections when they change. It refuses two of one name."""
    guard = RBAC(action=RBAC.DENY, policies={MIXED_IDENTITIES: mixed_identities(own)})
    return (
        _http_filter("identity", http_rbac.RBAC(rules=guard)),
        *(
            HttpFilter(name=decision.seat.name, typed_config=_packed(decision.http))
            for decision in _decisions(sorts, http=True)
        ),
    )


def network_filters(sorts: Sorts, *, plaintext: bool = False) -> tuple[Filter, ...]:
    """The filters to put before Envoy's TCP proxy, in order: they hold for connections that begin. `plaintext` as in http_filters().

    Envoy decides when the first byte comes from the client. Where the server speaks first, whoever has a certificate of a trusted CA
    hears its greeting, and no more (tried).
    """
    guard = network_rbac.RBAC(matcher=several_identities(), stat_prefix=_TCP_STATS)
    return (
        *(() if plaintext else (_network_filter(guard),)),
        *(_network_decision(decision) for decision in _decisions(sorts, http=False)),
    )


def _seats(allowing: int) -> tuple[_Seat, ...]:
    return (_Seat(Action.DENY, 0), *(_Seat(Action.ALLOW, number) for number in range(allowing)))


def _closed(seat: _Seat) -> HttpFilter:
    """The filter that lets nobody in, unless the route says whom."""
    nobody = http_rbac.RBAC(rules=RBAC(action=RBAC.ALLOW), shadow_rules_stat_prefix=_shadow_stats(seat.action))
    return HttpFilter(name=seat.name, typed_config=_packed(nobody))


def _shadow_stats(action: Action) -> str:
    return f"istio_dry_run_{action.lower()}_"


def _decisions(sorts: Sorts, *, http: bool) -> Iterator[_Decision]:
    """What the filters decide, DENY first; an action that no policy has needs none."""
    denying = {each.origin: each for policies in sorts for each in policies if each.action is Action.DENY}
    for seat, policies in zip(_seats(len(sorts)), (tuple(denying.values()), *_allowing(sorts)), strict=False):
        if policies:
            enforced = _rules(seat.action, [policy for policy in policies if not policy.dry_run], http=http)
            shadow = _rules(seat.action, [policy for policy in policies if policy.dry_run], http=http)
            yield _Decision(seat, enforced, shadow)


def _allowing(sorts: Sorts) -> list[tuple[AuthorizationPolicy, ...]]:
    """The ALLOW policies of each sort, every set of them once. A sort without any has no say: it lets everybody in."""
    sets = (tuple(each for each in policies if each.action is Action.ALLOW) for policies in sorts)
    return list({frozenset(each.origin for each in policies): policies for policies in sets if policies}.values())


def _rules(action: Action, policies: Sequence[AuthorizationPolicy], *, http: bool) -> RBAC | None:
    """The rules of some policies; None where there is no policy, which is not the same as policies without rules."""
    if not policies:
        return None
    rules = RBAC(action=_RBAC_ACTIONS[action])
    for policy in policies:
        for index, rule in enumerate(policy.rules):
            if http or not _needs_http(policy, rule):
                name = f"ns[{policy.origin.namespace}]-policy[{policy.origin.name}]-rule[{index}]"
                rules.policies[name].CopyFrom(_rule(rule, policy.origin.namespace, http=http))
    return rules


def _needs_http(policy: AuthorizationPolicy, rule: PolicyRule) -> bool:
    """Whether a TCP port goes without the rule: as in Istio, also if only one of its operations asks for HTTP."""
    return policy.action is Action.ALLOW and any(operation.needs_http for operation in rule.operations)


def _rule(rule: PolicyRule, namespace: str, *, http: bool) -> Policy:
    return Policy(
        permissions=[permission(operation, http=http) for operation in rule.operations or (Operation(),)],
        principals=[_caller(source, namespace) for source in rule.sources or (Source(),)],
    )


def _caller(source: Source, namespace: str) -> Principal:
    ids = [_condition(each) for each in conditions(source, namespace)]
    return Principal(and_ids=Principal.Set(ids=ids)) if ids else Principal(any=True)


def _condition(condition: Condition) -> Principal:
    any_of = Principal(or_ids=Principal.Set(ids=map(_value, condition.values)))
    return Principal(not_id=any_of) if condition.negated else any_of


def _value(value: Value) -> Principal:
    ids = [Principal(authenticated=Principal.Authenticated(principal_name=_matcher(each))) for each in value]
    return ids[0] if len(ids) == 1 else Principal(and_ids=Principal.Set(ids=ids))


def _matcher(comparison: Comparison) -> StringMatcher:
    if comparison.kind == "safe_regex":
        return regex(comparison.text)
    return StringMatcher(**{comparison.kind: comparison.text})


def _network_decision(decision: _Decision) -> Filter:
    return _network_filter(
        network_rbac.RBAC(
            rules=decision.enforced,
            shadow_rules=decision.shadow,
            shadow_rules_stat_prefix=_shadow_stats(decision.seat.action) if decision.shadow else "",
            stat_prefix=_TCP_STATS,
        )
    )


def _http_filter(name: str, rbac: http_rbac.RBAC) -> HttpFilter:
    return HttpFilter(name=f"{HTTP_FILTER}.{name}", typed_config=_packed(rbac))


def _network_filter(rbac: network_rbac.RBAC) -> Filter:
    return Filter(name=NETWORK_FILTER, typed_config=_packed(rbac))


def _packed(message: Message) -> Any:
    """Packed the same way each time, since a version is a hash of the bytes."""
    packed = Any()
    packed.Pack(message, deterministic=True)
    return packed
