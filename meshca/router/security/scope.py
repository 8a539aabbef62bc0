"""Which callers could be allowed by a callee, and so may see it. Pure.

Rules:
- Scope is economy, the callee's RBAC is the guard: what is not known of a caller beforehand (port, path, method, host) counts as
  possible, so that whoever could be allowed sees. A caller that is not told of a service can at most not find it.
- Dry-run policies do not count: they change nothing.
- The caller is taken to show its SVID. Who calls in plaintext where that is let in shows no identity at all.
"""

from collections.abc import Iterable

from meshca.router.mesh.objects import Action, AuthorizationPolicy, Operation, PolicyRule
from meshca.router.security.callers import matches_any
from spiffe.id import SpiffeID, TrustDomain


def may_call(policies: Iterable[AuthorizationPolicy], caller: SpiffeID, trust_domain: TrustDomain) -> bool:
    """Whether a callee to which these policies apply could let this caller in, whatever it asks for.

    Without an ALLOW policy that is its whole trust domain. False is certain: no request with this ID gets through. True is not.
    """
    enforced = [policy for policy in policies if not policy.dry_run]
    if any(_always_denies(policy, caller) for policy in enforced if policy.action is Action.DENY):
        return False
    allowing = [policy for policy in enforced if policy.action is Action.ALLOW]
    if not allowing:
        return caller.trust_domain == trust_domain
    return any(_could_match(policy, rule, caller) for policy in allowing for rule in policy.rules)


def _always_denies(policy: AuthorizationPolicy, caller: SpiffeID) -> bool:
    return any(_could_match(policy, rule, caller) for rule in policy.rules if _matches_every_request(rule))


def _matches_every_request(rule: PolicyRule) -> bool:
    return not rule.operations or Operation() in rule.operations


def _could_match(policy: AuthorizationPolicy, rule: PolicyRule, caller: SpiffeID) -> bool:
    return matches_any(rule, policy.origin.namespace, caller)
