"""Minting an SVID by hand over the admin API: the same draft, lint, record, sign as for any workload, audited with the caller's uid."""

from typing import Any

from meshca.authority.issue import Order
from meshca.errors import IssuanceRefused
from meshca.model import Entry, Selector
from meshca.ports import Clock
from meshca.proto import admin_pb2 as pb
from meshca.proto import admin_pb2_grpc as rpc
from meshca.server.ca import CertificateAuthority
from meshca.server.convert import bundle_message, change_facts, der, parsed, span
from meshca.server.registry import Registry
from meshca.server.wish import Asked
from spiffe.id import SpiffeID

REMARK = "nobody renews a minted SVID, and a new root waits until it has expired: keep it short"


class SVIDAPI(rpc.SVIDsServicer):
    """The SVIDs service."""

    def __init__(self, *, ca: CertificateAuthority, registry: Registry, asked: Asked, clock: Clock) -> None:
        self._ca = ca
        self._registry = registry
        self._asked = asked
        self._clock = clock

    async def Mint(self, request: pb.MintRequest, context: Any) -> pb.MintResponse:  # noqa: N802 - the proto names it
        """Sign one leaf for a key that never left the caller."""
        async with self._asked("svid.mint", context) as wish:
            entry = self._entry(request, wish.caller.uid)
            self._registry.check(entry)
            await wish.record(change_facts(None, entry), spiffe_id=str(entry.spiffe_id))
            outcome = (await self._ca.sign([Order(entry=entry, csr=request.csr, holder=entry.id)]))[0]
        if isinstance(outcome, IssuanceRefused):  # which the issuer has recorded
            raise outcome
        own = self._ca.view.value.bundles[self._registry.trust_domain]
        chain = [der(certificate) for certificate in outcome.chain]
        return pb.MintResponse(chain=chain, bundle=bundle_message(own), remark=REMARK)

    def _entry(self, request: pb.MintRequest, uid: int) -> Entry:
        return Entry(
            id=f"mint/{uid}",
            spiffe_id=parsed(SpiffeID.parse, request.spiffe_id, "spiffe_id"),
            selectors=frozenset({Selector("unix", f"uid:{uid}")}),
            created_at=self._clock.now(),
            ttl=span(request, "ttl"),
            dns_names=tuple(request.dns_names),
        )
