"""gRPC over mutual TLS under a certificate that changes: a server for each, on one port, the older ones until their streams have ended.

gRPC can also be told to ask for the certificate at each handshake. Then one handshake may use what another has just freed
(grpc/grpc#36693; tried: when 200 proxies came back at once, every second process crashed).

Rules:
- The port is ours alone when we begin. Later servers of ours share it, so that there is always one who listens.
- Whoever reaches the port may connect, so connections are bounded, in number and in the time that they take to prove who they are: the CA
  may be in the same process, and needs open files too.
- An older server takes no new connections. Its streams go on, and end by themselves: with a client's certificate, or our trust in it.
"""

import asyncio
import logging
import resource
import socket
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc

from meshca.errors import CannotStart
from meshca.router.identity import Credentials
from sds.watch import Latest

DRAIN_SECONDS = 1.0
PATIENCE_SECONDS = 24 * 3600.0
"""How long an older server may stay: longer than any leaf lives."""
MOST_OLDER = 16
"""How many older servers may stay at once, however often the certificate or the roots change."""
MOST_STREAMS = 100
_OPTIONS = (
    ("grpc.max_concurrent_streams", MOST_STREAMS),
    ("grpc.so_reuseport", 1),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    # A stream ends with its certificate, and the next must not be on the connection that showed it. So connections take no new streams soon
    # after they began, and have all the time to end the old ones: less than the shortest leaf has left when it is shown.
    ("grpc.max_connection_age_ms", 3_000),
    ("grpc.server_handshake_timeout_ms", 10_000),
)
_SHARE_OF_FILES = 4
"""One of so many of the files that this process may have open is for connections."""

logger = logging.getLogger(__name__)


@asynccontextmanager
async def serving(
    services: Sequence[Any], credentials: Latest[Credentials | None], address: str, port: int
) -> AsyncIterator[int]:
    """Serve while the context is open, from the first credentials on; yields the port. Raises CannotStart when that is taken."""
    servers = _Servers(services, address, port)
    seen = await credentials.newer(0)
    await servers.replace(credentials.value)
    following = asyncio.create_task(_follow(servers, credentials, seen), name="router certificate")
    try:
        yield servers.port
    finally:
        following.cancel()
        await servers.stop()


async def _follow(servers: "_Servers", credentials: Latest[Credentials | None], seen: int) -> None:
    while True:
        seen = await credentials.newer(seen)
        try:
            await servers.replace(credentials.value)
        except CannotStart as error:
            logger.exception("the router serves on under its older certificate", exc_info=error)


class _Servers:
    """The server that listens, and those before it."""

    def __init__(self, services: Sequence[Any], address: str, port: int) -> None:
        self._services = services
        self._address = address
        self.port = port
        self._newest: grpc.aio.Server | None = None
        self._older: deque[tuple[grpc.aio.Server, asyncio.Task[None]]] = deque()

    async def replace(self, credentials: Credentials | None) -> None:
        """Listen under these. Raises CannotStart when the address is taken."""
        if credentials is None:  # what there was is better than nothing
            return
        bound = ("grpc.max_allowed_incoming_connections", most_connections())
        server = grpc.aio.server(options=(*_OPTIONS, bound))
        server.add_generic_rpc_handlers(tuple(self._services))
        self.port = self._bind(server, credentials)
        await server.start()
        before, self._newest = self._newest, server
        if before:
            self._older.append((before, asyncio.create_task(before.stop(PATIENCE_SECONDS), name="older server")))
        while self._older and (len(self._older) > MOST_OLDER or self._older[0][1].done()):
            old, ending = self._older.popleft()
            await old.stop(DRAIN_SECONDS)
            await ending

    def _bind(self, server: grpc.aio.Server, credentials: Credentials) -> int:
        secure = grpc.ssl_server_credentials(
            [(credentials.key, credentials.chain)], credentials.roots, require_client_auth=True
        )
        where = f"{self._address}:{self.port}"
        try:
            if self._newest is None and self.port:
                _check_free(self._address, self.port)
            return int(server.add_secure_port(where, secure))
        except (OSError, RuntimeError) as error:
            raise CannotStart(f"the router can not listen on {where}: is something else there?") from error

    async def stop(self) -> None:
        """End all of them."""
        servers = [*(server for server, _ in self._older), *([self._newest] if self._newest else [])]
        await asyncio.gather(*(server.stop(DRAIN_SECONDS) for server in servers))
        await asyncio.gather(*(ending for _, ending in self._older))


def most_connections() -> int:
    """How many connections may be open at once."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, soft // _SHARE_OF_FILES)


def _check_free(address: str, port: int) -> None:
    """Raises OSError when somebody listens there: our own servers would share it with another router of this user."""
    family, kind, protocol, _, where = socket.getaddrinfo(address.strip("[]"), port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(where)
