"""Performs what `slots` decides, one saved step after the other, and takes the operator's wishes. Goes on from the journal after any crash.

Rules:
- Each step ends with one save; what was done before it (a key made, a certificate signed) harms nobody if the save never comes.
- A key is destroyed after its authority has left the journal; keys that no authority has are destroyed at start.
- Everything that changes an authority is recorded. One thing at a time.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from cryptography import x509

from meshca.authority.draft import Draft, draft_intermediate, draft_root
from meshca.authority.holders import Ledger
from meshca.authority.issue import Issuer, new_serial
from meshca.authority.recorder import Note, Recorder
from meshca.authority.slots import (
    MAX_ROOTS,
    Activate,
    Drop,
    Facts,
    Prepare,
    Retire,
    Rules,
    Step,
    activation_of,
    next_step,
    with_activation,
    with_active,
    with_leaving,
    with_prepared,
    with_retired,
    without,
)
from meshca.csr import PublicKey
from meshca.errors import CannotStart, KeyGone, NotFound, Refused
from meshca.model import Activation, AuditKind, KeyType, Kind, Leaving, Slot, Slots, State
from meshca.ports import Clock, Journal, KeyManager
from spiffe.id import TrustDomain

logger = logging.getLogger(__name__)


class Rotation:
    """The authorities of a trust domain. `start` before use; `tick` often. `on_change` is called after each saved change."""

    def __init__(
        self,
        *,
        trust_domain: TrustDomain,
        journal: Journal,
        keys: KeyManager,
        issuer: Issuer,
        ledger: Ledger,
        recorder: Recorder,
        clock: Clock,
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
        self.slots = Slots(trust_domain=trust_domain)

    async def start(self) -> None:
        """Load the journal and do what is due. Raises CannotStart when the store is another trust domain's, or the keys another store's."""
        saved = await self._journal.load()
        if saved is not None and saved.trust_domain != self.slots.trust_domain:
            raise CannotStart(
                f"the store is of trust domain {saved.trust_domain}, the configuration says {self.slots.trust_domain}: "
                "a trust domain is never renamed; use another data directory for another one"
            )
        if saved is None and self._keys.key_ids():
            raise CannotStart(
                "there are keys of authorities, but the store is new: restore the store they belong to, or move them away"
            )
        self.slots = saved or self.slots
        for orphan in self._keys.key_ids() - {slot.id for slot in self.slots.slots}:
            self._keys.delete(orphan)
        self._changed()
        await self.tick()

    async def tick(self) -> None:
        """Do everything that is due. Raises StoreUnavailable, IssuanceRefused; what was done before stays done."""
        async with self._lock:
            self._ledger.expire(self._clock.now())
            self._lost = frozenset(slot.id for slot in self.slots.slots if self._is_lost(slot))
            while step := next_step(self.slots, self._facts(), self._rules(), self._clock.now()):
                await self._perform(step)

    async def prepare(self, kind: Kind) -> Slot:
        """Make a successor that waits for `activate`. Raises Refused while one is prepared, or three roots are published."""
        async with self._lock:
            root = self.slots.active(Kind.ROOT)
            waiting = [
                s for s in self.slots.of(kind, State.PREPARED) if kind is Kind.ROOT or (root and s.issuer_id == root.id)
            ]
            if waiting:
                raise Refused(
                    f"{kind} {waiting[0].id} is prepared already: `meshca authority activate {waiting[0].id}`, or revoke it"
                )
            self._check_room(kind)
            if root is None:
                raise Refused("there is no active root yet")
            step = Prepare(kind=kind, root_id="" if kind is Kind.ROOT else root.id)
            return await self._prepare(step, Activation.BY_HAND)

    async def activate(self, slot_id: str, *, force: bool) -> tuple[str, ...]:
        """Let a prepared authority sign as soon as every holder has the bundle, or at once with force. Raises NotFound, Refused."""
        async with self._lock:
            slot = self._get(slot_id)
            if slot.state is not State.PREPARED:
                raise Refused(f"{slot.kind} {slot_id} is {slot.state}, only a prepared authority can be activated")
            await self._save(with_activation(self.slots, slot_id, Activation.AT_ONCE))
            while force and self._get(slot_id).state is State.PREPARED:
                await self._perform(activation_of(self.slots, slot) if slot.kind is Kind.ROOT else Activate(id=slot_id))
        await self.tick()
        behind = len(self._ledger.behind(self.slots.bundle.digest, self._clock.now()))
        if self._get(slot_id).state is State.ACTIVE:
            return (
                ("it signs from now on",) if not force else (f"it signs from now on; {behind} holders may not know it",)
            )
        return (
            f"it signs as soon as {behind} more holders have the new bundle"
            if behind
            else "it signs as soon as that has settled",
        )

    async def taint(self, slot_id: str) -> tuple[str, ...]:
        """Trust an authority no longer: replace it and the leaves below it first, then drop it. Raises NotFound, Refused."""
        return await self._send_off(self._get(slot_id), Leaving.TAINTED)

    async def revoke(self, slot_id: str, *, force: bool) -> tuple[str, ...]:
        """Drop an authority; what is below it is replaced first, unless forced. Raises NotFound, Refused."""
        slot = self._get(slot_id)
        if slot.state is State.PREPARED or (force and slot.state is not State.ACTIVE):
            async with self._lock:
                await self._perform(Drop(id=slot_id, reason="revoked by force" if force else "revoked"))
            await self.tick()
            return ("it is gone",)
        if slot.state is State.ACTIVE and slot.kind is Kind.ROOT and not self.slots.of(Kind.ROOT, State.PREPARED):
            raise Refused(
                f"root {slot_id} is the last usable one: `meshca authority prepare --kind root` first, or taint it"
            )
        remarks = await self._send_off(slot, Leaving.REVOKED)
        if slot.kind is Kind.INTERMEDIATE:
            remarks += (
                "then the root above it is rotated too: verifiers know only roots, and would go on to trust this intermediate",
            )
        return remarks

    async def rotate(self, kind: Kind) -> None:
        """Wish for a successor and for the present ones to leave; the ticks see to it. Raises StoreUnavailable."""
        async with self._lock:
            slots = self.slots
            for slot in slots.of(kind, State.PREPARED):
                slots = with_activation(slots, slot.id, Activation.AT_ONCE)
            present = {slot.id for slot in slots.of(kind) if slot.state is not State.PREPARED}
            await self._save(with_leaving(slots, present, Leaving.ROTATED))
        await self.tick()

    async def sign_head(self) -> str:
        """Record the head of the issuance record, signed by the active intermediate. Raises Refused, KeyGone, StoreUnavailable."""
        signer = self._signer()
        return await self._recorder.sign_head(self._keys.load(signer.id), signer.certificate)

    async def prune_record(self, before: datetime) -> tuple[int, str]:
        """Prune the issuance record, leaving a signed anchor; return how many links went, and the head after."""
        signer = self._signer()
        return await self._recorder.prune(before, self._keys.load(signer.id), signer.certificate)

    def self_test(self) -> None:
        """Sign and verify a throwaway. Raises Refused, IssuanceRefused, KeyGone."""
        self._issuer.self_test(self.slots.trust_domain, self._signer())

    def alarms(self, now: datetime) -> tuple[str, ...]:
        """What a person must look at, in sentences."""
        behind = self._ledger.behind(self.slots.bundle.digest, now)
        late = [holder for holder in behind if now - holder.since >= self._alarm_after]
        texts = (
            [
                f"{len(late)} holders have not taken the new bundle since {late[0].since:%Y-%m-%dT%H:%M:%SZ}, first of them {late[0].name}"
            ]
            if late
            else []
        )
        texts += [
            f"the key of {s.kind} {s.id} is gone: it is being replaced" for s in self.slots.slots if s.id in self._lost
        ]
        if self.slots.active(Kind.INTERMEDIATE) is None:
            texts.append("there is no active intermediate: nothing can be signed")
        return tuple(texts)

    async def _send_off(self, slot: Slot, why: Leaving) -> tuple[str, ...]:
        """Mark an authority as leaving, and let the ticks replace what is below it."""
        if slot.state is State.PREPARED:
            raise Refused(
                f"{slot.kind} {slot.id} is only prepared: nothing hangs on it; `meshca authority revoke {slot.id}` drops it"
            )
        async with self._lock:
            if slot.state is State.ACTIVE and not self.slots.of(slot.kind, State.PREPARED):
                self._check_room(slot.kind)
            await self._save(with_leaving(self.slots, {slot.id}, why))
        await self.tick()
        leaves = self._ledger.live_under(slot.id, self._clock.now())
        return (f"{leaves} leaves below it are replaced first, then it is dropped",)

    def _signer(self) -> Slot:
        active = self.slots.active(Kind.INTERMEDIATE)
        if active is None:
            raise Refused("no intermediate is active: nothing can be signed")
        return active

    def _check_room(self, kind: Kind) -> None:
        if kind is Kind.ROOT and len(self.slots.of(Kind.ROOT)) >= MAX_ROOTS:
            raise Refused(
                f"{MAX_ROOTS} roots are published, the most there may be: wait until one has left, or revoke one"
            )

    async def _perform(self, step: Step) -> None:
        match step:
            case Prepare():
                await self._prepare(step, Activation.BY_TIME)
            case Activate(id=slot_id):
                await self._note(slot_id, "active", "")
                await self._save(with_active(self.slots, slot_id, self._clock.now()))
            case Retire(id=slot_id, reason=reason):
                await self._note(slot_id, "retired", reason)
                await self._save(with_retired(self.slots, slot_id, self._clock.now()))
            case Drop(id=slot_id, reason=reason):
                await self._note(slot_id, "dropped", reason)
                before = {slot.id for slot in self.slots.slots}
                await self._save(without(self.slots, slot_id))
                for gone in before - {slot.id for slot in self.slots.slots}:
                    self._keys.delete(gone)

    async def _prepare(self, step: Prepare, activation: Activation) -> Slot:
        # RSA keys take their time: not in the loop.
        key_id, key = await asyncio.to_thread(self._keys.generate, self._key_types[step.kind])
        root = self._get(step.root_id) if step.root_id else None
        draft = self._draft(root, key.public_key())
        certificate = await self._issuer.sign_authority(draft, self._keys.load(root.id) if root else key, root)
        slot = self._slot(step.kind, key_id, certificate, root.id if root else key_id, activation)
        await self._note(key_id, "prepared", "")
        await self._save(with_prepared(self.slots, slot))
        return slot

    def _draft(self, root: Slot | None, key: PublicKey) -> Draft:
        rules, now, trust_domain = self._rules(), self._clock.now(), self.slots.trust_domain
        if root is None:
            return draft_root(trust_domain, key, serial=new_serial(), now=now, lifetime=rules.root_lifetime)
        return draft_intermediate(
            root, trust_domain, key, serial=new_serial(), now=now, lifetime=rules.intermediate_lifetime
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
            prepared_at=self._clock.now(),
            activation=activation,
        )

    async def _save(self, slots: Slots) -> None:
        if slots != self.slots:
            self.slots = await self._journal.save(slots)
            self._changed()

    def _changed(self) -> None:
        self._ledger.publish(self.slots.bundle.digest, self._clock.now())
        self._on_change()

    async def _note(self, slot_id: str, what: str, reason: str) -> None:
        await self._recorder.append(
            [Note(kind=AuditKind.AUTHORITY, facts={"authority": slot_id, "becomes": what, "reason": reason})]
        )
        logger.info("authority", extra={"authority": slot_id, "becomes": what, "reason": reason})

    def _facts(self) -> Facts:
        now = self._clock.now()
        ids = [slot.id for slot in self.slots.slots]
        free = {each: since for each in ids if (since := self._ledger.free_since(each))}
        live = {each: self._ledger.live_under(each, now) for each in ids}
        return Facts(held_since=self._ledger.held_since(), live=live, free_since=free, lost=self._lost)

    def _is_lost(self, slot: Slot) -> bool:
        """Whether a key that is still needed is gone. Old authorities sign nothing any more."""
        if slot.state not in {State.PREPARED, State.ACTIVE}:
            return False
        try:
            self._keys.load(slot.id)
        except KeyGone:
            return True
        return False

    def _get(self, slot_id: str) -> Slot:
        slot = self.slots.get(slot_id)
        if slot is None:
            raise NotFound(f"there is no authority {slot_id!r}; `meshca authority list` shows those there are")
        return slot
