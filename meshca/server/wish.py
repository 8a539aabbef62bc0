"""What an administrator asks for, as the record tells it.

Rules:
- A wish is checked first, and recorded before it is carried out: what can not be recorded is not done.
- What was refused is a record of its own, and so is a wish that failed when it was carried out: it names the record of the wish.
- What was not checked is in no record, except in the text of a refusal: printable, and short.
"""

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from meshca.authority.record import Facts
from meshca.authority.recorder import Note, Recorder
from meshca.errors import StoreUnavailable
from meshca.logs import printable
from meshca.model import AuditKind
from meshca.server.admin import Identify, status_of
from sds.caller import UnixPeer

MOST_CHARACTERS = 300

logger = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Wish:
    """What one administrator asks for."""

    operation: str
    caller: UnixPeer
    recorder: Recorder = field(repr=False)
    _number: int = field(default=0, init=False)

    async def record(self, *changes: Facts, **facts: Any) -> None:
        """It makes sense, and is to be carried out now, with one link for each change. Raises StoreUnavailable, and then it must not be."""
        await self._append(AuditKind.ADMIN, facts, changes)
        self._number = self.recorder.sequence

    async def refused(self, error: Exception) -> None:
        """It was not carried out, or not to its end."""
        wish = {"wish": self._number} if self._number else {}
        with suppress(StoreUnavailable):  # then nothing is done that would have to be recorded
            await self._append(AuditKind.REFUSED, {"text": printable(status_of(error)[1])[:MOST_CHARACTERS], **wish})

    async def _append(self, kind: AuditKind, facts: Facts, changes: Sequence[Facts] = ()) -> None:
        told = {"operation": self.operation, "uid": self.caller.uid, "pid": self.caller.pid, **facts}
        await self.recorder.append([Note(kind=kind, facts={**told, **change}) for change in changes or ({},)])
        logger.info(kind.value, extra=told)


Asked = Callable[[str, Any], AbstractAsyncContextManager[Wish]]
"""Opens the wish of a call: the operation's name, and the call's context."""


def asked_of(recorder: Recorder, identify: Identify) -> Asked:
    """Opens wishes that are kept by this recorder; whatever a wish ends with but good is recorded."""

    @asynccontextmanager
    async def asked(operation: str, context: Any) -> AsyncIterator[Wish]:
        wish = Wish(operation=operation, caller=identify(context), recorder=recorder)
        try:
            yield wish
        except Exception as error:
            await wish.refused(error)
            raise

    return asked
