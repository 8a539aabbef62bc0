"""Performs what `slots` decides, one saved step after the other, and takes the operator's wishes. Goes on from the journal after any crash.

Rules:
- Each step ends with one save; what was done before it (a key made, a certificate signed) harms nobody if the save never comes.
- A save that did not end well may have been done all the same: before anything else is decided, the journal is read again.
- A key is destroyed after its authority has left the journal.
- Everything that changes an authority is recorded. One thing at a time.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

from cryptography import x509

from meshca.authority import wishes
from meshca.authority.alarms import alarms
from meshca.authority.draft import Draft, draft_intermediate, draft_root
from meshca.authority.holders import Ledger
from meshca.authority.issue import Issuer, new_serial
from meshca.authority.keyring import Keyring
from meshca.authority.recorder import Note, Recorder
from meshca.authority.slots import (
    Activate,
    Drop,
    Facts,
    Prepare,
    Rules,
    Step,
    activation_of,
    moved,
    next_step,
    with_prepared,
)
from meshca.authority.steady import SteadyClock
from meshca.authority.wishes import get
from meshca.csr import PublicKey
from meshca.errors import CannotStart, Refused
from meshca.model import Activation, AuditKind, KeyType, Kind, Slot, Slots, State
from meshca.ports import Journal
from meshca.wording import counted
from spiffe.id import TrustDomain

logger = logging.getLogger(__name__)


class Rotation:
    """The authorities of a trust domain. `start` before use; `tick` often. `on_change` is called after each saved change."""

    def __init__(
        self,
        *,
        trust_domain: TrustDomain,
        journal: Journal,
        keys: Keyring,
        issuer: Issuer,
        ledger: Ledger,
        recorder: Recorder,
        clock: SteadyClock,
        rules: Callable[[], Rules],
        key_types: Mapping[Kind, KeyType],
        alarm_after: timedelta,
        on_change: Callable[[], None],
    ) -> None:
        self._journal = journal
        self._keys = keys
        self._issuer = issuer
        self._ledger = ledger
        self._recorder = recorder
        self._clock = clock
        self._rules = rules
        self._key_types = key_types
        self._alarm_after = alarm_after
        self._on_change = on_change
        self._lock = asyncio.Lock()
        self._lost: frozenset[str] = frozenset()
        self._unsure = True
        self.slots = Slots(trust_domain=trust_domain)

    async def start(self) -> None:
        """Load the journal and do what is due. Raises CannotStart when the store is another trust domain's, or the keys do not fit it."""
        await self.tick()

    async def tick(self) -> None:
        """Do everything that is due. Raises StoreUnavailable, IssuanceRefused, KeyGone; what was done before stays done."""
        async with self._turn():
            self._ledger.expire(self._clock.steady())
            lost = self._keys.lost(self.slots)
            for slot_id in lost - self._lost:
                logger.error("the key of an authority is gone", extra={"authority": slot_id})
            self._lost = lost
            while step := self._due():
                await self._perform(step)

    async def prepare(self, kind: Kind) -> Slot:
        """Make a successor that waits for `activate`. Raises Refused while one is prepared, or three roots are published."""
        async with self._turn():
            return await self._prepare(wishes.prepare(self.slots, kind), Activation.BY_HAND)

    async def activate(self, slot_id: str, *, force: bool) -> tuple[str, ...]:
        """Let a prepared authority sign as soon as every holder has the bundle, or at once with force. Raises NotFound, Refused."""
        async with self._turn():
            await self._save(wishes.activate(self.slots, slot_id))
            while force and (slot := get(self.slots, slot_id)).state is State.PREPARED:
                await self._perform(activation_of(self.slots, slot) if slot.kind is Kind.ROOT else Activate(id=slot_id))
        await self.tick()
        behind = len(self._ledger.behind(self.slots.bundle.digest, self._clock.now()))
        if get(self.slots, slot_id).state is not State.PREPARED:
            who = counted(behind, "holder", "holders")
            return (f"it signs from now on; {who} may not know it" if behind else "it signs from now on",)
        who = counted(behind, "more holder has", "more holders have")
        return (f"it signs as soon as {f'{who} the new bundle' if behind else 'that has settled'}",)

    async def taint(self, slot_id: str) -> tuple[str, ...]:
        """Trust an authority no longer: replace it and the leaves below it first, then drop it. Raises NotFound, Refused."""
        async with self._turn():
            await self._save(wishes.taint(self.slots, slot_id))
        return await self._leaving(slot_id)

    async def revoke(self, slot_id: str, *, force: bool) -> tuple[str, ...]:
        """Drop an authority; what is below it is replaced first, unless forced. Raises NotFound, Refused."""
        async with self._turn():
            kind = get(self.slots, slot_id).kind
            wish = wishes.revoke(self.slots, slot_id, force=force)
            await (self._perform(wish) if isinstance(wish, Drop) else self._save(wish))
        remarks = await self._leaving(slot_id)
        if kind is not Kind.INTERMEDIATE:
            return remarks
        when, why = "at the same time" if force else "then", "verifiers know only roots, and would go on to trust it"
        return (*remarks, f"{when} the root above it is rotated too: {why}")

    async def rotate(self, kind: Kind) -> None:
        """Wish for a successor and for the present ones to leave; the ticks see to it. Raises StoreUnavailable."""
        async with self._turn():
            await self._save(wishes.rotate(self.slots, kind))
        await self.tick()

    async def sign_head(self) -> str:
        """Record the head of the issuance record, signed by the active intermediate. Raises Refused, KeyGone, StoreUnavailable."""
        signer = self._signer()
        return await self._recorder.sign_head(self._keys.load(signer.id), signer.certificate)

    async def prune_record(self, before: datetime) -> tuple[int, str]:
        """Prune the issuance record, leaving a signed anchor; return how many links went, and the head after. Raises as `sign_head`."""
        if self._clock.ahead:
            raise Refused(f"the clock has just jumped ahead by {self._clock.ahead}: prune when `meshca status` is calm")
        signer = self._signer()
        return await self._recorder.prune(before, self._keys.load(signer.id), signer.certificate)

    def self_test(self) -> None:
        """Sign and verify a throwaway. Raises Refused, IssuanceRefused, KeyGone."""
        self._issuer.self_test(self.slots.trust_domain, self._signer())

    def alarms(self, now: datetime) -> tuple[str, ...]:
        """What a person must look at, in sentences."""
        behind = self._ledger.behind(self.slots.bundle.digest, now)
        late = [holder for holder in behind if now - holder.since >= self._alarm_after]
        own = alarms(self.slots, late, self._lost, self._rules(), now)
        return (*self._recorder.alarms(), *self._clock.alarms(), *own)

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """One at a time, and from what the journal says."""
        async with self._lock:
            if self._unsure:
                await self._load()
            yield

    async def _load(self) -> None:
        saved = await self._journal.load() or await self._begin()
        if saved.trust_domain != self.slots.trust_domain:
            raise CannotStart(
                f"the store is of trust domain {saved.trust_domain}, the configuration says {self.slots.trust_domain}: "
                "a trust domain is never renamed; use another data directory for another one"
            )
        self._keys.check(saved)
        self._take(saved)

    async def _begin(self) -> Slots:
        """Save that there is nothing before any key is made: a kill in between is then as at any other step."""
        self._keys.check_empty()
        return await self._journal.save(self.slots)

    async def _leaving(self, slot_id: str) -> tuple[str, ...]:
        """Do what is due after a wish that an authority may go, and say what is left to do."""
        await self.tick()
        if self.slots.get(slot_id) is None:
            return ("it is gone",)
        leaves = self._ledger.live_under(slot_id, self._clock.now())
        if not leaves:
            return ("it is dropped as soon as that has settled",)
        below = counted(leaves, "leaf below it is", "leaves below it are")
        return (f"{below} replaced first, then it is dropped",)

    def _signer(self) -> Slot:
        active = self.slots.active(Kind.INTERMEDIATE)
        if active is None:
            raise Refused("no intermediate is active: nothing can be signed")
        return active

    async def _perform(self, step: Step) -> None:
        if isinstance(step, Prepare):
            await self._prepare(step, Activation.BY_TIME)
            return
        before = {slot.id for slot in self.slots.slots}
        await self._note(step.id, step.becomes, step.reason)
        await self._save(moved(self.slots, step, self._clock.steady()))
        for gone in before - {slot.id for slot in self.slots.slots}:
            self._keys.delete(gone)

    async def _prepare(self, step: Prepare, activation: Activation) -> Slot:
        root = get(self.slots, step.root_id) if step.root_id else None
        root_key = self._keys.load(root.id) if root else None
        # RSA keys take their time: not in the loop.
        key_id, key = await asyncio.to_thread(self._keys.generate, self._key_types[step.kind])
        try:
            certificate = await self._issuer.sign_authority(self._draft(root, key.public_key()), root_key or key, root)
            await self._note(key_id, "prepared", "")
        except BaseException:
            self._keys.delete(key_id)
            raise
        slot = self._slot(step.kind, key_id, certificate, root.id if root else key_id, activation)
        await self._save(with_prepared(self.slots, slot))
        return slot

    def _draft(self, root: Slot | None, key: PublicKey) -> Draft:
        rules, now, trust_domain = self._rules(), self._clock.now(), self.slots.trust_domain
        if root is None:
            return draft_root(trust_domain, key, serial=new_serial(now), now=now, lifetime=rules.root_lifetime)
        return draft_intermediate(
            root, trust_domain, key, serial=new_serial(now), now=now, lifetime=rules.intermediate_lifetime
        )

    def _slot(
        self, kind: Kind, key_id: str, certificate: x509.Certificate, issuer_id: str, activation: Activation
    ) -> Slot:
        return Slot(
            id=key_id,
            kind=kind,
            state=State.PREPARED,
            certificate=certificate,
            issuer_id=issuer_id,
            prepared_at=self._clock.steady(),
            activation=activation,
        )

    async def _save(self, slots: Slots) -> None:
        if slots != self.slots:
            self._unsure = True
            self._take(await self._journal.save(slots))

    def _take(self, saved: Slots) -> None:
        """Go by what the journal holds now, and tell."""
        self.slots, self._unsure = saved, False
        self._ledger.publish(saved.bundle.digest, self._clock.steady())
        self._on_change()

    async def _note(self, slot_id: str, what: str, reason: str) -> None:
        await self._recorder.append(
            [Note(kind=AuditKind.AUTHORITY, facts={"authority": slot_id, "becomes": what, "reason": reason})]
        )
        logger.info("authority", extra={"authority": slot_id, "becomes": what, "reason": reason})

    def _due(self) -> Step | None:
        now = self._clock.steady()
        ids = [slot.id for slot in self.slots.slots]
        free = {each: since for each in ids if (since := self._ledger.free_since(each))}
        live = {each: self._ledger.live_under(each, now) for each in ids}
        wall, held = now + self._clock.ahead, self._ledger.held_since()
        facts = Facts(wall=wall, held_since=held, live=live, free_since=free, lost=self._lost)
        return next_step(self.slots, facts, self._rules(), now)
