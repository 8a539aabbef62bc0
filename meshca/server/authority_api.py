"""Authorities over the admin API: the operator's steps, and the whole walk with its progress."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from meshca.authority.holders import Ledger
from meshca.authority.rotation import Rotation
from meshca.authority.wishes import get
from meshca.errors import InvalidInput
from meshca.model import Holder, Kind, Slot, Slots
from meshca.ports import Clock
from meshca.proto import admin_pb2 as pb
from meshca.proto import admin_pb2_grpc as rpc
from meshca.server.convert import authority_message, kind_of, timestamp
from meshca.server.walk import Step, Walk, following
from meshca.server.wish import Asked, Wish
from sds.watch import Latest

LOOK_SECONDS = 0.25
REVOKED = "revoked"
SHORT_ID = 8
"""How many digits of an id are told apart by people: that many are in lists and logs."""


def find(slots: Slots, given: str) -> Slot:
    """The authority of that id, or the only one whose id begins so, with SHORT_ID digits at least. Raises NotFound, InvalidInput."""
    found = [slot for slot in slots.slots if slot.id.startswith(given)]
    if not found or len(given) < SHORT_ID:
        return get(slots, given)
    if len(found) > 1:
        raise InvalidInput(f"several ids begin with {given}: {', '.join(slot.id for slot in found)}")
    return found[0]


class AuthorityAPI(rpc.AuthoritiesServicer):
    """The Authorities service."""

    def __init__(self, *, rotation: Rotation, slots: Latest[Slots], ledger: Ledger, asked: Asked, clock: Clock) -> None:
        self._rotation = rotation
        self._slots = slots
        self._ledger = ledger
        self._asked = asked
        self._clock = clock

    async def List(self, request: pb.Empty, context: Any) -> pb.AuthorityList:  # noqa: N802, ARG002 - the proto names it
        """All authorities, roots first, oldest first."""
        return pb.AuthorityList(authorities=self.messages())

    def messages(self) -> list[pb.Authority]:
        """All authorities as they are shown."""
        slots = self._rotation.slots
        return [self._shown(slot) for kind in (Kind.ROOT, Kind.INTERMEDIATE) for slot in slots.of(kind)]

    async def Prepare(self, request: pb.KindRequest, context: Any) -> pb.Authority:  # noqa: N802 - same
        """Make a successor; a root is published at once and signs nothing yet."""
        async with self._asked("authority.prepare", context) as wish:
            kind = kind_of(request.kind)
            await wish.record(kind=kind)
            return self._shown(await self._rotation.prepare(kind))

    async def Activate(self, request: pb.AuthorityRequest, context: Any) -> pb.AuthorityOutcome:  # noqa: N802 - same
        """Let a prepared authority sign once every holder has the bundle; at once with force."""
        async with self._asked("authority.activate", context) as wish:
            meant = await self._recorded(wish, request)
            return self._outcome(meant, await self._rotation.activate(meant.id, force=request.force))

    async def Taint(self, request: pb.AuthorityRequest, context: Any) -> pb.AuthorityOutcome:  # noqa: N802 - same
        """Stop trusting an authority: replace what hangs on it first, then drop it."""
        async with self._asked("authority.taint", context) as wish:
            meant = await self._recorded(wish, request)
            return self._outcome(meant, await self._rotation.taint(meant.id))

    async def Revoke(self, request: pb.AuthorityRequest, context: Any) -> pb.AuthorityOutcome:  # noqa: N802 - same
        """Drop an authority; what hangs on it is replaced first, unless forced."""
        async with self._asked("authority.revoke", context) as wish:
            meant = await self._recorded(wish, request)
            return self._outcome(meant, await self._rotation.revoke(meant.id, force=request.force))

    async def Rotate(self, request: pb.KindRequest, context: Any) -> AsyncIterator[pb.Progress]:  # noqa: N802 - same
        """Write the wish down, then tell each step until the old authority is gone. Nobody needs to watch for it to go on."""
        async with self._asked("authority.rotate", context) as wish:
            kind = kind_of(request.kind)
            await wish.record(kind=kind)
            before = self._rotation.slots
            await self._rotation.rotate(kind)
        walk, told = Walk.begin(kind, before), []
        while True:
            version, after = self._slots.version, self._rotation.slots
            steps = list(walk.steps(before, after, behind=self._behind(), leaves_under=self._ledger.leaves_under))
            for step in steps:
                if step not in told:
                    yield self._progress(step)
            if steps and steps[-1].name == "done":
                return
            before, told = after, steps
            await self._look_again(version)

    async def _look_again(self, version: int) -> None:
        """Wait for a change of the slots, but look at the holders every now and then too."""
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                await self._slots.newer(version)
        except TimeoutError:
            pass

    async def _recorded(self, wish: Wish, request: pb.AuthorityRequest) -> Slot:
        """Record what is wished for, and return the authority that is meant. Raises NotFound, InvalidInput."""
        meant = find(self._rotation.slots, request.id)
        if request.kind and meant.kind != kind_of(request.kind):
            raise InvalidInput(f"{meant.id} is of kind {meant.kind}, not {request.kind}")
        await wish.record(authority=meant.id, force=request.force)
        return meant

    def _outcome(self, before: Slot, remarks: tuple[str, ...]) -> pb.AuthorityOutcome:
        """The authority as it is now; one that has gone is shown for the last time, in the state REVOKED."""
        shown = self._shown(self._rotation.slots.get(before.id) or before)
        if self._rotation.slots.get(before.id) is None:
            shown.state, shown.next = REVOKED, ""
        return pb.AuthorityOutcome(authority=shown, remarks=remarks)

    def _shown(self, slot: Slot) -> pb.Authority:
        leaves = self._ledger.leaves_under(slot.id) if slot.retired_at else ()
        said = following(slot, behind=self._behind(), leaves=leaves)
        return authority_message(slot, live_leaves=self._live(slot.id), following=said)

    def _behind(self) -> tuple[Holder, ...]:
        return self._ledger.behind(self._rotation.slots.bundle.digest, self._clock.now())

    def _live(self, slot_id: str) -> int:
        return self._ledger.live_under(slot_id, self._clock.now())

    def _progress(self, step: Step) -> pb.Progress:
        return pb.Progress(
            at=timestamp(self._clock.now()),
            step=step.name,
            text=step.text,
            authority_id=step.authority_id,
            behind=step.behind,
        )
