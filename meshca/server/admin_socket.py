"""The socket on which administrators ask: who may, known by kernel uid, and the gRPC server behind it."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import grpc

from meshca.config import Config
from meshca.server.admin import Outcomes
from meshca.server.app import CAServer, Surroundings
from meshca.server.requests import RequestIDs
from sds.caller import UnixPeer
from sds.errors import NotAuthorized
from sds.gate import Gate, GateLimits, HasPeer
from sds.unix_socket import SocketSpec

DRAIN_SECONDS = 1.0
MOST_ADMINS = 128


class Admins:
    """Who may administer: root, the server's own user, and those whom the configuration names. SIGHUP may change it."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def refusal(self, peer: UnixPeer) -> str | None:
        """Why a peer may not connect, or go on asking; None when it may."""
        if peer.uid in {0, os.geteuid(), *self.config.admin_uids}:
            return None
        return f"uid {peer.uid} may not administer: root, uid {os.geteuid()} and admin_uids may"

    def apply(self, config: Config) -> None:
        """Go by a configuration that was loaded again: who was added must be able to dial, too."""
        self.config = config
        with suppress(FileNotFoundError):
            self.socket.path.chmod(self.socket.mode)

    @property
    def socket(self) -> SocketSpec:
        """Closed to others by its mode, too, unless somebody else is to come in: then the gate alone decides."""
        return SocketSpec(name="admin", path=self.config.admin_socket, mode=0o666 if self.config.admin_uids else 0o600)


@asynccontextmanager
async def serve_admin(server: CAServer, admins: Admins, around: Surroundings) -> AsyncIterator[None]:
    """Serve the admin API while the context is open. Raises SDSError when the socket's path cannot be taken."""
    async with Gate(admit=admins.refusal, limits=GateLimits(total=MOST_ADMINS)) as gate:

        def identify(context: HasPeer) -> UnixPeer:
            peer = gate.identify(context)
            if reason := admins.refusal(peer):
                raise NotAuthorized(reason)
            return peer

        listener = grpc.aio.server(interceptors=(RequestIDs(), Outcomes(identify)))
        server.add_admin_services(listener, identify, around)
        listener.add_insecure_port(f"unix:{gate.private}")
        await listener.start()
        try:
            await gate.open(admins.socket)
            yield
        finally:
            await gate.close()
            await listener.stop(DRAIN_SECONDS)
