"""AuthorizationPolicies as RBAC filters of the callee's Envoy, or of a gRPC server. Pure.

Rules:
- The order is: DENY for certificates with several identities, DENY, ALLOW. The first is there whatever the
  policies say, where there are certificates.
- Istio's meaning: any ALLOW policy makes the default deny, also one that is left with no rules; a policy without rules never matches; an
  empty rule matches everything; fields of a source or operation must all hold, their values are alternatives, `not_` values exclude.
- Dry-run policies become shadow rules: counted and logged, never enforced.
- A TCP connection has no host, method or path: an ALLOW rule that asks for one is dropped whole (less is allowed), a DENY rule loses the
  field (more is denied). `dropped_on_tcp` says which.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from envoy.config.listener.v3.listener_components_pb2 import Filter
from envoy.config.rbac.v3.rbac_pb2 import RBAC, Policy, Principal
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as http_rbac
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import HttpFilter
from envoy.extensions.filters.network.rbac.v3 import rbac_pb2 as network_rbac
from envoy.type.matcher.v3.string_pb2 import StringMatcher
from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message

from meshca.router.mesh.objects import (
    Action,
    AuthorizationPolicy,
    Operation,
    PeerAuthentication,
    PolicyRule,
    Problem,
    Source,
)
from meshca.router.parsing.re2 import regex
from meshca.router.security.callers import Comparison, Condition, Value, conditions
from meshca.router.security.guard import mixed_identities, several_identities
from meshca.router.security.operations import is_too_long, permission
from spiffe.id import TrustDomain

ROOT_NAMESPACE = "istio-system"
HTTP_FILTER = "envoy.filters.http.rbac"
NETWORK_FILTER = "envoy.filters.network.rbac"
MIXED_IDENTITIES = "meshca-mixed-identities"
"""The name of the rule that a refused peer is logged under."""

_TCP_STATS = "tcp."  # Istio's prefix
_RBAC_ACTIONS = {Action.ALLOW: RBAC.ALLOW, Action.DENY: RBAC.DENY}
_HTTP_FIELDS = ("hosts", "not_hosts", "methods", "not_methods", "paths", "not_paths")
_INSTEAD = {
    Action.ALLOW: "the whole rule is left out and allows nothing",
    Action.DENY: "the rule goes without this field and denies more",
}


class _Decision(NamedTuple):
    """What one filter enforces and what it only watches; None: nothing."""

    action: Action
    enforced: RBAC | None
    shadow: RBAC | None
    shadow_stats: str


def applicable(
    policies: Iterable[AuthorizationPolicy],
    namespace: str,
    labels: Mapping[str, str],
    root_namespace: str = ROOT_NAMESPACE,
) -> tuple[AuthorizationPolicy, ...]:
    """The policies that hold for a workload: those of its namespace and of the root namespace whose selector its labels fulfil."""
    return tuple(policy for policy in policies if applies(policy, namespace, labels, root_namespace))


def applies(
    policy: AuthorizationPolicy | PeerAuthentication,
    namespace: str,
    labels: Mapping[str, str],
    root_namespace: str = ROOT_NAMESPACE,
) -> bool:
    """Whether it holds for a workload."""
    return policy.origin.namespace in {namespace, root_namespace} and policy.selector.items() <= labels.items()


class Policies:
    """Many policies, as a workload finds its own: a mesh has one for each service, and asks for each of them at each change."""

    def __init__(self, policies: Sequence[AuthorizationPolicy]) -> None:
        self._policies = policies
        self._found: dict[object, list[int]] = {}
        """The places of those without a selector by namespace, and of others by a label that they select."""
        for number, policy in enumerate(policies):
            known_by = next(iter(policy.selector.items()), policy.origin.namespace)
            self._found.setdefault(known_by, []).append(number)

    def of(self, namespace: str, labels: Mapping[str, str]) -> tuple[AuthorizationPolicy, ...]:
        """Those that hold for a workload, in their order."""
        known_by = {namespace, ROOT_NAMESPACE, *labels.items()}
        numbers = sorted(number for each in known_by for number in self._found.get(each, ()))
        return applicable((self._policies[number] for number in numbers), namespace, labels)


def http_filters(policies: Iterable[AuthorizationPolicy], *, plaintext: bool = False) -> tuple[HttpFilter, ...]:
    """The filters to put before Envoy's router, in order. `policies` are those that apply.

    A chain without TLS says so with `plaintext`: where there is no certificate to look at, Envoy's match tree refuses everybody (tried).
    """
    guard = () if plaintext else (_http_filter("identity", http_rbac.RBAC(matcher=several_identities())),)
    return (*guard, *(_http_decision(decision) for decision in _decisions(policies, http=True)))


def proxyless_filters(policies: Iterable[AuthorizationPolicy], trust_domain: TrustDomain) -> tuple[HttpFilter, ...]:
    """The same for a gRPC server of this trust domain. No two have one name: gRPC would refuse them."""
    guard = RBAC(action=RBAC.DENY, policies={MIXED_IDENTITIES: mixed_identities(trust_domain)})
    return (
        _http_filter("identity", http_rbac.RBAC(rules=guard)),
        *(_http_decision(decision) for decision in _decisions(policies, http=True)),
    )


def network_filters(policies: Iterable[AuthorizationPolicy], *, plaintext: bool = False) -> tuple[Filter, ...]:
    """The filters to put before Envoy's TCP proxy, in order; otherwise as http_filters().

    Envoy decides when the first byte comes from the client. Where the server speaks first, whoever has a certificate of a trusted CA
    hears its greeting, and no more (tried).
    """
    guard = network_rbac.RBAC(matcher=several_identities(), stat_prefix=_TCP_STATS)
    return (
        *(() if plaintext else (_network_filter(guard),)),
        *(_network_decision(decision) for decision in _decisions(policies, http=False)),
    )


def too_long(policies: Iterable[AuthorizationPolicy]) -> tuple[Problem, ...]:
    """What Envoy would refuse, and the whole listener with it: set these policies aside before filters are made of them."""
    text = (
        "the template is too long: Envoy takes an expression of at most 100 instructions, about one for each character"
    )
    return tuple(
        _problem(policy, f"{place}.{_camel_case(name)}", text)
        for policy, place, operation in _operations(policies)
        for name in ("paths", "not_paths")
        if any(map(is_too_long, getattr(operation, name)))
    )


def dropped_on_tcp(policies: Iterable[AuthorizationPolicy]) -> tuple[Problem, ...]:
    """What of these policies does not hold on a TCP port as written, and what holds there instead: to be told, not to be refused."""
    return tuple(
        _problem(policy, f"{place}.{_camel_case(name)}", f"a TCP port has no HTTP: there {_INSTEAD[policy.action]}")
        for policy, place, operation in _operations(policies)
        for name in _HTTP_FIELDS
        if getattr(operation, name)
    )


def _operations(policies: Iterable[AuthorizationPolicy]) -> Iterator[tuple[AuthorizationPolicy, str, Operation]]:
    for policy in policies:
        for index, rule in enumerate(policy.rules):
            for number, operation in enumerate(rule.operations):
                yield policy, f"spec.rules[{index}].to[{number}].operation", operation


def _problem(policy: AuthorizationPolicy, field: str, text: str) -> Problem:
    origin = policy.origin
    return Problem(file=origin.file, line=origin.line, label=origin.label, field=field, text=text)


def _camel_case(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(map(str.capitalize, rest))


def _decisions(policies: Iterable[AuthorizationPolicy], *, http: bool) -> Iterator[_Decision]:
    """What the filters decide, DENY first; an action that no policy has needs none."""
    every = tuple(policies)
    for action in (Action.DENY, Action.ALLOW):
        mine = [policy for policy in every if policy.action is action]
        if mine:
            enforced = _rules(action, [policy for policy in mine if not policy.dry_run], http=http)
            shadow = _rules(action, [policy for policy in mine if policy.dry_run], http=http)
            yield _Decision(action, enforced, shadow, f"istio_dry_run_{action.lower()}_" if shadow else "")


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


def _http_decision(decision: _Decision) -> HttpFilter:
    rbac = http_rbac.RBAC(
        rules=decision.enforced, shadow_rules=decision.shadow, shadow_rules_stat_prefix=decision.shadow_stats
    )
    return _http_filter(decision.action.lower(), rbac)


def _network_decision(decision: _Decision) -> Filter:
    return _network_filter(
        network_rbac.RBAC(
            rules=decision.enforced,
            shadow_rules=decision.shadow,
            shadow_rules_stat_prefix=decision.shadow_stats,
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
