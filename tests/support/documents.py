"""Documents for the router, written short: the tests add what each kind needs around its point."""

from meshca.router.mesh.objects import Object, Parsed
from meshca.router.parsing.kinds import Parser
from spiffe.id import TrustDomain

TRUST_DOMAIN = TrustDomain("example.org")
ROUTE = "route: [{destination: {host: a}}]"


def document(kind: str, spec: str, *, group: str, version: str = "v1", metadata: str = "name: a") -> str:
    """Return a document whose specification is on line 5, if it is on one line, and starts there if it is not."""
    return f"apiVersion: {group}/{version}\nkind: {kind}\nmetadata: {{{metadata}}}\nspec:\n  {spec}\n"


def istio(kind: str, spec: str, *, metadata: str = "name: a") -> str:
    """Return a document of networking.istio.io, or of the group that the kind belongs to."""
    groups = {"PeerAuthentication": "security", "AuthorizationPolicy": "security", "Telemetry": "telemetry"}
    return document(kind, spec, group=f"{groups.get(kind, 'networking')}.istio.io", metadata=metadata)


def gateway(kind: str, spec: str, *, metadata: str = "name: a") -> str:
    """Return a document of Gateway API."""
    return document(kind, spec, group="gateway.networking.k8s.io", metadata=metadata)


def rule(fields: str) -> str:
    """Return a VirtualService with one HTTP rule."""
    return istio("VirtualService", f"{{hosts: [a], http: [{{{fields}}}]}}")


def read(*texts: str) -> Parsed:
    """Parse texts as the files `1.yaml`, `2.yaml` and so on."""
    files = {f"{number}.yaml": text for number, text in enumerate(texts, start=1)}
    return Parser(TRUST_DOMAIN).parse(files)


def only(text: str) -> Object:
    """Return the one object of a text with which nothing is wrong or odd."""
    parsed = read(text)
    assert (parsed.problems, parsed.warnings) == ((), ())
    (found,) = parsed.objects
    return found


def problems(*texts: str) -> list[str]:
    """Return what is wrong, as people see it; no object may come of it."""
    return list(map(str, read(*texts).problems))


def warnings(*texts: str) -> list[str]:
    """Return what is odd about texts with which nothing is wrong."""
    parsed = read(*texts)
    assert parsed.problems == ()
    assert parsed.objects
    return list(map(str, parsed.warnings))
