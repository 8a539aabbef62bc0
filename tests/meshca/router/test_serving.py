import asyncio
import resource
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress

import pytest

from meshca.router.identity import Credentials
from meshca.router.serving import most_connections, serving
from sds.provider import Identity
from sds.watch import Latest
from sds.workload_client import X509Context
from spiffe.bundle import Bundle, BundleSet
from spiffe.id import TrustDomain
from spiffe.x509svid import X509SVID
from tests.support.pki import CA
from tests.support.wait import until

FILES = 256
ROOT = CA.create("mesh.local")
LEAF = ROOT.intermediate().leaf(uris=["spiffe://mesh.local/meshca/router"])


@pytest.fixture
def few_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("few_files")
async def test_whoever_only_connects_leaves_open_files_to_the_rest_of_the_process():
    bundles = BundleSet([Bundle(trust_domain=TrustDomain("mesh.local"), x509_authorities=(ROOT.certificate,))])
    svid = X509SVID.from_pem(LEAF.chain_pem, LEAF.key_pem)
    credentials: Latest[Credentials | None] = Latest(None)
    credentials.set(Credentials.of(X509Context(identities=(Identity(svid=svid),), bundles=bundles)))
    ended = 0

    async def wait_for_end(reader: asyncio.StreamReader) -> None:
        nonlocal ended
        with suppress(ConnectionError):
            await reader.read()
        ended += 1

    async with serving((), credentials, "127.0.0.1", 0) as port, AsyncExitStack() as stack:
        waiting = await stack.enter_async_context(asyncio.TaskGroup())
        for _ in range(most_connections() + 5):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            stack.callback(writer.close)
            waiting.create_task(wait_for_end(reader))
        await until(lambda: ended >= 5)  # those beyond the bound
        assert most_connections() < FILES // 2
