"""HTTPRoute and GRPCRoute of gateway.networking.k8s.io with a Service as parent, compiled to VirtualServices. Pure.

Rules: each match becomes a rule of its own, since the specification orders matches and not rules. Equal ones stay in the order in which
they are written.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

from meshca.router.mesh.objects import HTTPMatch, HTTPRule, VirtualService
from meshca.router.parsing import grammar
from meshca.router.parsing.destinations import PORT
from meshca.router.parsing.envelope import Envelope, source_principals
from meshca.router.parsing.gateway_matches import Candidate, grpc_match, http_match
from meshca.router.parsing.gateway_rules import Action, grpc_action, http_action
from meshca.router.parsing.reader import Reader
from meshca.router.parsing.scalars import text, text_as
from spiffe.id import SpiffeID

_SERVICE = "write `kind: Service` and `group: ''`, there are no gateways"


def http_route(envelope: Envelope) -> VirtualService:
    """Read an HTTPRoute. Whatever is wrong with it is in the report."""
    return _route(envelope, http_match, http_action)


def grpc_route(envelope: Envelope) -> VirtualService:
    """Read a GRPCRoute. Whatever is wrong with it is in the report."""
    return _route(envelope, grpc_match, grpc_action)


def _route(
    envelope: Envelope, match: Callable[[Reader], Candidate], action: Callable[[Reader], Action]
) -> VirtualService:
    spec = envelope.spec
    spec.unsupported("hostnames", instead="with a Service as parent the host is the service itself")
    spec.unsupported("useDefaultGateways", instead="there are no gateways")
    hosts, ports = _parents(spec, envelope.origin.namespace)
    callers = source_principals(envelope)
    ranked = [
        (candidate.rank, rule)
        for reader in spec.children("rules", required=True)
        for candidate, rule in _rules(reader, match, action, callers, ports)
    ]
    ranked.sort(key=lambda each: each[0])
    return VirtualService(origin=envelope.origin, hosts=hosts, http=tuple(rule for _, rule in ranked))


def _rules(
    reader: Reader,
    match: Callable[[Reader], Candidate],
    action: Callable[[Reader], Action],
    callers: tuple[SpiffeID, ...],
    ports: tuple[int | None, ...],
) -> Iterator[tuple[Candidate, HTTPRule]]:
    """The rules of one rule: one for each match, and none written means one that matches all."""
    candidates = [match(each) for each in reader.children("matches")] or [match(reader.absent())]
    found = action(reader)
    for candidate in candidates:
        for rule in found.rules(reader, candidate):
            matches = tuple(replace(each, port=port) for each in rule.matches for port in ports)
            yield candidate, replace(rule, matches=() if HTTPMatch() in matches else matches, source_principals=callers)


def _parents(spec: Reader, namespace: str) -> tuple[tuple[str, ...], tuple[int | None, ...]]:
    """The services that the route is for, and their ports: None for all of them."""
    ports: dict[str, dict[int | None, None]] = {}
    for reader in spec.children("parentRefs", required=True):
        host, port = _parent(reader, namespace)
        ports.setdefault(host, {})[port] = None
    distinct = {tuple(each) for each in ports.values()}
    if len(distinct) > 1:
        spec.problem("parentRefs", "parents with different ports are not supported by meshca: write a route for each")
    return tuple(ports), min(distinct, default=(None,), key=repr)


def _parent(reader: Reader, namespace: str) -> tuple[str, int | None]:
    reader.unsupported("sectionName", instead="write port")
    kind, group = reader.optional("kind", text), reader.optional("group", text)
    if reader.present and (kind != "Service" or group not in {"", "core"}):
        reader.problem("kind", f"a parent that is no Service is not supported by meshca: {_SERVICE}")
    other = reader.optional("namespace", text_as(grammar.dns_label))
    if other not in {None, namespace}:
        reader.problem("namespace", "a parent in another namespace is not supported by meshca")
    return reader.required("name", text_as(grammar.dns_label), ""), reader.optional("port", PORT)
