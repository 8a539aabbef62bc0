"""A Provider that tests script by hand: real SVIDs and bundles from the test CA, granted and taken at will."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from sds.caller import Caller
from sds.errors import NotAuthorized
from sds.provider import Grants, Identity, Proof
from sds.watch import Latest
from spiffe.bundle import Bundle, BundleSet
from spiffe.id import SpiffeID, TrustDomain
from spiffe.x509svid import X509SVID
from tests.support.pki import CA

TRUST_DOMAIN = TrustDomain("example.org")


def bundle_of(*authorities: CA) -> Bundle:
    """The bundle with these roots, all of one trust domain."""
    trust_domain = TrustDomain(authorities[0].trust_domain)
    return Bundle(trust_domain=trust_domain, x509_authorities=tuple(each.certificate for each in authorities))


def svid_of(issuer: CA, path: str = "/web", **changes: Any) -> X509SVID:
    """An X.509-SVID for a path in the issuer's trust domain. `changes`: see tests.support.pki.certificate()."""
    spiffe_id = SpiffeID(trust_domain=TrustDomain(issuer.trust_domain), path=path)
    leaf = issuer.leaf(uris=[str(spiffe_id)], **changes)
    return X509SVID(spiffe_id=spiffe_id, chain=leaf.chain, private_key=leaf.key)


def identity(issuer: CA, path: str = "/web", hint: str = "", **changes: Any) -> Identity:
    """An Identity with a fresh SVID."""
    return Identity(svid=svid_of(issuer, path, **changes), hint=hint)


@dataclass(slots=True, kw_only=True)
class ScriptedSubscription:
    """What one stream sees of the Provider, and what it reported."""

    caller: Caller
    grants: Latest[Grants]
    proofs: list[Proof] = field(default_factory=list)

    def delivered(self, proof: Proof) -> None:
        self.proofs.append(proof)


@dataclass(slots=True, kw_only=True)
class ScriptedProvider:
    """The Provider port with everybody's grants in the test's hand."""

    root: CA = field(default_factory=CA.create)
    issuer: CA = field(init=False)
    grants: Latest[Grants] = field(init=False)
    open: list[ScriptedSubscription] = field(default_factory=list)
    proofs: list[Proof] = field(default_factory=list)
    gone: str = ""
    """If not empty, why the next caller is refused at once."""

    def __post_init__(self) -> None:
        """Grant one identity and the own bundle."""
        self.issuer = self.root.intermediate()
        self.grants = Latest(
            Grants(
                trust_domain=TRUST_DOMAIN,
                identities=(identity(self.issuer),),
                bundles=BundleSet([bundle_of(self.root)]),
            )
        )

    @asynccontextmanager
    async def subscribe(self, caller: Caller) -> AsyncIterator[ScriptedSubscription]:
        if self.gone:
            raise NotAuthorized(self.gone)
        subscription = ScriptedSubscription(caller=caller, grants=self.grants, proofs=self.proofs)
        self.open.append(subscription)
        try:
            yield subscription
        finally:
            self.open.remove(subscription)

    def change(self, **changes: Any) -> Grants:
        """Replace some of what everybody is granted."""
        self.grants.set(replace(self.grants.value, **changes))
        return self.grants.value

    def federate(self, *bundles: Bundle) -> Grants:
        """Grant these bundles beside the own one, instead of others."""
        return self.change(bundles=BundleSet([bundle_of(self.root), *bundles]))

    def deny(self, reason: str = "no entry matches unix:uid:0") -> Grants:
        """Take everything away."""
        return self.change(identities=(), bundles=BundleSet(), denied=reason)

    def grant(self, *paths: str) -> Grants:
        """Grant fresh SVIDs for these paths, and the own bundle."""
        identities = tuple(identity(self.issuer, path) for path in paths)
        return self.change(
            identities=identities, bundles=BundleSet([bundle_of(self.root)]), denied="", pending=False, cut_off=False
        )
