"""The async client of a server's admin API, over its Unix socket. The contract is proto/admin.proto; requests and answers are its messages.

    async with connect("/run/meshca/admin.sock") as server:
        entries = await server.entries.List(pb.ListEntriesRequest())

Rules:
- Whatever goes wrong on the way is a CallFailed with the status's name and a text for the person who asked.
- The socket is tried first: the kernel knows better than gRPC why it can not be reached.
"""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self

import grpc

from meshca.errors import MeshcaError
from meshca.proto import admin_pb2_grpc as api

NO_SERVER = "NO_SERVER"  # beside the names of gRPC: nobody listens there

_OPTIONS = (
    ("grpc.default_authority", "localhost"),  # else the path of the socket, which is no legal authority
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    ("grpc.enable_retries", 0),
)


class CallFailed(MeshcaError):  # noqa: N818 - named for what happened
    """The server refused, broke or could not be reached. `status` is the gRPC status's name, or NO_SERVER."""

    def __init__(self, status: str, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminClient:
    """The six services of admin.proto, as generated stubs: grpcio leaves them untyped, the messages are typed."""

    entries: Any
    bundles: Any
    authorities: Any
    audit: Any
    svids: Any
    status: Any

    @classmethod
    def over(cls, channel: grpc.aio.Channel) -> Self:
        """The client on an open channel."""
        return cls(
            entries=api.EntriesStub(channel),  # type: ignore[no-untyped-call]
            bundles=api.BundlesStub(channel),  # type: ignore[no-untyped-call]
            authorities=api.AuthoritiesStub(channel),  # type: ignore[no-untyped-call]
            audit=api.AuditStub(channel),  # type: ignore[no-untyped-call]
            svids=api.SVIDsStub(channel),  # type: ignore[no-untyped-call]
            status=api.StatusStub(channel),  # type: ignore[no-untyped-call]
        )


@asynccontextmanager
async def connect(path: str) -> AsyncIterator[AdminClient]:
    """A client of the server at this socket (a path, or unix: and a path). Raises CallFailed, and makes one of what calls raise."""
    path = path.removeprefix("unix://").removeprefix("unix:")
    probe(path)
    async with grpc.aio.insecure_channel(f"unix:{path}", options=_OPTIONS) as channel:
        try:
            yield AdminClient.over(channel)
        except grpc.aio.AioRpcError as error:
            raise CallFailed(error.code().name, error.details() or error.code().name) from error


def probe(path: str) -> None:
    """Raise CallFailed, saying what to do, unless somebody listens at the path and lets us in."""
    try:
        dial(path)
    except PermissionError as error:
        raise CallFailed(
            "PERMISSION_DENIED", f"unix://{path} does not let you in: ask as root or as the server's user"
        ) from error
    except OSError as error:
        text = f"no meshca server at unix://{path} ({error.strerror or error}): start it with `meshca up`, "
        raise CallFailed(NO_SERVER, text + "or set MESHCA_ADMIN_SOCKET or --admin-socket") from error


def dial(path: str) -> None:
    """Connect to the socket, and hang up. Raises OSError, in the kernel's words."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as attempt:
        attempt.settimeout(5)
        attempt.connect(path)
