"""One server for each file of tests, and a way to start workloads that dial it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio

from tests.interop import install
from tests.interop.peers import Domain, Peer, running_domain, running_peer

Start = Callable[[str, str], Awaitable[Peer]]
"""Start the peer of that name ("pyspiffe" or "gospiffe") on that workload socket, until the test ends."""


COMMANDS = {"pyspiffe": install.pyspiffe, "gospiffe": install.gospiffe}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def domain(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Domain]:
    """A server of its own."""
    async with running_domain(tmp_path_factory.mktemp("domain")) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def start(domain: Domain) -> AsyncIterator[Start]:
    """Start workloads that end with the test."""
    async with AsyncExitStack() as stack:

        async def started(name: str, socket: str) -> Peer:
            return await stack.enter_async_context(running_peer(COMMANDS[name](), domain.server.sockets[socket]))

        yield started
