"""The gate in front of grpcio: our own Unix listeners, which know who connects and pass the bytes on (EP-18 to EP-20).

grpcio hides who is at the other end of a Unix socket, but shows the address that it is bound to. So each connection goes on to grpcio's
private socket from an abstract address of its own, by which servicers find the peer again.

Rules:
- The private socket lies in a directory that only our user can enter; a caller who did not come through the gate is refused.
- An address is 128 random bits, since a guessable one could be bound by somebody else first, and is forgotten before it is set free.
- One uid cannot take all connections, and the gate closes new ones before the process runs out of open files.
- Nor can it take all memory: grpcio keeps unfinished messages, so the gate closes the connection that brings too many bytes of them.
"""

import asyncio
import logging
import os
import resource
import secrets
import shutil
import socket
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from sds.caller import Caller, UnixPeer
from sds.errors import NotAuthorized, SDSError
from sds.inflow import Inflow
from sds.log_limit import LogLimit
from sds.peer import Life, read_peer
from sds.splice import Joint
from sds.unix_socket import Listener, SocketSpec, check_path, listen

_SCHEME = "unix-abstract:"
_FILES_PER_CONNECTION = 4
"""The peer's socket, ours to grpcio, grpcio's end of that, and the pidfd."""
_PAUSE = 0.05

logger = logging.getLogger(__name__)

Admit = Callable[[UnixPeer], str | None]
"""Why a peer may not connect; None if it may. Called in the event loop, must not block."""


class HasPeer(Protocol):
    """The part of a gRPC servicer context that says where a call comes from."""

    def peer(self) -> str:
        """Return the address of the connection, as grpcio writes it."""
        ...


Identify = Callable[[HasPeer], Caller]
"""Who is calling. Raises NotAuthorized."""


def _admit_all(_: UnixPeer) -> None:
    return None


def _count_nothing() -> None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class GateLimits:
    """How many connections may be open at once, and what they may bring."""

    per_uid: int = 4096
    """Of one user: more than a busy host has processes, fewer than would starve the others."""
    total: int | None = None
    """Of all users; None for as many as the open files allow."""
    reserved_files: int = 512
    """Open files that the gate leaves to the rest of the process, other gates included."""
    unfinished_bytes: int = 128 * 1024 * 1024
    """Of one user's messages that are not whole yet: the first requests of 2,000 Envoys, were all caught half-way."""

    def capacity(self) -> int:
        """Return how many connections are allowed, and fit into the soft limit of open files."""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        fit = max(0, soft - self.reserved_files) // _FILES_PER_CONNECTION
        return fit if self.total is None else min(fit, self.total)

    def share(self) -> int:
        """Return how many of them one user may have: where few files fit, a quarter is still left for the others."""
        capacity = self.capacity()
        return min(self.per_uid, capacity - capacity // 4)


def raise_open_files() -> int:
    """Raise the soft limit of open files to the hard one, and return it. Harmless to repeat."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


class Gate:
    """Listens on Unix sockets in front of one gRPC server.

    Use as a context manager, after `raise_open_files`; `open` the sockets once the server has started.
    """

    def __init__(
        self,
        *,
        limits: GateLimits | None = None,
        admit: Admit = _admit_all,
        on_shed: Callable[[], None] = _count_nothing,
    ) -> None:
        """`on_shed` is called for each connection that is closed at once since a limit was reached; it must not block or raise."""
        self._limits = limits or GateLimits()
        self._admit = admit
        self._on_shed = on_shed
        self._log = LogLimit(logger)
        self._directory: Path | None = None
        self._capacity = self._share = 0
        self._listeners: dict[str, tuple[Listener, asyncio.Task[None]]] = {}
        self._peers: dict[str, UnixPeer] = {}
        self._joints: set[Joint] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._per_uid: Counter[int] = Counter()
        self._unfinished: Counter[int] = Counter()

    @property
    def private(self) -> Path:
        """The path at which the gRPC server behind this gate must listen."""
        if self._directory is None:
            raise RuntimeError("the gate is not open")
        return self._directory / "grpc.sock"

    @property
    def connections(self) -> int:
        """How many are open now."""
        return len(self._joints)

    async def __aenter__(self) -> Self:
        self._directory = Path(tempfile.mkdtemp(prefix="meshca-"))  # 0700
        self._capacity, self._share = self._limits.capacity(), self._limits.share()
        check_path(self.private)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
        for joint in tuple(self._joints):
            joint.abort()
        await self._empty.wait()  # the transports report their end in the next step of the loop
        shutil.rmtree(self.private.parent, ignore_errors=True)
        self._directory = None

    async def open(self, spec: SocketSpec) -> None:
        """Listen on one more socket. Raises SDSError if its name or path cannot be taken."""
        if spec.name in self._listeners:
            raise SDSError(
                f"there are two sockets called {spec.name!r}: {self._listeners[spec.name][0].spec.path} and {spec.path}"
            )
        listener = listen(spec)
        task = asyncio.create_task(self._accept(listener), name=f"gate {spec.name}")
        self._listeners[spec.name] = listener, task
        logger.info("socket open", extra={"socket": spec.name, "path": str(spec.path), "mode": f"{spec.mode:04o}"})

    async def close(self, *names: str) -> None:
        """Stop listening on the named sockets, or on all, and remove their files. Connections that are open stay."""
        for name in names or tuple(self._listeners):
            listener, task = self._listeners.pop(name)
            task.cancel()
            await asyncio.wait((task,))
            listener.close()

    def identify(self, context: HasPeer) -> UnixPeer:
        """Return who is calling. Raises NotAuthorized for one who did not come through this gate."""
        address = context.peer()
        peer = self._peers.get(address.removeprefix(_SCHEME)) if address.startswith(_SCHEME) else None
        if peer is None:
            raise NotAuthorized(f"the connection from {address!r} did not come through the gate")
        return peer

    async def _accept(self, listener: Listener) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(listener.socket)
                await self._welcome(connection, listener.spec.name)
            except OSError as error:  # out of files or memory, or grpcio is gone: the next may fare better
                self._log.warning("connection failed", kind=error.errno, socket=listener.spec.name, reason=str(error))
                await asyncio.sleep(_PAUSE)
            except Exception:  # one connection must not end the service for all
                logger.exception("connection failed", extra={"socket": listener.spec.name})

    async def _welcome(self, connection: socket.socket, name: str) -> None:
        """Identify a new connection and pass it on, or close it and say why in the log."""
        try:
            peer, life = self._admitted(connection, name)
        except NotAuthorized as refusal:
            connection.close()
            self._log.warning("connection refused", kind=name, socket=name, reason=str(refusal))
        except BaseException:
            connection.close()
            raise
        else:
            await self._pass_on(connection, peer, life)

    def _admitted(self, connection: socket.socket, name: str) -> tuple[UnixPeer, Life]:
        if len(self._joints) >= self._capacity:
            raise self._shed(f"{len(self._joints)} connections are open, which is the limit, or that of open files")
        peer, life = read_peer(connection, name)
        try:
            self._check(peer)
        except BaseException:
            life.close()
            raise
        return peer, life

    def _check(self, peer: UnixPeer) -> None:
        if self._per_uid[peer.uid] >= self._share:
            raise self._shed(f"{peer}: {self._share} connections of one user are the limit")
        if reason := self._admit(peer):
            raise NotAuthorized(f"{peer}: {reason}")

    def _shed(self, text: str) -> NotAuthorized:
        self._on_shed()
        return NotAuthorized(text)

    def _tell_closed(self, peer: UnixPeer) -> None:
        self._on_shed()
        reason = f"{self._limits.unfinished_bytes} bytes of unfinished messages of one user are the limit"
        self._log.warning("connection closed", kind=peer.uid, socket=peer.socket, peer=str(peer), reason=reason)

    async def _pass_on(self, connection: socket.socket, peer: UnixPeer, life: Life) -> None:
        """Register the peer under a fresh address and join the connection to grpcio's private socket."""
        address = f"meshca-{secrets.token_hex(16)}"

        def forget() -> None:
            self._peers.pop(address, None)
            life.close()

        def end() -> None:
            if joint in self._joints:
                self._joints.remove(joint)
                if not self._joints:
                    self._empty.set()
                self._per_uid -= Counter((peer.uid,))  # and with the last connection the uid goes
                self._unfinished += Counter({peer.uid: inflow.clear()})

        def received(content: memoryview) -> None:
            self._unfinished[peer.uid] += inflow.feed(content)
            if self._unfinished[peer.uid] > self._limits.unfinished_bytes:
                self._unfinished[peer.uid] += inflow.clear()  # now: others of this user may stay
                self._tell_closed(peer)
                joint.abort()

        inflow = Inflow()
        joint = Joint(on_loss=forget, on_end=end, on_received=received)
        self._peers[address] = peer
        self._joints.add(joint)
        self._empty.clear()
        self._per_uid[peer.uid] += 1
        try:
            await joint.connect(connection, await self._dial(address))
        except BaseException:
            connection.close()
            forget()
            end()
            raise

    async def _dial(self, address: str) -> socket.socket:
        """Connect to grpcio from an address of ours.

        A Unix socket whose backlog is full answers EAGAIN, which asyncio mistakes for a connect under way; so we wait and ask again.
        """
        private = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            private.bind(b"\0" + address.encode())
            while True:
                try:
                    private.connect(os.fspath(self.private))
                except BlockingIOError:
                    await asyncio.sleep(_PAUSE)
                else:
                    return private
        except BaseException:
            private.close()
            raise
