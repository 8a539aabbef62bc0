"""How many bytes of unfinished gRPC messages one client has sent: grpcio keeps them until the rest has come. Pure.

It follows the frames of HTTP/2 (RFC 9113, 4.1) and the length prefixes of gRPC, and looks at no content.

Rules:
- Never less is counted than grpcio holds. It may be more: what is left of a stream that the server ended counts until the client
  ends it, too, or its connection.
- Each unfinished message counts a little more than its bytes, so that many of one byte are no way around.
- Padding is not told from content, since grpcio refuses padded frames.
"""

from collections.abc import Generator
from typing import TypeAlias

_PREFACE, _FRAME_HEADER, _PREFIX = 24, 9, 5
_DATA, _HEADERS, _RST_STREAM = 0, 1, 3
_END_STREAM = 0x1
_STREAM_ID = 0x7FFF_FFFF
_OVERHEAD = 512

_Parts: TypeAlias = Generator[int, memoryview, None]
"""Takes bytes in parts of any length up to that which it yielded before."""


class _Message:
    """The part of a message that has come: at first its prefix, which says how much more is wanted."""

    __slots__ = ("held", "prefix", "wanted")

    def __init__(self) -> None:
        self.held, self.prefix, self.wanted = 0, b"", _PREFIX

    def add(self, part: memoryview) -> None:
        self.held += len(part)
        self.wanted -= len(part)
        if self.held <= _PREFIX:
            self.prefix += part
            if not self.wanted:
                self.wanted = int.from_bytes(self.prefix[1:])


class Inflow:
    """What one connection's client sends. `unfinished` are the bytes of messages that are not whole yet."""

    __slots__ = ("_messages", "_parts", "_wanted", "unfinished")

    def __init__(self) -> None:
        self.unfinished = 0
        self._messages: dict[int, _Message] = {}
        self._parts = self._frames()
        self._wanted = next(self._parts)

    def feed(self, content: memoryview) -> int:
        """Take what came next, and return by how much `unfinished` has changed."""
        before, at = self.unfinished, 0
        while at < len(content):
            part = content[at : at + self._wanted]
            at += len(part)
            self._wanted = self._parts.send(part)
        return self.unfinished - before

    def clear(self) -> int:
        """Forget what was not finished, once the connection is dropped; return by how much `unfinished` has changed."""
        before, self.unfinished = self.unfinished, 0
        self._messages.clear()
        return -before

    def _frames(self) -> _Parts:
        yield from _skip(_PREFACE)
        while True:
            header = bytearray()
            while len(header) < _FRAME_HEADER:
                header += yield _FRAME_HEADER - len(header)
            length, kind, flags = int.from_bytes(header[:3]), header[3], header[4]
            stream = int.from_bytes(header[5:]) & _STREAM_ID
            yield from self._messages_of(stream, length) if kind == _DATA else _skip(length)
            if kind == _RST_STREAM or (kind in {_DATA, _HEADERS} and flags & _END_STREAM):
                self._forget(stream)

    def _messages_of(self, stream: int, length: int) -> _Parts:
        """So many bytes of a stream: of one message, or of several."""
        while length:
            message = self._messages.get(stream) or self._begin(stream)
            part = yield min(length, message.wanted)
            length -= len(part)
            self.unfinished += len(part)
            message.add(part)
            if not message.wanted:
                self._forget(stream)

    def _begin(self, stream: int) -> _Message:
        self.unfinished += _OVERHEAD
        return self._messages.setdefault(stream, _Message())

    def _forget(self, stream: int) -> None:
        if message := self._messages.pop(stream, None):
            self.unfinished -= _OVERHEAD + message.held


def _skip(length: int) -> _Parts:
    while length:
        length -= len((yield length))
