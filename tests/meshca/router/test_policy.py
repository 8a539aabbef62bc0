"""What is in the filters, for what Envoy would not show; how Envoy reads them: test_policy_envoy.py."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import hypothesis.strategies as st
import pytest
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from hypothesis import given

from meshca.router.mesh.objects import AuthorizationPolicy, Operation, Source
from meshca.router.parsing.re2 import fullmatch
from meshca.router.security.guard import mixed_identities
from meshca.router.security.policy import (
    Policies,
    applicable,
    dropped_on_tcp,
    too_long,
)
from meshca.router.security.rbac import (
    HTTP_FILTER,
    Sorts,
    http_allowing,
    http_filters,
    http_rules,
    network_filters,
    proxyless_filters,
)
from spiffe.id import TrustDomain
from tests.support.policies import OURS, allow, deny, rule

WEB = "example.org/ns/shop/sa/web"


def settings(filters: Sequence[Message]) -> list[tuple[str, dict[str, Any]]]:
    """The name of each filter and what it is set to, without its type."""
    found = [MessageToDict(each, preserving_proto_field_name=True) for each in filters]
    return [(each["name"], untyped(each["typed_config"])) for each in found]


def overrides(policies: Sequence[AuthorizationPolicy]) -> list[tuple[str, dict[str, Any]]]:
    """The name of each filter and what the route says to it."""
    found = {
        name: MessageToDict(each, preserving_proto_field_name=True) for name, each in http_rules((policies,)).items()
    }
    said = [(name, untyped(each).get("rbac", {})) for name, each in found.items()]
    assert [setting for _, setting in said[2:]] == [{}] * 3  # in reserve
    return said[:2]


def untyped(packed: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in packed.items() if key != "@type"}


@pytest.mark.parametrize(
    ("namespace", "labels", "expected"),
    [
        ("shop", {}, {"all-of-shop", "everywhere"}),
        ("shop", {"app": "web"}, {"all-of-shop", "web-of-shop", "everywhere", "web-everywhere"}),
        ("shop", {"app": "web", "version": "v1"}, {"all-of-shop", "web-of-shop", "everywhere", "web-everywhere"}),
        ("shop", {"app": "api"}, {"all-of-shop", "everywhere"}),
        ("jobs", {"app": "web"}, {"everywhere", "web-everywhere"}),
        ("istio-system", {}, {"everywhere"}),
    ],
)
def test_a_policy_holds_for_the_workloads_that_it_selects_in_its_namespace_and_in_all_from_the_root_namespace(
    namespace: str, labels: Mapping[str, str], expected: set[str]
):
    policies = (
        allow(name="all-of-shop"),
        deny(name="web-of-shop", selector={"app": "web"}),
        allow(name="everywhere", namespace="istio-system"),
        allow(name="web-everywhere", namespace="istio-system", selector={"app": "web"}),
    )
    assert {each.origin.name for each in applicable(policies, namespace, labels)} == expected
    assert Policies(policies).of(namespace, labels) == applicable(policies, namespace, labels)


def test_the_root_namespace_can_be_another():
    policies = (allow(name="mesh", namespace="mesh"), allow(name="istio", namespace="istio-system"))
    assert [each.origin.name for each in applicable(policies, "shop", {}, "mesh")] == ["mesh"]


def test_the_filters_are_as_istio_writes_them():
    policies = (
        allow(
            rule(Source(principals=(WEB,), not_namespaces=("jobs",)), Operation(ports=(80,), not_methods=("PUT",))),
            rule(),
        ),
        deny(rule(Source(trust_domains=("partner.example",))), namespace="istio-system", name="no-partner"),
        deny(name="nobody"),
        allow(rule(Source(principals=("*",)), Operation(paths=("/a*",))), name="trial", dry_run=True),
    )
    anything = [{"any": True}]
    not_jobs = {"safe_regex": {"regex": r"spiffe://[!-.0-~]+/ns/jobs/\C+"}}
    web = {"or_ids": {"ids": [{"authenticated": {"principal_name": {"exact": f"spiffe://{WEB}"}}}]}}
    port = {"or_rules": {"rules": [{"destination_port": 80}]}}
    put = {"or_rules": {"rules": [{"header": {"name": ":method", "string_match": {"exact": "PUT"}}}]}}
    assert overrides(policies) == [
        (
            "envoy.filters.http.rbac.deny",
            {
                "rules": {
                    "action": "DENY",
                    "policies": {
                        "ns[istio-system]-policy[no-partner]-rule[0]": {
                            "permissions": anything,
                            "principals": [all_ids(any_id({"prefix": "spiffe://partner.example/"}))],
                        }
                    },
                }
            },
        ),
        (
            "envoy.filters.http.rbac.allow",
            {
                "rules": {
                    "policies": {
                        "ns[shop]-policy[p]-rule[0]": {
                            "permissions": [{"and_rules": {"rules": [port, {"not_rule": put}]}}],
                            "principals": [all_ids(web, {"not_id": any_id(not_jobs)})],
                        },
                        "ns[shop]-policy[p]-rule[1]": {"permissions": anything, "principals": anything},
                    }
                },
                "shadow_rules": {
                    "policies": {
                        "ns[shop]-policy[trial]-rule[0]": {
                            "permissions": [
                                {
                                    "and_rules": {
                                        "rules": [{"or_rules": {"rules": [{"url_path": {"path": {"prefix": "/a"}}}]}}]
                                    }
                                }
                            ],
                            "principals": [all_ids(any_id({"prefix": "spiffe://"}))],
                        }
                    }
                },
                "shadow_rules_stat_prefix": "istio_dry_run_allow_",
            },
        ),
    ]


def any_id(*matchers: dict[str, Any]) -> dict[str, Any]:
    return {"or_ids": {"ids": [{"authenticated": {"principal_name": each}} for each in matchers]}}


def all_ids(*ids: dict[str, Any]) -> dict[str, Any]:
    return {"and_ids": {"ids": list(ids)}}


@pytest.mark.parametrize(
    ("policies", "expected"),
    [
        ((), []),
        ((allow(),), [{"rules": {}}]),
        ((deny(),), [{"rules": {"action": "DENY"}}]),
        (
            (deny(dry_run=True),),
            [{"shadow_rules": {"action": "DENY"}, "shadow_rules_stat_prefix": "istio_dry_run_deny_"}],
        ),
        ((allow(), deny(name="q")), [{"rules": {"action": "DENY"}}, {"rules": {}}]),
    ],
)
def test_rules_that_are_empty_are_not_rules_that_are_missing(
    policies: Sequence[AuthorizationPolicy], expected: list[dict[str, Any]]
):
    assert [setting for _, setting in overrides(policies) if setting] == expected
    assert [setting for _, setting in settings(network_filters((policies,), plaintext=True))] == [
        {**setting, "stat_prefix": "tcp."} for setting in expected
    ]
    assert [setting for _, setting in settings(proxyless_filters((policies,), OURS))[1:]] == expected


NINE = tuple(
    (deny(rule(), name=f"d{number}"), allow(rule(), name=f"a{number % 2}"), allow(rule(), name="all"))
    for number in range(9)
)
"""Sorts of callees. Of what is allowed there, there are two sets."""


@pytest.mark.parametrize("sorts", [(), ((),), ((), (allow(),)), NINE])
def test_the_filters_of_http_are_the_same_whatever_the_policies_say_and_of_how_many_sorts_of_callees(sorts: Sorts):
    """Else a change would be one of the listener, and would not hold on connections that are open."""
    guard, *deciding = settings(http_filters(http_allowing(sorts)))
    assert guard[0] == "envoy.filters.http.rbac.identity"
    assert [name for name, _ in deciding] == list(http_rules(sorts))
    assert [setting["rules"] for _, setting in deciding] == [{}] * 5
    assert settings(http_filters(4, plaintext=True)) == deciding


def test_what_any_sort_of_callees_denies_comes_together_and_each_set_of_what_is_allowed_once():
    denied, sets = [f"d{number}" for number in range(9)], [["a0", "all"], ["a1", "all"]]
    for made in ([*http_rules(NINE).values()][:3], network_filters(NINE)[1:], proxyless_filters(NINE, OURS)[1:]):
        said = [re.findall(r"policy\[(\w+)\]", str(MessageToDict(each))) for each in made]
        assert [sorted(each) for each in said] == [denied, *sets]


def test_where_more_is_allowed_apart_than_there_are_filters_for_there_are_many_more():
    sorts = [(allow(name=f"a{number}"),) for number in range(17)]
    assert [http_allowing(sorts[:needed]) for needed in (0, 1, 4, 5, 16, 17)] == [4, 4, 4, 16, 16, 64]
    names = [name for name, _ in settings(http_filters(64))]
    assert len(set(names)) == len(names) == len(http_rules(sorts)) + 1


def test_no_two_filters_for_grpc_have_one_name():
    sorts = ((allow(), deny(name="q")), (allow(name="other"),))
    made = [name for name, _ in settings(proxyless_filters(sorts, OURS))]
    assert made == [f"envoy.filters.http.rbac.{name}" for name in ("identity", "deny", "allow", "allow.1")]


def test_the_bytes_are_the_same_whatever_the_order_of_the_policies():
    policies = [allow(rule(Source(namespaces=("a",))), name=f"p{number}") for number in range(20)]
    once, again = (network_filters((order,))[1].SerializeToString() for order in (policies, policies[::-1]))
    assert once == again
    once, again = (
        http_rules((order,))[f"{HTTP_FILTER}.allow"].SerializeToString() for order in (policies, policies[::-1])
    )
    assert once == again


HTTP_RULE = rule(Operation(ports=(80,)), Operation(not_hosts=("a",), methods=("GET",)))


def test_what_does_not_hold_on_a_tcp_port_is_told():
    noted = dropped_on_tcp((allow(rule(), HTTP_RULE), deny(rule(Operation(paths=("/a",))), name="q")))
    assert {each.text for each in noted[:2]} == {
        "a TCP port has no HTTP: there the whole rule is left out and allows nothing"
    }
    assert [each.field for each in noted[:2]] == [
        "spec.rules[1].to[1].operation.notHosts",
        "spec.rules[1].to[1].operation.methods",
    ]
    assert str(noted[2]) == (
        "policies.yaml:7: AuthorizationPolicy shop/q: spec.rules[0].to[0].operation.paths: "
        "a TCP port has no HTTP: there the rule goes without this field and denies more"
    )


def test_a_template_that_envoy_would_refuse_is_told():
    longest, longer = "/{*}/" + "p" * 90, "/{*}/" + "p" * 91
    bad = deny(rule(Operation(paths=("/a",)), Operation(paths=(longest,), not_paths=("/ok", longer))))
    good = allow(rule(Operation(paths=("/" + "p" * 500, longest))))
    assert [(each.label, each.field) for each in too_long((bad, good))] == [
        ("AuthorizationPolicy shop/p", "spec.rules[0].to[1].operation.notPaths")
    ]


TRUST_DOMAINS = st.text("ab.", min_size=1, max_size=4)


@given(
    trust_domain=TRUST_DOMAINS,
    text=st.text("ab.-/\n\xff", max_size=8) | st.builds("{}/{}".format, TRUST_DOMAINS, st.text("ab\n", max_size=3)),
)
def test_whatever_is_not_of_a_trust_domain_is_of_another(trust_domain: str, text: str):
    policy = mixed_identities(TrustDomain(trust_domain))
    ours, other = (each.authenticated.principal_name for each in policy.principals[0].and_ids.ids)
    assert ours.prefix == f"spiffe://{trust_domain}/"
    spiffe_id = f"spiffe://{text}"
    assert fullmatch(other.safe_regex.regex, spiffe_id) is not spiffe_id.startswith(ours.prefix)
