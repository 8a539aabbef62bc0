"""Whether a callee takes mutual TLS only, as PeerAuthentication says. Pure.

Rules: the most special one that says something wins: the port's mode, then the workload's, its namespace's, the root namespace's. Of
several alike the first (by file and line) wins. Nothing written: STRICT (a deviation from Istio, docs/routing.md).
"""

from collections.abc import Iterable, Sequence

from meshca.router.mesh.endpoints import Instance
from meshca.router.mesh.objects import MTLSMode, PeerAuthentication
from meshca.router.security.policy import applies

_STRICTEST = (MTLSMode.STRICT, MTLSMode.PERMISSIVE, MTLSMode.DISABLE)


def mode(policies: Iterable[PeerAuthentication], callee: Instance, port: int) -> MTLSMode:
    """What this callee takes on this port of it."""
    ordered = _applicable(policies, callee)
    for policy in ordered:
        if policy.selector and port in policy.port_modes:
            return policy.port_modes[port]
    return next((policy.mode for policy in ordered if policy.mode is not None), MTLSMode.STRICT)


def strictest(modes: Iterable[MTLSMode]) -> MTLSMode:
    """Of those of several places that one listener stands for, the one that lets in least: nobody knows which is called."""
    return min(modes, key=_STRICTEST.index)


def _applicable(policies: Iterable[PeerAuthentication], callee: Instance) -> Sequence[PeerAuthentication]:
    """The most special first."""
    fitting = [each for each in policies if applies(each, callee.namespace, callee.labels)]
    return sorted(fitting, key=lambda each: (_rank(each, callee), each.origin[:2]))


def _rank(policy: PeerAuthentication, callee: Instance) -> int:
    if policy.origin.namespace != callee.namespace:
        return 2
    return 0 if policy.selector else 1
