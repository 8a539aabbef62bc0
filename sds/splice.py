"""Joins two stream sockets: what one sends the other receives, and when one ends so does the other.

Rules: a side that does not read stops the other side's reading, so at most two socket buffers and one write buffer are ever held.
All joints share one receive buffer: it is filled and emptied within one step of the event loop.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import cast

_RECEIVED = memoryview(bytearray(64 * 1024))


class _Side(asyncio.BufferedProtocol):
    """One of the two sockets."""

    __slots__ = ("lost", "other", "received", "transport")

    def __init__(self, lost: Callable[[], None], received: Callable[[memoryview], None]) -> None:
        self.transport: asyncio.Transport | None = None
        self.other = self
        self.lost = lost
        self.received = received

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        return _RECEIVED

    def buffer_updated(self, nbytes: int) -> None:
        self.received(_RECEIVED[:nbytes])
        if self.other.transport is not None:
            self.other.transport.write(bytes(_RECEIVED[:nbytes]))

    def pause_writing(self) -> None:
        if self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other.transport is not None:
            self.other.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self.transport = None
        self.lost()  # before the socket is closed, and with it its name set free
        if self.other.transport is not None:
            self.other.transport.close()  # after what is left has been written


def _ignore(_: memoryview) -> None:
    return


class Joint:
    """Two joined sockets. `on_loss` is called when the first of them ends, while it still holds its address; `on_end` after both ended.

    `on_received` gets a view of what the near side sent, before that is passed on; it may abort.
    """

    __slots__ = ("_left", "_on_end", "_on_loss", "_sides")

    def __init__(
        self,
        *,
        on_loss: Callable[[], None],
        on_end: Callable[[], None],
        on_received: Callable[[memoryview], None] = _ignore,
    ) -> None:
        near, far = _Side(self._lost, on_received), _Side(self._lost, _ignore)
        near.other, far.other = far, near
        self._sides = (near, far)
        self._left = 2
        self._on_loss = on_loss
        self._on_end = on_end

    async def connect(self, near: socket.socket, far: socket.socket) -> None:
        """Take over both sockets, which must be connected and not block, and let the bytes flow.

        The near side is paused until the far side is there too: now, and not in `connection_made`, which asyncio of Python 3.11.2
        (Debian 12) disregards: it read on, and the first bytes were lost.
        """
        loop = asyncio.get_running_loop()
        near_side, far_side = self._sides
        try:
            transport, _ = await loop.connect_accepted_socket(lambda: near_side, near)
            transport.pause_reading()
            await loop.connect_accepted_socket(lambda: far_side, far)
        except BaseException:
            self.abort()
            far.close()
            raise
        if near_side.transport is not None:
            near_side.transport.resume_reading()

    def abort(self) -> None:
        """Drop both sockets at once, with whatever was not yet written."""
        for side in self._sides:
            if side.transport is not None:
                side.transport.abort()

    def _lost(self) -> None:
        self._left -= 1
        if self._left:
            self._on_loss()
        else:
            self._on_end()
