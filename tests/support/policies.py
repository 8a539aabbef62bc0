"""AuthorizationPolicies and callers for tests, short to write."""

from collections.abc import Mapping
from typing import Any

from meshca.router.mesh.objects import Action, AuthorizationPolicy, Operation, Origin, PolicyRule, Source
from spiffe.id import SpiffeID, TrustDomain

OURS = TrustDomain("example.org")


def policy(
    action: Action,
    *rules: PolicyRule,
    name: str = "p",
    namespace: str = "shop",
    selector: Mapping[str, str] | None = None,
    dry_run: bool = False,
) -> AuthorizationPolicy:
    """A policy of namespace shop, unless told otherwise."""
    origin = Origin("policies.yaml", 7, "AuthorizationPolicy", namespace, name)
    return AuthorizationPolicy(origin=origin, action=action, rules=rules, selector=selector or {}, dry_run=dry_run)


def allow(*rules: PolicyRule, **changes: Any) -> AuthorizationPolicy:
    """An ALLOW policy."""
    return policy(Action.ALLOW, *rules, **changes)


def deny(*rules: PolicyRule, **changes: Any) -> AuthorizationPolicy:
    """A DENY policy."""
    return policy(Action.DENY, *rules, **changes)


def rule(*parts: Source | Operation) -> PolicyRule:
    """A rule of these sources and operations."""
    return PolicyRule(
        sources=tuple(part for part in parts if isinstance(part, Source)),
        operations=tuple(part for part in parts if isinstance(part, Operation)),
    )


def account(namespace: str, name: str, trust_domain: TrustDomain = OURS) -> SpiffeID:
    """The ID of a service account in the ns/sa scheme."""
    return SpiffeID(trust_domain=trust_domain, path=f"/ns/{namespace}/sa/{name}")
