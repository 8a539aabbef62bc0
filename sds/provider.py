"""What the streams of this package need of whoever decides: who may have which identity, kept fresh.

The servicers subscribe for a caller, render each new `Grants` into their protocol, and report what the caller provably holds.
"""

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

from sds.caller import Caller
from sds.watch import Latest
from spiffe.bundle import BundleSet
from spiffe.id import TrustDomain
from spiffe.x509svid import X509SVID


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """One SVID granted to a caller. `hint` is the entry's, unique within a Grants when not empty (WA-26)."""

    svid: X509SVID
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grants:
    """All that a caller may have now.

    `identities` are ordered: the first is the default (WA-72). None means that no entry grants anything: `denied` then says why, in words
    for a log and a status message, and no bundle is served. `pending` is true while an entitled caller's first SVID is still being issued:
    not denied, just silent (SDS) or UNAVAILABLE (Workload API, EP-23). `bundles` holds the own trust domain and those
    federated with, none of them empty. `cut_off` asks SDS for a validator context that trusts nobody (`entry delete --now`).
    """

    trust_domain: TrustDomain
    identities: tuple[Identity, ...] = ()
    bundles: BundleSet = field(default_factory=BundleSet)
    denied: str = ""
    pending: bool = False
    cut_off: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What a caller holds once it has acknowledged a resource or was written a message.

    `bundle` is the digest of the own trust domain's bundle, or "" where the resource carries none; `serials` are those of the leaves.
    """

    bundle: str = ""
    serials: frozenset[int] = frozenset()


class Subscription(Protocol):
    """One stream's view of what its caller may have."""

    @property
    def grants(self) -> Latest[Grants]:
        """The newest grants; changes at entry, bundle and authority changes and at renewals."""
        ...

    def delivered(self, proof: Proof) -> None:
        """Report what this stream's peer holds now. Never blocks; unknown serials are ignored."""
        ...


class Provider(Protocol):
    """Decides what a caller may have. Implemented by meshca/agent/workloads.py."""

    def subscribe(self, caller: Caller) -> AbstractAsyncContextManager[Subscription]:
        """Attest the caller and follow its grants until the context ends. Raises NotAuthorized if the caller is gone already."""
        ...
