"""One value, many watchers: the only concurrency primitive of this package.

Rules: a watcher always gets the newest value and may skip those in between (coalescing); setting an equal value wakes nobody; a watcher
that does not read costs nothing and holds back nobody. One event loop only.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Latest(Generic[T]):
    """The newest value of something, which async watchers follow."""

    __slots__ = ("_changed", "_value", "_version")

    def __init__(self, value: T) -> None:
        self._value = value
        self._version = 0
        self._changed: asyncio.Event | None = None

    @property
    def value(self) -> T:
        """The newest value."""
        return self._value

    @property
    def version(self) -> int:
        """How often the value changed since the start: what `newer` compares with."""
        return self._version

    def set(self, value: T) -> None:
        """Replace the value and wake all who watch, unless it is equal to the present one."""
        if value == self._value:
            return
        self._value = value
        self._version += 1
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    async def newer(self, than: int) -> int:
        """Wait until the version exceeds `than` and return it. Safe to cancel."""
        while self._version <= than:
            if self._changed is None:
                self._changed = asyncio.Event()
            await self._changed.wait()
        return self._version

    async def watch(self) -> AsyncIterator[T]:
        """Yield the present value at once, then each newer one."""
        seen = -1
        while True:
            seen = await self.newer(seen)
            yield self._value
