"""What meshca asks of the outside, each as a small Protocol. The docstring is the contract, and tests/contracts/ holds every adapter to it.

Common rules: async methods may be cancelled at any await and then have done all or nothing. Adapters raise StoreUnavailable when the
outside fails (full disk, lost connection) and never anything of the library behind them. Values come back equal to what went in.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from meshca.model import (
    AuditQuery,
    AuditRecord,
    AuthorityKey,
    Entry,
    Holder,
    HolderReport,
    Issued,
    IssueRequest,
    KeyType,
    Selector,
    Slots,
    View,
)
from sds.caller import UnixPeer
from sds.watch import Latest
from spiffe.bundle import Bundle
from spiffe.id import TrustDomain


class Clock(Protocol):
    """The time of day, and how long things take."""

    def now(self) -> datetime:
        """Aware UTC. May jump back when somebody sets the clock."""
        ...

    def monotonic(self) -> float:
        """Seconds that never jump back, from an arbitrary start."""
        ...


class KeyManager(Protocol):
    """Keeps the private keys of authorities. Keys never leave it in a log, an error or a repr."""

    def generate(self, key_type: KeyType) -> tuple[str, AuthorityKey]:
        """Make and keep a key; return its id (hex of the SHA-1 subject key identifier) and a handle that signs. Durable when it returns."""
        ...

    def load(self, key_id: str) -> AuthorityKey:
        """The handle of a kept key. Raises KeyGone when there is none of that id, or it does not fit the id."""
        ...

    def delete(self, key_id: str) -> None:
        """Forget a key; no error when it is not there."""
        ...

    def set_aside(self, key_id: str) -> None:
        """Keep a key out of sight: `load` and `key_ids` do not find it any more, but a person can. No error when it is not there."""
        ...

    def key_ids(self) -> frozenset[str]:
        """The ids of all keys kept."""
        ...


class EntryStore(Protocol):
    """Keeps registration entries."""

    async def entries(self) -> tuple[Entry, ...]:
        """All entries, ordered by creation, then id."""
        ...

    async def create(self, entry: Entry) -> None:
        """Add an entry. Raises AlreadyExists (with the existing id) when one has the same id, or SPIFFE ID and selectors."""
        ...

    async def update(self, entry: Entry) -> None:
        """Replace the entry of that id. Raises NotFound, and AlreadyExists as `create` does."""
        ...

    async def delete(self, entry_id: str) -> None:
        """Remove an entry. Raises NotFound."""
        ...

    async def apply(self, put: Sequence[Entry], delete: Sequence[str]) -> None:
        """Delete, then put (create or replace by id), in one transaction. Raises as the single calls do; then nothing changed."""
        ...


class BundleStore(Protocol):
    """Keeps the bundles of federated trust domains; the own bundle follows from the slots."""

    async def bundles(self) -> tuple[Bundle, ...]:
        """All federated bundles, ordered by trust domain."""
        ...

    async def set(self, bundle: Bundle) -> None:
        """Add or replace the bundle of its trust domain."""
        ...

    async def delete(self, trust_domain: TrustDomain) -> None:
        """Remove a bundle. Raises NotFound."""
        ...


class Journal(Protocol):
    """Keeps the state of the authorities: what a server that was killed at any step goes on from."""

    async def load(self) -> Slots | None:
        """The slots as last saved; None in a new store."""
        ...

    async def save(self, slots: Slots) -> Slots:
        """Replace the slots if their stored revision is still `slots.revision`; return them with the next one. Raises StoreConflict."""
        ...


class AuditLog(Protocol):
    """Keeps the issuance record: append-only rows of hash chains. It stores links and checks none; the kernel makes and verifies them."""

    async def append(self, records: Sequence[AuditRecord]) -> None:
        """Add links in one transaction, durable when it returns. Raises StoreConflict when a writer's sequence number is taken."""
        ...

    async def read(self, writer: str, after: int, limit: int) -> tuple[AuditRecord, ...]:
        """Up to `limit` links of a writer with a sequence above `after`, in order."""
        ...

    async def find(self, query: AuditQuery) -> tuple[AuditRecord, ...]:
        """The links that a query asks for, newest first."""
        ...

    async def live(self, now: datetime) -> tuple[AuditRecord, ...]:
        """All `issued` links whose `not_after` is later than now, oldest first."""
        ...

    async def head(self, writer: str) -> AuditRecord | None:
        """The last link of a writer."""
        ...

    async def prune(self, writer: str, up_to: int) -> int:
        """Remove a writer's links with a sequence of at most `up_to`; return how many there were."""
        ...


class Authority(Protocol):
    """What an agent needs of a CA: the server itself in `up`, a network client elsewhere."""

    @property
    def view(self) -> Latest[View]:
        """The CA as this agent may see it; changes are seen within milliseconds."""
        ...

    async def issue(self, batch: Sequence[IssueRequest]) -> tuple[Issued | Exception, ...]:
        """Sign leaves: one outcome for each request, in order, an IssuanceRefused or NotFound in place of a leaf.

        Raises StoreUnavailable, and then nothing was signed.
        """
        ...

    def report(self, reports: Sequence[HolderReport]) -> None:
        """Tell which holders hold what. Never blocks; the newest report of a holder wins, except that `replaced` and `gone` add up."""
        ...


class Distribution(Protocol):
    """Knows who holds which bundle: the proof that activation and narrowing wait for."""

    def behind(self, digest: str, now: datetime) -> tuple[Holder, ...]:
        """The holders that are not known to hold the bundle of that digest, longest first."""
        ...

    def live_under(self, authority_id: str, now: datetime) -> int:
        """How many unexpired, not replaced leaves of holders that are not gone chain to this authority (of either kind)."""
        ...


class WorkloadAttestor(Protocol):
    """Turns a process into selectors. Reads what is true now; says which facts it could not read."""

    async def attest(self, peer: UnixPeer, wanted: frozenset[Selector]) -> tuple[frozenset[Selector], tuple[str, ...]]:
        """Selectors of the peer and remarks for `why`. Costly facts (a hash) are computed only if `wanted` (all entries' selectors) asks.

        Raises NotAuthorized when the peer died before or while it was read, OSError when we are short of what it takes to look, time
        included: that says nothing of the peer, so ask again.
        """
        ...
