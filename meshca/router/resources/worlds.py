"""From files to the world that views are made of. Pure.

Rules: a policy that is broken and was never good closes its namespace: nobody knows whom it was to keep out. One whose name or namespace
can not be read closes all of them: nobody knows which it was for.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain
from typing import TypeGuard

from meshca.router.directory import Files
from meshca.router.mesh.endpoints import Instance
from meshca.router.mesh.objects import Action, AuthorizationPolicy, Object, Origin, Parsed, PeerAuthentication, Problem
from meshca.router.mesh.state import State, following
from meshca.router.parsing.kinds import Parser
from meshca.router.resources.homes import loose
from meshca.router.resources.telemetry import telling
from meshca.router.resources.world import Rules, World
from meshca.router.security.peering import mode
from meshca.router.security.policy import (
    ROOT_NAMESPACE,
    Policies,
    applies,
    too_long,
)
from meshca.router.security.scope import may_call
from spiffe.id import TrustDomain


def _read(files: Files, parser: Parser) -> Parsed:
    """What the files say, and which could not be read."""
    parsed = parser.parse(files.texts)
    refused = too_long(each for each in parsed.objects if isinstance(each, AuthorizationPolicy))
    lost = {problem.label for problem in refused}
    return Parsed(
        objects=tuple(each for each in parsed.objects if each.origin.label not in lost),
        problems=(*files.problems, *parsed.problems, *refused),
        warnings=parsed.warnings,
    )


def understood(before: State, files: Files, parser: Parser, domain: str) -> State:
    """The state after reading these files, with a warning for each policy, or mode of a port, that holds nowhere."""
    state = following(before, _read(files, parser), domain)
    return replace(state, warnings=(*state.warnings, *_idle(state)))


def _idle(state: State) -> Iterator[Problem]:
    """Policies whose selector no workload fulfils: with a slip in a label nothing is guarded, and nothing else would tell."""
    selecting = [each for each in state.good.values() if _selects(each)]
    having = _by_label(state) if selecting else {}
    for each in selecting:
        rarest = min((having.get(label, []) for label in each.selector.items()), key=len)
        if not any(applies(each, workload.namespace, workload.labels) for workload in rarest):
            yield _odd(each.origin, "spec.selector", "no workload has these labels: it holds nowhere")
        elif isinstance(each, PeerAuthentication) and each.port_modes:
            yield from _idle_ports(each, rarest)


def _idle_ports(policy: PeerAuthentication, workloads: Iterable[Instance]) -> Iterator[Problem]:
    """Modes of ports that no workload has which is selected: most likely somebody meant the service's."""
    selected = (each for each in workloads if applies(policy, each.namespace, each.labels))
    known = {port for each in selected for port in each.ports.values()}
    only = f", only on {', '.join(map(str, sorted(known)))}" if known else ""
    for port in sorted(policy.port_modes.keys() - known):
        text = f"no workload with these labels is called on {port}{only}: it is the endpoint's port that counts, not the service's"
        yield _odd(policy.origin, f"spec.portLevelMtls.{port}", text)


def _odd(origin: Origin, where: str, text: str) -> Problem:
    return Problem(file=origin.file, line=origin.line, label=origin.label, field=where, text=text)


def _selects(each: Object) -> TypeGuard[AuthorizationPolicy | PeerAuthentication]:
    return isinstance(each, AuthorizationPolicy | PeerAuthentication) and bool(each.selector)


def _by_label(state: State) -> dict[tuple[str, str], list[Instance]]:
    """All workloads by each of their labels: policies and workloads are many, and are read at each change."""
    called = (each for service in state.table.services.values() for each in service.endpoints)
    found: dict[tuple[str, str], list[Instance]] = {}
    for workload in chain(called, loose(state.table, state.good.values())):
        for label in workload.labels.items():
            found.setdefault(label, []).append(workload)
    return found


def policies_of(state: State) -> tuple[AuthorizationPolicy, ...]:
    """The policies that hold, those included that stand for broken ones."""
    good = (each for each in state.good.values() if isinstance(each, AuthorizationPolicy))
    return (*good, *(_closing(problem) for problem in state.problems if _is_lost_policy(problem, state)))


def world_of(state: State, own: TrustDomain) -> World:
    """The world of a state: its table, and its policies as questions that a view asks."""
    policies = policies_of(state)
    found = Policies(policies)
    peering = [each for each in state.good.values() if isinstance(each, PeerAuthentication)]
    reporting, outside = state.table.reporting, tuple(loose(state.table, state.good.values()))

    def of(callee: Instance) -> tuple[AuthorizationPolicy, ...]:
        return found.of(callee.namespace, callee.labels)

    rules = Rules(
        may_call=lambda caller, callee: may_call(of(callee), caller, own),
        policies=of,
        mode=lambda callee, port: mode(peering, callee, port),
        tells=lambda workload: telling(reporting, workload.namespace, workload.labels),
        loose=outside,
        basis=(policies, tuple(peering), reporting, outside),
    )
    return World(own=own, table=state.table, rules=rules)


def _is_lost_policy(problem: Problem, state: State) -> bool:
    """Whether a policy is broken and was never good: nobody knows whom it was to keep out."""
    return problem.label.partition(" ")[0] == AuthorizationPolicy.__name__ and problem.label not in state.good


def _closing(problem: Problem) -> AuthorizationPolicy:
    """A policy that lets nobody in, in the place and namespace of a broken one."""
    kind, _, place = problem.label.partition(" ")
    namespace, _, name = place.partition("/")
    origin = Origin(
        file=problem.file, line=problem.line, kind=kind, namespace=namespace or ROOT_NAMESPACE, name=name or "unnamed"
    )
    return AuthorizationPolicy(origin=origin, action=Action.ALLOW, rules=())
