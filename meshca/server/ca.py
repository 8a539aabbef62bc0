"""The certificate authority as its agents see it: the Authority port, over registry and rotation.

Rules: the view is composed anew from state at every change, never patched; a batch is signed in chunks so that a large one holds up
no stream for long; a leaf counts in the ledger before it leaves.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from meshca.authority.holders import Ledger
from meshca.authority.issue import Issuer, Order
from meshca.authority.rotation import Rotation
from meshca.errors import IssuanceRefused, KeyGone, NotFound
from meshca.model import HolderReport, Issued, IssueRequest, Kind, Slot, Slots, View
from meshca.ports import Clock
from meshca.server.registry import Registry
from meshca.telemetry import Telemetry
from sds.watch import Latest
from spiffe.id import TrustDomain

CHUNK = 256
"""Leaves that share their two transactions. A full chunk holds up the loop for about 20 ms at a time (docs/limits.md)."""

logger = logging.getLogger(__name__)

Outcome = Issued | IssuanceRefused | NotFound


class CertificateAuthority:
    """The Authority port. Call `refresh` whenever registry or rotation has changed. `slots` follows the rotation for whoever watches."""

    def __init__(
        self,
        *,
        trust_domain: TrustDomain,
        registry: Registry,
        rotation: Rotation,
        issuer: Issuer,
        ledger: Ledger,
        clock: Clock,
        telemetry: Telemetry,
    ) -> None:
        self._registry = registry
        self._rotation = rotation
        self._issuer = issuer
        self._ledger = ledger
        self._clock = clock
        self._telemetry = telemetry
        self.view = Latest(View(trust_domain=trust_domain, revision=0))
        self.slots = Latest(rotation.slots)

    def refresh(self) -> None:
        """Compose the view anew; watchers wake only if it differs."""
        self.slots.set(self._rotation.slots)
        before = self.view.value
        after = compose(self._registry, self._rotation.slots, before.revision)
        if after != before:
            self.view.set(replace(after, revision=before.revision + 1))

    async def issue(self, batch: Sequence[IssueRequest]) -> tuple[Issued | Exception, ...]:
        """See the port."""
        outcomes: list[Outcome] = []
        for start in range(0, len(batch), CHUNK):
            outcomes += await self._chunk(batch[start : start + CHUNK])
        return tuple(outcomes)

    async def sign(self, orders: Sequence[Order]) -> tuple[Issued | IssuanceRefused, ...]:
        """Sign leaves for entries, stored ones or made up for a mint. Raises StoreUnavailable, KeyGone."""
        active = self._rotation.slots.active(Kind.INTERMEDIATE)
        if active is None:
            return (
                self._refused(IssuanceRefused("no_issuer", "no intermediate is active: see `meshca status`")),
            ) * len(orders)
        outcomes = self._still_anchored(await self._issuer.issue(orders, active), active)
        for outcome in outcomes:
            if isinstance(outcome, IssuanceRefused):
                self._refused(outcome)
            else:
                self._ledger.issued(outcome.leaf, self._clock.now())
        self._telemetry.issued(sum(isinstance(outcome, Issued) for outcome in outcomes))
        return outcomes

    def _still_anchored(
        self, outcomes: Sequence[Issued | IssuanceRefused], issuer: Slot
    ) -> tuple[Issued | IssuanceRefused, ...]:
        """Keep back what was signed by an intermediate that has left meanwhile, or whose root has: nobody would trust it, or should."""
        left = [each for each in (issuer.id, issuer.issuer_id) if self._rotation.slots.get(each) is None]
        if not left:
            return tuple(outcomes)
        gone = IssuanceRefused("issuer_gone", f"authority {left[0]} left while this was signed: ask again")
        return tuple(gone if isinstance(outcome, Issued) else outcome for outcome in outcomes)

    def report(self, reports: Sequence[HolderReport]) -> None:
        """See the port."""
        now = self._clock.now()
        for each in reports:
            self._ledger.report(each, now)

    async def _chunk(self, batch: Sequence[IssueRequest]) -> list[Outcome]:
        """Sign those requests whose entry exists and lives; the others get NotFound."""
        now = self._clock.now()
        asked = [self._order(request, now) for request in batch]
        orders = [each for each in asked if isinstance(each, Order)]
        try:
            signed = iter(await self.sign(orders) if orders else ())
        except KeyGone as error:
            signed = iter([self._refused(IssuanceRefused("key_gone", str(error)))] * len(orders))
        return [next(signed) if isinstance(each, Order) else each for each in asked]

    def _order(self, request: IssueRequest, now: datetime) -> Order | NotFound:
        entry = self._registry.find(request.entry_id)
        if entry is None or not entry.is_live(now):
            return NotFound(f"there is no entry {request.entry_id!r}")
        return Order(entry=entry, csr=request.csr, holder=request.holder)

    def _refused(self, refusal: IssuanceRefused) -> IssuanceRefused:
        self._telemetry.refused(refusal.reason)
        logger.warning("issuance refused", extra={"reason": refusal.reason, "text": str(refusal)})
        return refusal


def compose(registry: Registry, slots: Slots, revision: int) -> View:
    """What an agent may know, from the state as it is. Pure."""
    active = slots.active(Kind.INTERMEDIATE)
    own = slots.bundle
    return View(
        trust_domain=slots.trust_domain,
        revision=revision,
        entries=registry.entries,
        bundles=registry.bundles.with_bundle(own) if own.x509_authorities else registry.bundles,
        active=active.id if active else "",
        replace=frozenset(slot.id for slot in slots.slots if slot.replace_leaves),
        cut_off=registry.cut_off,
    )
