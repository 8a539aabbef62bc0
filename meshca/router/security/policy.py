"""Which AuthorizationPolicies hold for a workload, and what of them can not hold as it is written. Pure.

Rules: a policy holds for the workloads of its namespace, one of the root namespace for those of all, that have all labels of its selector.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from meshca.router.mesh.objects import Action, AuthorizationPolicy, Operation, PeerAuthentication, Problem
from meshca.router.security.operations import is_too_long

ROOT_NAMESPACE = "istio-system"
_HTTP_FIELDS = ("hosts", "not_hosts", "methods", "not_methods", "paths", "not_paths")
_INSTEAD = {
    Action.ALLOW: "the whole rule is left out and allows nothing",
    Action.DENY: "the rule goes without this field and denies more",
}


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
