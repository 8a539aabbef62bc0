"""From files to the world that views are made of. Pure.

Rules: a policy that is broken and was never good closes its namespace: nobody knows whom it was to keep out. One whose name or namespace
can not be read closes all of them: nobody knows which it was for.
"""

from dataclasses import replace

from meshca.router.directory import Files
from meshca.router.mesh.endpoints import Instance
from meshca.router.mesh.objects import Action, AuthorizationPolicy, Origin, Parsed, PeerAuthentication, Problem
from meshca.router.mesh.state import State, following
from meshca.router.parsing.kinds import Parser
from meshca.router.resources.homes import loose
from meshca.router.resources.oddities import oddities
from meshca.router.resources.telemetry import telling
from meshca.router.resources.world import Rules, World
from meshca.router.security.peering import mode
from meshca.router.security.policy import (
    ROOT_NAMESPACE,
    Policies,
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
    """The state after reading these files, with a warning for what is written and most likely not meant."""
    state = following(before, _read(files, parser), domain)
    return replace(state, warnings=(*state.warnings, *oddities(state)))


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
