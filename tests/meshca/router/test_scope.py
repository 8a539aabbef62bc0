from itertools import product

import hypothesis.strategies as st
import pytest
from hypothesis import given

from meshca.router.mesh.objects import Action, AuthorizationPolicy, Operation, PolicyRule, Source
from meshca.router.security.scope import may_call
from spiffe.id import SpiffeID, TrustDomain
from tests.support.policies import OURS, account, allow, deny, policy, rule

PARTNER = TrustDomain("partner.example")
WEB = account("shop", "web")
WEB_ONLY = Source(principals=("example.org/ns/shop/sa/web",))
OTHERS = Source(not_principals=("example.org/ns/shop/sa/web",))


@pytest.mark.parametrize(
    ("policies", "expected"),
    [
        ((), True),
        ((allow(),), False),
        ((allow(dry_run=True),), True),
        ((allow(rule()),), True),
        ((allow(rule(WEB_ONLY)),), True),
        ((allow(rule(OTHERS)),), False),
        ((allow(rule(OTHERS, WEB_ONLY)),), True),
        ((allow(rule(OTHERS), rule(WEB_ONLY)),), True),
        ((allow(rule(OTHERS)), allow(rule(WEB_ONLY), name="q")), True),
        ((allow(rule(OTHERS)), allow(rule(WEB_ONLY), name="q", dry_run=True)), False),
        ((allow(rule(WEB_ONLY, Operation(methods=("PUT",), not_methods=("PUT",)))),), True),
        ((allow(rule(Source(principals=("*/sa/web",), namespaces=("jobs",)))),), False),
        ((allow(rule(Source(service_accounts=("web",))), namespace="jobs"),), False),
        ((deny(),), True),
        ((deny(rule()),), False),
        ((deny(rule(), dry_run=True),), True),
        ((deny(rule(WEB_ONLY)),), False),
        ((deny(rule(OTHERS)),), True),
        ((deny(rule(WEB_ONLY, Operation(ports=(80,)))),), True),
        ((deny(rule(WEB_ONLY, Operation(ports=(80,)), Operation())),), False),
        ((deny(rule(WEB_ONLY)), allow(rule(WEB_ONLY), name="q")), False),
    ],
)
def test_a_caller_sees_what_it_could_be_allowed(policies: tuple[AuthorizationPolicy, ...], expected: bool):
    assert may_call(policies, WEB, OURS) is expected


def test_without_an_allow_policy_only_the_own_trust_domain_sees():
    stranger = account("shop", "web", PARTNER)
    assert not may_call((deny(rule(WEB_ONLY)),), stranger, OURS)
    assert may_call((allow(rule(Source(trust_domains=("partner.example",)))),), stranger, OURS)


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        ("example.org/ns/shop/sa/web", True),
        ("spiffe://example.org/ns/shop/sa/web", True),
        ("example.org/ns/shop/sa/we", False),
        ("example.org/ns/shop/sa/web2", False),
        ("example.org/ns/shop/*", True),
        ("spiffe://example.org/*", True),
        ("spiffe://*", True),
        ("*", True),
        ("*web", True),
        ("*eb2", False),
        ("example.org/*/sa/web", False),
        ("*" + "n" * 200, False),
        ("\\C*", False),
        ("*\\C", False),
        ("*)", False),
    ],
)
def test_principals_are_compared_as_istio_does(value: str, seen: bool):
    assert may_call((allow(rule(Source(principals=(value,)))),), WEB, OURS) is seen
    assert may_call((allow(rule(Source(not_principals=(value,)))),), WEB, OURS) is not seen


def test_long_values_see_what_short_ones_see():
    namespace, name = "n" * 63, "a" * 63
    source = Source(service_accounts=(f"{namespace}/{name}",), namespaces=("x" * 90, f"{namespace[:-1]}*"))
    policies = (allow(rule(source)),)
    assert may_call(policies, account(namespace, name), OURS)
    assert not may_call(policies, account(namespace, f"{name}2"), OURS)
    assert not may_call((allow(rule(Source(namespaces=("x" * 90,)))),), WEB, OURS)


CALLERS = [
    SpiffeID(trust_domain=domain, path=path)
    for domain in (OURS, PARTNER)
    for path in ("/ns/a/sa/x", "/ns/a/sa/xy", "/ns/b/sa/x", "/api", "/z/ns/a/sa/x")
]
REQUESTS = list(product((80, 8080), ("GET", "POST"), ("/a", "/ab")))


def values(*pool: str) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(pool), max_size=2).map(tuple)


PRINCIPALS = values("*", "*/x", "example.org/*", "example.org/ns/a/sa/x", "spiffe://partner.example/api", "*y")
NAMESPACES = values("*", "a", "b", "c", "*a")
ACCOUNTS = values("x", "b/x", "x*", "a/*", "*")
DOMAINS = values("*", "example.org", "*.example", "partner.*")
SOURCES = st.builds(
    Source,
    principals=PRINCIPALS,
    not_principals=PRINCIPALS,
    namespaces=NAMESPACES,
    not_namespaces=NAMESPACES,
    service_accounts=ACCOUNTS,
    not_service_accounts=ACCOUNTS,
    trust_domains=DOMAINS,
    not_trust_domains=DOMAINS,
)
PORTS = st.lists(st.sampled_from([80, 8080]), max_size=1).map(tuple)
METHODS, PATHS = values("GET", "*T", "*"), values("/a", "/a*", "*b")
OPERATIONS = st.builds(
    Operation, ports=PORTS, not_ports=PORTS, methods=METHODS, not_methods=METHODS, paths=PATHS, not_paths=PATHS
)


def policies(operations: st.SearchStrategy[Operation]) -> st.SearchStrategy[list[AuthorizationPolicy]]:
    def few(of: st.SearchStrategy[object]) -> st.SearchStrategy[tuple[object, ...]]:
        return st.lists(of, max_size=2).map(tuple)

    rules = st.lists(st.builds(PolicyRule, sources=few(SOURCES), operations=few(operations)), max_size=2)
    return st.lists(
        st.builds(
            lambda action, rules, namespace, dry: policy(action, *rules, namespace=namespace, dry_run=dry),
            st.sampled_from(Action),
            rules,
            st.sampled_from("ab"),
            st.sampled_from([False, False, True]),
        ),
        max_size=3,
    )


def fits(value: str, text: str) -> bool:
    """Istio's comparison, by hand."""
    if value == "*":
        return text != ""
    if value.startswith("*"):
        return text[len(text) - len(value) + 1 :] == value[1:] if len(text) >= len(value) - 1 else False
    return text[: len(value) - 1] == value[:-1] if value.endswith("*") else text == value


def holds(wanted: tuple[str, ...], unwanted: tuple[str, ...], text: str) -> bool:
    return (not wanted or any(fits(v, text) for v in wanted)) and not any(fits(v, text) for v in unwanted)


def source_matches(source: Source, own: str, caller: SpiffeID) -> bool:
    parts = caller.path.split("/")
    in_scheme = len(parts) == 5 and parts[1] == "ns" and parts[3] == "sa"
    namespace, name = (parts[2], parts[4]) if in_scheme else ("", "")

    def bare(principals: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(each.replace("spiffe://", "") for each in principals)

    def is_account(value: str) -> bool:
        where, what = value.split("/") if "/" in value else (own, value)
        return fits(where, namespace) and fits(what, name)

    accounts, not_accounts = source.service_accounts, source.not_service_accounts
    return (
        holds(bare(source.principals), bare(source.not_principals), f"{caller.trust_domain}{caller.path}")
        and holds(source.namespaces, source.not_namespaces, namespace)
        and holds(source.trust_domains, source.not_trust_domains, str(caller.trust_domain))
        and (not accounts or any(map(is_account, accounts)))
        and not any(map(is_account, not_accounts))
    )


def operation_matches(operation: Operation, request: tuple[int, str, str]) -> bool:
    port, method, path = request
    return (
        (not operation.ports or port in operation.ports)
        and port not in operation.not_ports
        and holds(operation.methods, operation.not_methods, method)
        and holds(operation.paths, operation.not_paths, path)
    )


def passes(policies: list[AuthorizationPolicy], caller: SpiffeID, request: tuple[int, str, str]) -> bool:
    def matches(each: AuthorizationPolicy) -> bool:
        return any(
            any(source_matches(s, each.origin.namespace, caller) for s in r.sources or (Source(),))
            and any(operation_matches(o, request) for o in r.operations or (Operation(),))
            for r in each.rules
        )

    enforced = [each for each in policies if not each.dry_run]
    if any(matches(each) for each in enforced if each.action is Action.DENY):
        return False
    allowing = [each for each in enforced if each.action is Action.ALLOW]
    return any(map(matches, allowing)) if allowing else caller.trust_domain == OURS


@given(policies=policies(OPERATIONS), caller=st.sampled_from(CALLERS))
def test_whoever_sees_nothing_is_let_in_with_no_request(policies: list[AuthorizationPolicy], caller: SpiffeID):
    assert may_call(policies, caller, OURS) or not any(passes(policies, caller, request) for request in REQUESTS)


@given(policies=policies(st.just(Operation())), caller=st.sampled_from(CALLERS))
def test_where_only_identities_count_scope_and_policy_say_the_same(
    policies: list[AuthorizationPolicy], caller: SpiffeID
):
    assert may_call(policies, caller, OURS) is passes(policies, caller, REQUESTS[0])
