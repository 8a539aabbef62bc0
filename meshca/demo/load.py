"""A small load generator over real sockets: keeps a steady stream of HTTP/1.1 requests going and counts every one of them.

Nothing is retried here.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from meshca.bootstrap import CLIENT_HEADER, SERVER_HEADER

_IDENTITIES = (CLIENT_HEADER.encode() + b": ", SERVER_HEADER.encode() + b": ")
REQUEST_TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What is asked, of 127.0.0.1. Whatever is not a complete 200, or of another status that is `expected`, is a failure."""

    port: int
    host: str = "demo"
    path: str = "/"
    expected: int = 200


@dataclass(slots=True, kw_only=True)
class Tally:
    """What the load saw: answers by the text of a 200, or else by status. Latencies are in seconds, one for each answered request."""

    requests: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    peers: set[str] = field(default_factory=set)

    def share(self, answer: str) -> float:
        """The percentage of all answers that were this one; 0 when there were none."""
        return 100 * self.answers[answer] / self.answers.total() if self.answers else 0.0

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
        whole.answers += each.answers
        whole.failures += each.failures
        whole.latencies += each.latencies
        whole.peers |= each.peers
    return whole


async def keep_asking(ask: Ask, tally: Tally, *, pause: float, kept_alive: bool = True) -> None:
    """Send requests one after the other, with a pause in seconds between them, until cancelled.

    `kept_alive` uses one connection for as long as it lasts; otherwise each request has a connection of its own.
    """
    connection: _Connection | None = None
    try:
        while True:
            connection = await _ask_once(connection, ask, tally)
            connection = connection if kept_alive else _close(connection)
            await asyncio.sleep(pause)
    finally:
        _close(connection)


async def ask_until_answered(ask: Ask, tally: Tally, *, pause: float) -> None:
    """Ask over and over, with a pause in seconds, until there is an answer as expected."""
    while not tally.answers:
        _close(await _ask_once(None, ask, tally))
        await asyncio.sleep(pause)


async def _ask_once(connection: "_Connection | None", ask: Ask, tally: Tally) -> "_Connection | None":
    """Send one request and count how it went; the connection for the next, None where it is of no use any more."""
    started = time.perf_counter()
    try:
        async with asyncio.timeout(REQUEST_TIMEOUT_SECONDS):
            connection = connection or await _Connection.open(ask.port)
            answer, peers = await connection.get(ask)
    except (OSError, ValueError, EOFError, TimeoutError) as error:
        tally.failures[f"{type(error).__name__}: {error}"[:120]] += 1
        connection = _close(connection)
    except asyncio.CancelledError:
        _close(connection)
        raise
    else:
        tally.latencies.append(time.perf_counter() - started)
        tally.answers[answer] += 1
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

    async def get(self, ask: Ask) -> tuple[str, set[str]]:
        """One request: the answer, and the SPIFFE IDs that the two ends saw of each other. Raises ValueError for an unexpected status."""
        self._writer.write(f"GET {ask.path} HTTP/1.1\r\nhost: {ask.host}\r\n\r\n".encode())
        head = (await self._reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
        body = (await self._reader.readexactly(int(_field(head, b"content-length: ") or b"0"))).decode(errors="replace")
        status = head[0].split(b" ", 2)[1].decode()
        if status not in {"200", str(ask.expected)}:
            raise ValueError(f"{status} {body[:80]}")
        peers = {value.decode() for name in _IDENTITIES if (value := _field(head, name))}
        return (body.strip() if status == "200" else status), peers

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
