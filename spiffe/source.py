"""Where SVIDs and bundles come from: one method each, so that a value, a file or a live stream can be one."""

from typing import Protocol

from spiffe.bundle import Bundle
from spiffe.id import TrustDomain
from spiffe.x509svid import X509SVID


class X509SVIDSource(Protocol):
    """Holds one identity, which it replaces before it ends."""

    def x509_svid(self) -> X509SVID:
        """The SVID to present now."""


class BundleSource(Protocol):
    """Holds the bundles to verify peers with."""

    def bundle(self, trust_domain: TrustDomain) -> Bundle | None:
        """The newest bundle of the trust domain; None means that nobody of it is trusted."""
