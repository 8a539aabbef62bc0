"""Who is accepted, once a chain is verified: predicates over SPIFFE IDs.

A matcher returns nothing and raises VerificationFailed, so that its verdict cannot be ignored.
"""

from collections.abc import Callable, Iterable

from spiffe.errors import InvalidID, VerificationFailed
from spiffe.id import SpiffeID, TrustDomain

Matcher = Callable[[SpiffeID], None]


def match_id(expected: SpiffeID) -> Matcher:
    """Accept exactly this ID (ID-22)."""
    return match_one_of([expected])


def match_one_of(expected: Iterable[SpiffeID]) -> Matcher:
    """Accept any of these IDs. Raises InvalidID for an empty list, which would be a policy that somebody forgot."""
    accepted = frozenset(expected)
    if not accepted:
        raise InvalidID("no SPIFFE ID to match: the list is empty")

    def match(spiffe_id: SpiffeID) -> None:
        if spiffe_id not in accepted:
            raise VerificationFailed("ID-22", f"{spiffe_id} is not {' or '.join(sorted(map(str, accepted)))}")

    return match


def match_member_of(trust_domain: TrustDomain) -> Matcher:
    """Accept every ID of this trust domain."""

    def match(spiffe_id: SpiffeID) -> None:
        if spiffe_id.trust_domain != trust_domain:
            raise VerificationFailed("ID-22", f"{spiffe_id} is not in the trust domain {trust_domain}")

    return match


def unsafe_match_any() -> Matcher:
    """Accept every verified ID of every trust domain that there is a bundle for. Hardly ever what is wanted."""
    return lambda _: None
