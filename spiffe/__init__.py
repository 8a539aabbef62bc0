"""The SPIFFE standards as values and pure functions. No I/O and no clock: `now` is an argument."""

from spiffe import bundle_json
from spiffe.bundle import Bundle, BundleSet
from spiffe.errors import InvalidBundle, InvalidID, InvalidSVID, SpiffeError, VerificationFailed
from spiffe.id import SpiffeID, TrustDomain
from spiffe.match import Matcher, match_id, match_member_of, match_one_of, unsafe_match_any
from spiffe.profile import LEAF, SIGNING, Profile
from spiffe.source import BundleSource, X509SVIDSource
from spiffe.x509svid import X509SVID, spiffe_id_of
from spiffe.x509verify import verify

__all__ = [
    "LEAF",
    "SIGNING",
    "X509SVID",
    "Bundle",
    "BundleSet",
    "BundleSource",
    "InvalidBundle",
    "InvalidID",
    "InvalidSVID",
    "Matcher",
    "Profile",
    "SpiffeError",
    "SpiffeID",
    "TrustDomain",
    "VerificationFailed",
    "X509SVIDSource",
    "bundle_json",
    "match_id",
    "match_member_of",
    "match_one_of",
    "spiffe_id_of",
    "unsafe_match_any",
    "verify",
]
