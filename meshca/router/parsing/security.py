"""PeerAuthentication and AuthorizationPolicy of security.istio.io. Pure.

Rules: what is written but empty is refused. In a policy nothing and everything are too near to each other to guess which was meant.
"""

from collections.abc import Callable
from typing import TypeVar

from meshca.errors import InvalidInput
from meshca.router.mesh.objects import (
    Action,
    AuthorizationPolicy,
    MTLSMode,
    Operation,
    PeerAuthentication,
    PolicyRule,
    Source,
)
from meshca.router.parsing import grammar
from meshca.router.parsing.envelope import Envelope, selector
from meshca.router.parsing.reader import Reader
from meshca.router.parsing.scalars import named, text_as
from meshca.router.parsing.wording import shown
from spiffe.id import SCHEME, SpiffeID, TrustDomain

T = TypeVar("T")

DRY_RUN = "istio.io/dry-run"

_MODES: dict[str, MTLSMode | None] = {mode.value: mode for mode in MTLSMode}
_MODE = named(_MODES | {"UNSET": None})
_ACTIONS = {"AUDIT": "", "CUSTOM": "write ALLOW or DENY"}
_TARGETS = "pick workloads by selector"
_ISTIO_DOMAIN = "cluster.local"


def peer_authentication(envelope: Envelope) -> PeerAuthentication:
    """Read a PeerAuthentication. Whatever is wrong with it is in the report."""
    spec = envelope.spec
    ports = spec.keyed("portLevelMtls", lambda key: str(grammar.port(key)))
    modes = {int(port): reader.optional("mode", _MODE) for port, reader in ports.items()}
    found = PeerAuthentication(
        origin=envelope.origin,
        selector=selector(spec, "selector", "matchLabels"),
        mode=spec.child("mtls").optional("mode", _MODE),
        port_modes={port: mode for port, mode in modes.items() if mode is not None},
    )
    if ports and not spec.has("selector"):
        spec.problem("portLevelMtls", "needs a selector: ports are those of certain workloads")
    return found


def authorization_policy(envelope: Envelope) -> AuthorizationPolicy:
    """Read an AuthorizationPolicy. Whatever is wrong with it is in the report."""
    spec = envelope.spec
    spec.unsupported("targetRef", "targetRefs", instead=_TARGETS)
    spec.unsupported("provider")
    rules = tuple(_rule(reader, envelope.trust_domain) for reader in spec.children("rules"))
    found = AuthorizationPolicy(
        origin=envelope.origin,
        action=spec.optional("action", named({action.value: action for action in Action}, _ACTIONS)) or Action.ALLOW,
        rules=rules,
        selector=selector(spec, "selector", "matchLabels"),
        dry_run=envelope.annotations.optional(DRY_RUN, text_as(_dry_run)) or False,
    )
    if found.action is Action.DENY and not rules:
        spec.problem("rules", "a DENY without rules denies nothing: write one rule `{}` to deny everything")
    return found


def _dry_run(written: str) -> bool:
    if written not in {"true", "false"}:
        raise InvalidInput(f"{shown(written)} is neither 'true' nor 'false'")
    return written == "true"


def _rule(reader: Reader, trust_domain: TrustDomain) -> PolicyRule:
    reader.unsupported("when")
    sources = _members(reader, "from", "source")
    operations = _members(reader, "to", "operation")
    return PolicyRule(
        sources=tuple(_source(source, trust_domain) for source in sources),
        operations=tuple(map(_operation, operations)),
    )


def _members(reader: Reader, name: str, member: str) -> tuple[Reader, ...]:
    """The sources or operations of a rule: Istio wraps each in a mapping of its own."""
    return tuple(each.child(member, required=True) for each in reader.children(name, filled=True))


def _source(reader: Reader, trust_domain: TrustDomain) -> Source:
    reader.unsupported("requestPrincipals", "notRequestPrincipals", instead="callers are known by their SVIDs")
    reader.unsupported("ipBlocks", "notIpBlocks", "remoteIpBlocks", "notRemoteIpBlocks", instead="name identities")
    found = Source(
        principals=_values(reader, "principals", _principal),
        not_principals=_values(reader, "notPrincipals", _principal),
        namespaces=_values(reader, "namespaces", grammar.pattern),
        not_namespaces=_values(reader, "notNamespaces", grammar.pattern),
        service_accounts=_values(reader, "serviceAccounts", _service_account),
        not_service_accounts=_values(reader, "notServiceAccounts", _service_account),
        trust_domains=_values(reader, "trustDomains", grammar.pattern),
        not_trust_domains=_values(reader, "notTrustDomains", grammar.pattern),
    )
    _check_source(reader, found, trust_domain)
    return found


def _check_source(reader: Reader, found: Source, trust_domain: TrustDomain) -> None:
    if reader.is_empty():
        reader.problem("", "is empty: leave out `from` to mean everybody")
    for name in ("principals", "notPrincipals"):
        value = found.principals if name == "principals" else found.not_principals
        if trust_domain.name != _ISTIO_DOMAIN and any(each.startswith(f"{_ISTIO_DOMAIN}/") for each in value):
            reader.warn(name, f"{_ISTIO_DOMAIN} is a trust domain like any other here; ours is {trust_domain}")


def _operation(reader: Reader) -> Operation:
    found = Operation(
        hosts=_values(reader, "hosts", grammar.pattern),
        not_hosts=_values(reader, "notHosts", grammar.pattern),
        ports=_values(reader, "ports", grammar.port),
        not_ports=_values(reader, "notPorts", grammar.port),
        methods=_values(reader, "methods", _method),
        not_methods=_values(reader, "notMethods", _method),
        paths=_values(reader, "paths", grammar.path_pattern),
        not_paths=_values(reader, "notPaths", grammar.path_pattern),
    )
    if reader.is_empty():
        reader.problem("", "is empty: leave out `to` to mean everything")
    return found


def _values(reader: Reader, name: str, check: Callable[[str], T]) -> tuple[T, ...]:
    """A list of which any value may fit: an empty one would fit nothing, or everything."""
    return reader.several(name, text_as(check), filled=True)


def _principal(written: str) -> str:
    """An identity as Istio writes it or as a whole SPIFFE ID, or the beginning or end of one."""
    grammar.pattern(written)
    if "*" not in written:
        SpiffeID.parse(written if written.startswith(SCHEME) else SCHEME + written)
    return written


def _service_account(written: str) -> str:
    """`name` or `namespace/name`, both whole."""
    namespace, slash, name = written.rpartition("/")
    if slash:
        grammar.dns_label(namespace)
    grammar.name(name)
    return written


def _method(written: str) -> str:
    """A method, or the beginning or end of one."""
    if grammar.pattern(written) != "*":
        grammar.method(written.replace("*", ""))
    return written
