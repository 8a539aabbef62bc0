"""A small load generator over real sockets: keeps a steady stream of HTTP/1.1 requests going and counts every one of them.

Whatever is not a complete 200 is a failure, with its reason. Nothing is retried.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from meshca.bootstrap import CLIENT_HEADER, SERVER_HEADER

_IDENTITIES = (CLIENT_HEADER.encode() + b": ", SERVER_HEADER.encode() + b": ")
REQUEST_TIMEOUT_SECONDS = 10.0


@dataclass(slots=True, kw_only=True)
class Tally:
    """What the load saw. Latencies are in seconds, one for each answered request."""

    requests: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    peers: set[str] = field(default_factory=set)

    @property
    def failed(self) -> int:
        """How many requests did not end in a complete 200."""
        return sum(self.failures.values())

    def quantile(self, share: float) -> float:
        """The latency below which that share of the requests lies, in seconds; 0 when there were none."""
        ordered = sorted(self.latencies)
        return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else 0.0


def added(tallies: Iterable[Tally]) -> Tally:
    """What several loads saw, taken together."""
    whole = Tally()
    for each in tallies:
        whole.requests += each.requests
        whole.failures += each.failures
        whole.latencies += each.latencies
        whole.peers |= each.peers
    return whole


async def keep_asking(port: int, tally: Tally, *, pause: float, kept_alive: bool = True) -> None:
    """Send requests to 127.0.0.1 one after the other, with a pause in seconds between them, until cancelled.

    `kept_alive` uses one connection for as long as it lasts; otherwise each request has a connection of its own.
    """
    connection: _Connection | None = None
    try:
        while True:
            connection = await _ask_once(connection, port, tally)
            connection = connection if kept_alive else _close(connection)
            await asyncio.sleep(pause)
    finally:
        _close(connection)


async def _ask_once(connection: "_Connection | None", port: int, tally: Tally) -> "_Connection | None":
    """Send one request and count how it went; the connection for the next, None where it is of no use any more."""
    started = time.perf_counter()
    try:
        async with asyncio.timeout(REQUEST_TIMEOUT_SECONDS):
            connection = connection or await _Connection.open(port)
            peers = await connection.get()
    except (OSError, ValueError, EOFError, TimeoutError) as error:
        tally.failures[f"{type(error).__name__}: {error}"[:120]] += 1
        connection = _close(connection)
    except asyncio.CancelledError:
        _close(connection)
        raise
    else:
        tally.latencies.append(time.perf_counter() - started)
        tally.peers |= peers
    tally.requests += 1
    return connection


class _Connection:
    """One HTTP/1.1 connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, port: int) -> "_Connection":
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def get(self) -> set[str]:
        """One request; return the SPIFFE IDs that the two ends saw of each other. Raises ValueError when it is not a 200."""
        self._writer.write(b"GET / HTTP/1.1\r\nhost: demo\r\n\r\n")
        head = (await self._reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
        body = await self._reader.readexactly(int(_field(head, b"content-length: ") or b"0"))
        if not head[0].startswith(b"HTTP/1.1 200"):
            raise ValueError(f"{head[0].decode(errors='replace')} {body[:80].decode(errors='replace')}")
        return {value.decode() for name in _IDENTITIES if (value := _field(head, name))}

    def close(self) -> None:
        self._writer.close()


def _field(head: list[bytes], name: bytes) -> bytes:
    """The value of a header field, which Envoy writes in lower case; empty when it is not there."""
    return next((line.removeprefix(name) for line in head if line.startswith(name)), b"")


def _close(connection: _Connection | None) -> _Connection | None:
    """Close a connection, and be the one that comes after it: none."""
    if connection is not None:
        connection.close()
    return None
