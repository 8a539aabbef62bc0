"""One gRPC stream on one Unix connection, spoken as bare HTTP/2 frames: a load client far thinner than grpc.aio.

It knows just enough: one stream, no Huffman, windows of its own too large to run out, those of the server heeded, settings and pings
answered. Messages come out whole.
"""

import asyncio
import struct
from collections.abc import Callable, Sequence

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 4, 6, 7, 8
END_HEADERS, ACK = 0x4, 0x1
STREAM = 1
WINDOW = 2**30
_INITIAL_WINDOW_SIZE = 4
FIRST_WINDOW = 65535
_LARGEST_FRAME = 16384


class ThinStream(asyncio.Protocol):
    """An open stream. `on_message` gets each response message; `send` writes a request message."""

    def __init__(
        self, path: str, metadata: Sequence[tuple[str, str]], on_message: Callable[["ThinStream", bytes], None]
    ) -> None:
        self._headers = _block([*_pseudo(path), ("content-type", "application/grpc"), ("te", "trailers"), *metadata])
        self._on_message = on_message
        self._frames = b""
        self._messages = b""
        self._unsent = b""
        self._windows = {0: FIRST_WINDOW, STREAM: FIRST_WINDOW}
        self.initial_window = FIRST_WINDOW
        self._transport: asyncio.Transport
        self.closed = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        settings = struct.pack("!HI", _INITIAL_WINDOW_SIZE, WINDOW)
        hello = _frame(SETTINGS, 0, 0, settings) + _frame(WINDOW_UPDATE, 0, 0, struct.pack("!I", WINDOW))
        transport.write(PREFACE + hello + _frame(HEADERS, END_HEADERS, STREAM, self._headers))

    def send(self, message: bytes) -> None:
        """Write one request message, as soon as the server's windows let it through."""
        self.send_part(message, len(message))

    def send_part(self, message: bytes, length: int) -> None:
        """Write only the first bytes of a request message."""
        self._unsent += struct.pack("!BI", 0, len(message)) + message[:length]
        self._flush()

    def _flush(self) -> None:
        while room := max(0, min(len(self._unsent), _LARGEST_FRAME, *self._windows.values())):
            self._transport.write(_frame(DATA, 0, STREAM, self._unsent[:room]))
            self._unsent = self._unsent[room:]
            self._windows = {stream: window - room for stream, window in self._windows.items()}

    def data_received(self, data: bytes) -> None:
        self._frames += data
        while len(self._frames) >= 9:
            length = int.from_bytes(self._frames[:3], "big")
            if len(self._frames) < 9 + length:
                return
            kind, flags, payload = self._frames[3], self._frames[4], self._frames[9 : 9 + length]
            stream = int.from_bytes(self._frames[5:9], "big")
            self._frames = self._frames[9 + length :]
            self._take(kind, flags, stream, payload)

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == DATA:
            self._messages += payload
            self._unpack()
        elif kind == SETTINGS and not flags & ACK:
            self._transport.write(_frame(SETTINGS, ACK, 0, b""))
            settings = dict(struct.iter_unpack("!HI", payload))
            before, self.initial_window = self.initial_window, settings.get(_INITIAL_WINDOW_SIZE, self.initial_window)
            self._widen(STREAM, self.initial_window - before)
        elif kind == WINDOW_UPDATE:
            self._widen(stream, int.from_bytes(payload, "big"))
        elif kind == PING and not flags & ACK:
            self._transport.write(_frame(PING, ACK, 0, payload))

    def _widen(self, stream: int, more: int) -> None:
        self._windows[stream] += more
        self._flush()

    def _unpack(self) -> None:
        while len(self._messages) >= 5:
            length = int.from_bytes(self._messages[1:5], "big")
            if len(self._messages) < 5 + length:
                return
            message, self._messages = self._messages[5 : 5 + length], self._messages[5 + length :]
            self._on_message(self, message)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(exc)

    def close(self) -> None:
        """Drop the connection."""
        self._transport.abort()


async def open_stream(
    socket_path: str,
    method: str,
    on_message: Callable[[ThinStream, bytes], None],
    metadata: Sequence[tuple[str, str]] = (),
) -> ThinStream:
    """Connect and open a stream of `method`, such as `/SpiffeWorkloadAPI/FetchX509SVID`."""
    loop = asyncio.get_running_loop()
    _, stream = await loop.create_unix_connection(lambda: ThinStream(method, metadata, on_message), socket_path)
    return stream


def _pseudo(path: str) -> list[tuple[str, str]]:
    return [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "localhost")]


def _block(fields: Sequence[tuple[str, str]]) -> bytes:
    """HPACK: literals without indexing and without Huffman (RFC 7541, 6.2.2)."""
    return b"".join(b"\0" + _text(name) + _text(value) for name, value in fields)


def _text(text: str) -> bytes:
    assert len(text) < 127
    return bytes([len(text)]) + text.encode()


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload
