"""Writes one writer's chain of the issuance record and reads it back. One at a time; what was appended is durable."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509

from meshca.authority.record import Chain, Facts, head_text, leaf_of, link, signed_facts
from meshca.errors import StoreConflict, StoreUnavailable
from meshca.model import AuditKind, AuditRecord, AuthorityKey, Leaf
from meshca.ports import AuditLog, Clock

logger = logging.getLogger(__name__)

PAGE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """One thing to record: the fields of a link that do not depend on its place in the chain."""

    kind: AuditKind
    facts: Facts
    serial: str = ""
    spiffe_id: str = ""
    not_after: datetime | None = None


class Recorder:
    """Appends links to the chain of `writer`. `load` before use."""

    def __init__(self, *, log: AuditLog, clock: Clock, writer: str) -> None:
        self._log = log
        self._clock = clock
        self._lock = asyncio.Lock()
        self._last: AuditRecord | None = None
        self.writer = writer
        self.failure = ""
        """Why nothing could be recorded the last time; empty when something was."""

    async def load(self) -> None:
        """Go on from the last link that was written. Raises StoreUnavailable."""
        self._last = await self._log.head(self.writer)

    def alarms(self) -> tuple[str, ...]:
        """What a person must look at, in sentences."""
        return (f"nothing can be recorded, so nothing is signed: {self.failure}",) if self.failure else ()

    @property
    def head(self) -> str:
        """The head as people keep it, `writer:sequence:hash`."""
        return head_text(self._last, self.writer)

    @property
    def sequence(self) -> int:
        """The sequence number of the last link; 0 while there is none."""
        return self._last.sequence if self._last else 0

    async def append(self, notes: Sequence[Note]) -> None:
        """Record all the notes in one transaction, or none. Raises StoreUnavailable, StoreConflict."""
        async with self._lock:
            await self._append(lambda: notes)

    async def _append(self, notes: Callable[[], Sequence[Note]]) -> None:
        links = self._links(notes())
        if not links:
            return
        try:
            self._last = await self._written(links)
        except StoreConflict:
            await self.load()  # somebody else wrote as us, or an earlier append was cancelled after it was done
            self._last = await self._written(self._links(notes()))

    async def _written(self, links: Sequence[AuditRecord]) -> AuditRecord:
        """Write the links, and remember how that went. Returns the last."""
        try:
            await self._log.append(links)
        except StoreUnavailable as error:
            self.failure = str(error)
            raise
        self.failure = ""
        return links[-1]

    def _links(self, notes: Sequence[Note]) -> tuple[AuditRecord, ...]:
        at, last, links = self._clock.now(), self._last, []
        for note in notes:
            last = link(
                last,
                writer=self.writer,
                at=at,
                kind=note.kind,
                facts=note.facts,
                serial=note.serial,
                spiffe_id=note.spiffe_id,
                not_after=note.not_after,
            )
            links.append(last)
        return tuple(links)

    async def live(self) -> tuple[Leaf, ...]:
        """The leaves that have not expired, oldest first."""
        return tuple(leaf_of(record) for record in await self._log.live(self._clock.now()))

    async def verify_all(self, head: str = "") -> int:
        """Check the whole chain, against a head if one is given; return how many links there are. Raises Refused, InvalidInput."""
        chain, after = Chain(head), 0
        while page := await self._log.read(self.writer, after, PAGE):
            for record in page:
                chain.verify(record)
            after = page[-1].sequence
        chain.end()
        return chain.count

    async def sign_head(self, key: AuthorityKey, certificate: x509.Certificate) -> str:
        """Record the head, signed, so that a later truncation shows; return it."""
        async with self._lock:
            await self._append(lambda: [self._signed_head(key, certificate)])
        head = self.head
        logger.info("audit head signed", extra={"head": head})
        return head

    def _signed_head(self, key: AuthorityKey, certificate: x509.Certificate) -> Note:
        return Note(kind=AuditKind.HEAD, facts=signed_facts({"head": self.head}, key, certificate))

    async def prune(self, before: datetime, key: AuthorityKey, certificate: x509.Certificate) -> tuple[int, str]:
        """Remove the links from before a time, leaving a signed anchor; return how many, and the head after.

        What tells of a leaf that is still valid stays, and all that comes after it: from these links a restart knows who holds what.
        """
        last = await self._last_before(before)
        if last is None:
            return 0, self.head
        facts = {"sequence": last.sequence, "hash": last.hash}
        await self.append([Note(kind=AuditKind.ANCHOR, facts=signed_facts(facts, key, certificate))])
        return await self._log.prune(self.writer, last.sequence), self.head

    async def _last_before(self, before: datetime) -> AuditRecord | None:
        """The last link of the unbroken run, from the start, of links that may go."""
        now, found, after = self._clock.now(), None, 0
        while page := await self._log.read(self.writer, after, PAGE):
            for record in page:
                if record.at >= before or (
                    record.kind is AuditKind.ISSUED and record.not_after and record.not_after > now
                ):
                    return found
                found = record
            after = page[-1].sequence
        return found
