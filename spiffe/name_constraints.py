"""Name constraints on issuers (RFC 5280 4.2.1.10), as far as SPIFFE needs them (X5-16, X5-17).

Rules:
- URI constraints are enforced on the trust domain of every SPIFFE ID below the issuer.
- Constraints of another kind matter only where a name of that kind appears below; there the chain is refused, not guessed at.
"""

from cryptography import x509

from spiffe.certificate import Fields
from spiffe.errors import InvalidID, VerificationFailed
from spiffe.id import SpiffeID


def check_names(below: Fields, issuer: Fields) -> None:
    """Hold the names of a certificate against the constraints of an issuer above it. Raises VerificationFailed (X5-16)."""
    constraints = issuer.extension(x509.NameConstraints)
    if constraints is None:
        return
    permitted, excluded = constraints.value.permitted_subtrees or [], constraints.value.excluded_subtrees or []
    _check_kinds(below, {type(tree) for tree in [*permitted, *excluded]})
    for uri in below.uris:
        host = _host(uri)
        if any(_within(host, tree) for tree in _uri_trees(excluded)):
            raise VerificationFailed("X5-16", f"{uri} is excluded by the name constraints of its issuer")
        trees = _uri_trees(permitted)
        if trees and not any(_within(host, tree) for tree in trees):
            raise VerificationFailed("X5-16", f"{uri} is not within {trees}, the name constraints of its issuer")


def _check_kinds(below: Fields, constrained: set[type[x509.GeneralName]]) -> None:
    san = below.extension(x509.SubjectAlternativeName)
    present: set[type[x509.GeneralName]] = {type(name) for name in san.value} if san else set()
    if below.subject.rdns:
        present.add(x509.DirectoryName)
    for kind in (constrained & present) - {x509.UniformResourceIdentifier}:
        raise VerificationFailed("X5-16", f"name constraints on {kind.__name__} are not supported")


def _uri_trees(trees: list[x509.GeneralName]) -> list[str]:
    return [tree.value for tree in trees if isinstance(tree, x509.UniformResourceIdentifier)]


def _host(uri: str) -> str:
    try:
        return SpiffeID.parse(uri).trust_domain.name
    except InvalidID as error:
        raise VerificationFailed("X5-16", f"name constraints cannot be applied: {error}") from error


def _within(host: str, tree: str) -> bool:
    """A tree that starts with a period holds all hosts below it, any other just itself."""
    return host.endswith(tree) if tree.startswith(".") else host == tree
