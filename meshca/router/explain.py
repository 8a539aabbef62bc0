"""What becomes of a request: which service, which rule, which endpoints, which policies, and why. Pure.

Rules: it reads the same tables and asks the same questions as the builders do, so that what it says is what proxies have. What a policy
decides of ports, paths and methods is the callee's to say: here it is told which policies hold there.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from meshca.router.mesh.endpoints import Instance
from meshca.router.mesh.objects import AuthorizationPolicy, HTTPRule, Origin, TLSMode
from meshca.router.mesh.table import ClusterKey, Route, Service, VirtualHost
from meshca.router.request import Asked, holds
from meshca.router.resources.clusters import tls_mode
from meshca.router.resources.outbound import Outbounds, main_port, names_of
from meshca.router.resources.transparent import by_address
from meshca.router.resources.world import World, visible
from meshca.router.security.policy import applicable

_UNKNOWN = "a proxy made with --transparent --pass-unknown sends it on as it is, in plaintext and without an identity; any other refuses it"

_UNPROVED = {
    TLSMode.DISABLE: "in plaintext: no identity is proved, neither the caller's nor the endpoint's",
    TLSMode.SIMPLE: "by one-sided TLS: the caller shows no identity, and the endpoint is judged as the DestinationRule says",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One place where the request may go: a cluster with its share in percent, its endpoints, and the policies that hold there."""

    cluster: str
    share: float
    endpoints: tuple[Instance, ...]
    policies: tuple[Origin, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """`verdict` is a sentence; `steps` say how it came to that; `parts` are empty where the request goes nowhere."""

    verdict: str
    steps: tuple[str, ...] = ()
    parts: tuple[Part, ...] = ()


def explain(world: World, policies: Sequence[AuthorizationPolicy], asked: Asked) -> Explanation:
    """What becomes of a request."""
    return _Explainer(world, policies, asked).explain()


@dataclass(slots=True)
class _Explainer:
    world: World
    policies: Sequence[AuthorizationPolicy]
    asked: Asked
    steps: list[str] = field(default_factory=list)

    def explain(self) -> Explanation:
        asked = self.asked
        service, port = self._service()
        named = service or self._named()
        virtual = self.world.table.hosts.get(named.host if named else asked.host)
        if named and not visible(self.world, named, asked.caller):
            return self._ends(f"502: {asked.caller} is not told of {named.host}, where no policy could let it in")
        if virtual and named is service:
            return self._by_rules(virtual, port)
        if service and port:
            self.steps.append(f"no VirtualService has {service.host}: all goes to the service itself")
            return self._to([(ClusterKey(service.host, port), 100.0)])
        if key := self._redirected():
            return self._to([(key, 100.0)])
        self.steps.append(_UNKNOWN)
        return self._ends(f"502: {_lacks(named, port)}" if named else f"502: no service is called {asked.host}")

    def _ends(self, verdict: str) -> Explanation:
        return Explanation(verdict=verdict, steps=tuple(self.steps))

    def _service(self) -> tuple[Service | None, int | None]:
        """The service that host and port mean for this caller, as its outbound listener would find it."""
        for service in self.world.table.services.values():
            http = [port for port in service.entry.ports if port.protocol.is_http]
            if http and self.asked.host in names_of(service, self.asked.caller):
                number = self.asked.port or main_port(http).number
                if any(port.number == number for port in http):
                    self.steps.append(f"{self.asked.host} is {service.host}:{number}, {_at(service.entry.origin)}")
                    return service, number
        return None, self.asked.port

    def _named(self) -> Service | None:
        """The service of that name, whatever its ports are."""
        services = self.world.table.services.values()
        return next((each for each in services if self.asked.host in names_of(each, self.asked.caller)), None)

    def _redirected(self) -> ClusterKey | None:
        """The TCP service that a transparent proxy takes this address and port for."""
        services, out = self.world.table.services, Outbounds().of(self.world, self.asked.caller)
        for (port, address), key in by_address(services, out.tcp).items():
            if (str(address), port) == (self.asked.host, self.asked.port):
                where = _at(services[key.host].entry.origin)
                self.steps.append(f"redirected to its proxy, {address}:{port} is {key.host}:{key.port}, {where}")
                return key
        return None

    def _by_rules(self, virtual: VirtualHost, port: int | None) -> Explanation:
        self.steps.append(f"its rules: {_at(virtual.origin)}")
        found = next((route for route in virtual.routes if self._matches(route.rule, port)), None)
        if found is None:
            return self._ends("404: no rule matches")
        if found.rule.redirect:
            return self._ends(f"{found.rule.redirect.code}: redirected by {found.rule.where}")
        if found.rule.direct_response:
            return self._ends(f"{found.rule.direct_response.status}: answered by {found.rule.where}")
        return self._to(list(_shares(found)))

    def _matches(self, rule: HTTPRule, port: int | None) -> bool:
        if rule.source_principals and self.asked.caller not in rule.source_principals:
            self.steps.append(f"{rule.where} (line {rule.line}) is for other callers")
            return False
        found = not rule.matches or any(holds(match, self.asked, port) for match in rule.matches)
        self.steps.append(f"{rule.where} (line {rule.line}) {'matches' if found else 'does not match'}")
        return found

    def _to(self, shares: Sequence[tuple[ClusterKey, float]]) -> Explanation:
        parts = tuple(self._part(key, share) for key, share in shares)
        verdict = "goes to " + ", ".join(f"{part.cluster} ({part.share:g} %)" for part in parts)
        if empty := [part.cluster for part in parts if not part.endpoints]:
            verdict = f"503 where nobody is ({', '.join(empty)}); {verdict}"
        return Explanation(verdict=verdict, steps=tuple(self.steps), parts=parts)

    def _part(self, key: ClusterKey, share: float) -> Part:
        endpoints = self.world.table.services[key.host].members(key.subset)
        holding = {
            policy.origin: None
            for each in endpoints
            for policy in applicable(self.policies, each.namespace, each.labels)
        }
        if unproved := _UNPROVED.get(tls_mode(self.world.table.services[key.host], key)):
            self.steps.append(f"{key.name} is called {unproved}")
        return Part(cluster=key.name, share=share, endpoints=endpoints, policies=tuple(holding))


def _shares(route: Route) -> Iterator[tuple[ClusterKey, float]]:
    """Each cluster with its share in percent."""
    weights = [part.weight or 0 for part in route.rule.route]
    weights = weights if any(weights) else [1] * len(weights)
    for key, weight in zip(route.clusters, weights, strict=True):
        yield key, 100 * weight / sum(weights)


def _lacks(service: Service, port: int | None) -> str:
    """Why no request over HTTP gets to a service: it has no HTTP port, or not the one that is asked for."""
    http = [str(each.number) for each in service.entry.ports if each.protocol.is_http]
    if not http:
        return f"{service.host} has no HTTP port"
    return f"{service.host} has no HTTP port {port}, only {', '.join(http)}"


def _at(origin: Origin) -> str:
    return f"{origin.label} ({origin.file}:{origin.line})"
