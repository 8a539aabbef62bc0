"""Ports that follow a script: an Authority with real keys that refuses, stalls or fails when told to, and an attestor."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from cryptography import x509

from meshca.errors import NotFound, StoreUnavailable
from meshca.model import Entry, HolderReport, Issued, IssueRequest, Leaf, Selector, View
from sds.caller import UnixPeer
from sds.errors import NotAuthorized
from sds.watch import Latest
from spiffe.bundle import Bundle, BundleSet
from spiffe.id import TrustDomain
from tests.support.clock import FakeClock
from tests.support.pki import CA

OURS = TrustDomain("example.org")
BACKDATE = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class _PublicHalf:
    """Where pki wants a key, and there is only the public half from a CSR."""

    public: Any

    def public_key(self) -> Any:
        return self.public


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptedAuthority:
    """The Authority port. `refusals` by entry id; `open` is cleared to stall; `down` is set to fail as a whole.

    What was asked and reported is kept: `batches`, `reports`, and added up by holder, `holders`.
    """

    clock: FakeClock
    ttl: timedelta = timedelta(hours=1)
    view: Latest[View] = field(default_factory=lambda: Latest(View(trust_domain=OURS, revision=0)))
    refusals: dict[str, Exception] = field(default_factory=dict)
    open: asyncio.Event = field(default_factory=asyncio.Event)
    down: asyncio.Event = field(default_factory=asyncio.Event)
    batches: list[tuple[IssueRequest, ...]] = field(default_factory=list)
    reports: list[HolderReport] = field(default_factory=list)
    roots: list[CA] = field(default_factory=list)
    issuers: list[CA] = field(default_factory=list)

    def start(self, *entries: Entry) -> None:
        """Have a root and an intermediate, and these entries."""
        self.open.set()
        self.roots.append(CA.create(OURS.name))
        self.issuers.append(self.roots[-1].intermediate())
        self.change(entries=entries, bundles=self.bundles(), active=authority_id(self.issuers[-1]))

    def change(self, **changes: Any) -> View:
        """Show another view, one revision on."""
        self.view.set(replace(self.view.value, revision=self.view.value.revision + 1, **changes))
        return self.view.value

    def bundles(self) -> BundleSet:
        """The own bundle alone, with all roots."""
        return BundleSet([Bundle(trust_domain=OURS, x509_authorities=tuple(root.certificate for root in self.roots))])

    def rotate_intermediate(self) -> None:
        """Sign with another intermediate from now on, and ask for the leaves below the old one to be replaced."""
        before = authority_id(self.issuers[-1])
        self.issuers.append(self.roots[-1].intermediate())
        self.change(active=authority_id(self.issuers[-1]), replace=frozenset({before}))

    async def issue(self, batch: Sequence[IssueRequest]) -> tuple[Issued | Exception, ...]:
        self.batches.append(tuple(batch))
        await self.open.wait()
        if self.down.is_set():
            raise StoreUnavailable("the disk is full")
        return tuple(map(self._issue, batch))

    def report(self, reports: Sequence[HolderReport]) -> None:
        self.reports.extend(reports)

    def holder(self, name: str) -> HolderReport:
        """All reports of a holder, added up as the port says."""
        total = HolderReport(holder=name)
        for report in (each for each in self.reports if each.holder == name):
            total = replace(report, replaced=total.replaced | report.replaced, gone=total.gone or report.gone)
        return total

    def _issue(self, request: IssueRequest) -> Issued | Exception:
        entry = next((each for each in self.view.value.entries if each.id == request.entry_id), None)
        if entry is None:
            return NotFound(f"there is no entry {request.entry_id!r}")
        if refusal := self.refusals.get(entry.id):
            return refusal
        csr = x509.load_der_x509_csr(request.csr)
        if not csr.is_signature_valid:
            raise AssertionError("a CSR without proof of possession")
        return self._sign(entry, csr.public_key(), request.holder)

    def _sign(self, entry: Entry, key: Any, holder: str) -> Issued:
        now = self.clock.now()
        not_after = now + (entry.ttl or self.ttl)
        chain = (
            self.issuers[-1]
            .leaf(
                uris=[str(entry.spiffe_id)],
                dns=entry.dns_names,
                key=_PublicHalf(key),  # type: ignore[arg-type]
                not_before=now - BACKDATE,
                not_after=not_after,
            )
            .chain
        )
        leaf = Leaf(
            serial=chain[0].serial_number,
            spiffe_id=entry.spiffe_id,
            entry_id=entry.id,
            holder=holder,
            intermediate_id=authority_id(self.issuers[-1]),
            root_id=authority_id(self.roots[-1]),
            issued_at=now,
            not_after=not_after,
        )
        return Issued(leaf=leaf, chain=chain)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptedAttestor:
    """The WorkloadAttestor port: `facts` by socket name, dead when there are none. `asked` has the sockets of all whom it read.

    `failures` by socket name; `stalled` has the sockets of whom it reads without end.
    """

    facts: dict[str, frozenset[Selector]] = field(default_factory=dict)
    failures: dict[str, Exception] = field(default_factory=dict)
    stalled: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)

    def sees(self, socket: str, *selectors: str) -> None:
        """From now on, who dialled this socket has these selectors."""
        self.facts[socket] = frozenset(map(Selector.parse, selectors))

    async def attest(self, peer: UnixPeer, wanted: frozenset[Selector]) -> tuple[frozenset[Selector], tuple[str, ...]]:
        self.asked.append(peer.socket)
        await asyncio.Event().wait() if peer.socket in self.stalled else await asyncio.sleep(0)
        if failure := self.failures.get(peer.socket):
            raise failure
        if peer.socket not in self.facts:
            raise NotAuthorized(f"{peer} has ended")
        hashes = {each for each in self.facts[peer.socket] if each.value.startswith("sha256:")}
        if not any(each.value.startswith("sha256:") for each in wanted):
            return self.facts[peer.socket] - hashes, ()
        return self.facts[peer.socket], ()


def authority_id(authority: CA) -> str:
    """The id of an authority: its subject key identifier in hex."""
    return x509.SubjectKeyIdentifier.from_public_key(authority.key.public_key()).digest.hex()
