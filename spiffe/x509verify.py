"""Whether a certificate chain proves a SPIFFE ID, at a given time, to somebody who holds these bundles.

Rules:
- The ID of the leaf picks the bundle; only the authorities of that trust domain are anchors (TB-01). A library that pools
  anchors would let the CA of one trust domain speak for another, so the path is validated here, link by link.
- `now` is the only clock. Any authority in the bundle is an anchor, self-signed or not.
- What cannot be enforced is refused: unknown critical extensions, name constraints on other names than URI and DNS.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime

from cryptography import x509

from spiffe.bundle import Bundle, BundleSet
from spiffe.certificate import Fields, check_issued, check_profile, claimed_id
from spiffe.errors import VerificationFailed
from spiffe.id import SpiffeID, TrustDomain
from spiffe.name_constraints import check_names
from spiffe.profile import LEAF, SIGNING
from spiffe.x509svid import MAX_CERTIFICATES


def verify(chain: Sequence[x509.Certificate], bundles: BundleSet, now: datetime) -> SpiffeID:
    """Return the SPIFFE ID that the chain, leaf first, proves at `now` (aware). Raises VerificationFailed.

    1. The chain has a leaf and is not longer than MAX_CERTIFICATES.
    2. Each certificate is readable, its key and signature are not weak (X5-30).
    3. The leaf has exactly one URI SAN, a SPIFFE ID with a path (X5-02, X5-34, X5-35).
    4. The leaf may not sign, and its usages are those of a leaf (X5-12, X5-31, X5-32, X5-33).
    5. The bundle is that of the ID's own trust domain, and has authorities (TB-01, TB-14, X5-44).
    6. A path leads from the leaf to one of them: each certificate is signed by the next (X5-30).
    7. On the path, each certificate holds at `now` (X5-30).
    8. Each issuer may sign: cA, keyCertSign, nothing critical that we do not know (X5-14, X5-20, X5-30).
    9. No issuer has more intermediates below it than its pathLenConstraint says (X5-13).
    10. Every name below an issuer with name constraints is within them (X5-16).
    """
    if not 1 <= len(chain) <= MAX_CERTIFICATES:  # 1
        raise VerificationFailed("X5-30", f"chain has {len(chain)} certificates, it must have 1 to {MAX_CERTIFICATES}")
    presented = [Fields.read(certificate) for certificate in chain]  # 2
    spiffe_id = claimed_id(presented[0])  # 3
    check_profile(presented[0], LEAF)  # 4
    bundle = _bundle_of(spiffe_id.trust_domain, bundles)  # 5
    failure = VerificationFailed("X5-30", f"chain of {spiffe_id} leads to no authority of {spiffe_id.trust_domain}")
    for path in _paths(presented, bundle):  # 6
        try:
            _check_path(path, now)  # 7 to 10
        except VerificationFailed as error:
            failure = error
        else:
            return spiffe_id
    raise failure


def _bundle_of(trust_domain: TrustDomain, bundles: BundleSet) -> Bundle:
    bundle = bundles.get(trust_domain)
    if bundle is None:
        raise VerificationFailed("TB-01", f"there is no bundle of the trust domain {trust_domain}")
    if not bundle.x509_authorities:
        raise VerificationFailed("TB-14", f"the bundle of {trust_domain} has no authorities")
    return bundle


def _paths(presented: Sequence[Fields], bundle: Bundle) -> Iterator[tuple[Fields, ...]]:
    """Each way from the leaf up to an anchor. The chain may go on above it; that part is not looked at."""
    anchors = [Fields.read(certificate) for certificate in bundle.x509_authorities]
    for index, certificate in enumerate(presented):
        if index > 0:
            check_issued(presented[index - 1], certificate)
        for anchor in anchors:
            if _is_issued(certificate, anchor):
                yield (*presented[: index + 1], anchor)


def _is_issued(certificate: Fields, issuer: Fields) -> bool:
    try:
        check_issued(certificate, issuer)
    except VerificationFailed:
        return False
    return True


def _check_path(path: Sequence[Fields], now: datetime) -> None:
    """Steps 7 to 10, for a path of certificates that are each signed by the next."""
    for certificate in path:
        _check_dates(certificate, now)  # 7
    for index, issuer in enumerate(path[1:], start=1):
        check_profile(issuer, SIGNING)  # 8
        _check_path_length(issuer, path[1:index])  # 9
        for below in path[:index]:
            check_names(below, issuer)  # 10


def _check_dates(certificate: Fields, now: datetime) -> None:
    if now < certificate.not_before:
        raise VerificationFailed("X5-30", f"certificate is not valid before {certificate.not_before}, it is {now}")
    if now > certificate.not_after:
        raise VerificationFailed("X5-30", f"certificate is not valid after {certificate.not_after}, it is {now}")


def _check_path_length(issuer: Fields, below: Sequence[Fields]) -> None:
    """Self-issued intermediates do not count (RFC 5280 4.2.1.9)."""
    count = sum(not certificate.self_issued for certificate in below)
    if issuer.path_length is not None and count > issuer.path_length:
        raise VerificationFailed(
            "X5-13", f"pathLenConstraint is {issuer.path_length}, {count} intermediates are below it"
        )
