"""One conversation with the server's admin API: the call, its deadline and how it ends."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from meshca.cli.exits import failure_of_status
from meshca.cli.options import default_admin_socket
from meshca.client import AdminClient, CallFailed, connect

T = TypeVar("T")

WITHIN = 60.0


def ask(path: str, work: Callable[[AdminClient], Awaitable[T]], *, within: float | None = WITHIN) -> T:
    """Do some work with the server at this socket ("": the default one). Raises Failure; `within` seconds, None: as long as it takes."""
    try:
        return asyncio.run(_ask(path or default_admin_socket(), work, within))
    except CallFailed as error:
        raise failure_of_status(error.status, str(error)) from error


async def _ask(path: str, work: Callable[[AdminClient], Awaitable[T]], within: float | None) -> T:
    try:
        async with asyncio.timeout(within), connect(path) as server:
            return await work(server)
    except TimeoutError as error:
        raise CallFailed("DEADLINE_EXCEEDED", f"unix://{path} took more than {within:g} s") from error
