"""`openssl verify` and Python's `ssl` judge, without any code of ours, the chains that our server issued through a root rotation."""

import asyncio
import ssl
import subprocess
from contextlib import aclosing
from pathlib import Path

import pytest
import pytest_asyncio

from sds.endpoint import Endpoint
from sds.workload_client import WorkloadClient, X509Context
from tests.interop.peers import TRUST_DOMAIN, Domain
from tests.support.wait import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

NAME = "web.interop.test"
MOMENTS = ["old", "widened", "replaced", "narrowed"]
NEIGHBOURS = {
    (ours, theirs): abs(MOMENTS.index(ours) - MOMENTS.index(theirs)) <= 1 for ours in MOMENTS for theirs in MOMENTS
}


class Moment:
    """What one workload held at one moment, as files."""

    def __init__(self, directory: Path, context: X509Context) -> None:
        directory.mkdir()
        svid = context.identities[0].svid
        self.chain, self.key, self.bundle = (directory / name for name in ("chain.pem", "key.pem", "bundle.pem"))
        self.chain.write_bytes(svid.chain_pem())
        self.key.write_bytes(svid.key_pem())
        self.bundle.write_bytes(context.bundles[TRUST_DOMAIN].to_pem())

    def context(self, purpose: ssl.Purpose) -> ssl.SSLContext:
        """For one end of mutual TLS."""
        made = ssl.create_default_context(purpose, cafile=self.bundle)
        made.verify_mode = ssl.CERT_REQUIRED
        made.verify_flags |= ssl.VERIFY_X509_STRICT
        made.load_cert_chain(self.chain, self.key)
        return made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def moments(domain: Domain, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Moment]:
    """A root rotation as one workload lived it."""
    socket = domain.server.sockets[await domain.socket("/web", dns_names=[NAME])]
    contexts: list[X509Context] = []

    async def follow() -> None:
        async with aclosing(WorkloadClient(Endpoint.at(socket)).x509_contexts()) as following:
            async for context in following:
                contexts.append(context)  # noqa: PERF401 - read while it grows

    task = asyncio.create_task(follow())
    await until(lambda: contexts)
    await domain.rotate("root")
    await until(lambda: len(contexts) > 1 and roots(contexts[-1]) == 1)
    task.cancel()
    await asyncio.wait([task])
    wide = [context for context in contexts if roots(context) > 1]
    lived = [contexts[0], wide[0], wide[-1], contexts[-1]]
    directory = tmp_path_factory.mktemp("moments")
    return {name: Moment(directory / name, context) for name, context in zip(MOMENTS, lived, strict=True)}


def roots(context: X509Context) -> int:
    return len(context.bundles[TRUST_DOMAIN].x509_authorities)


@pytest.mark.parametrize("purpose", ["sslserver", "sslclient"])
async def test_openssl_accepts_each_chain_by_the_roots_that_were_published_around_it(
    moments: dict[str, Moment], purpose: str
):
    verdicts = {(ours, theirs): openssl(moments[ours], moments[theirs], purpose) for ours, theirs in NEIGHBOURS}

    old, new = MOMENTS[:2], MOMENTS[2:]
    assert verdicts == {
        **{(leaf, bundle): bundle != "narrowed" for leaf in old for bundle in MOMENTS},
        **{(leaf, bundle): bundle != "old" for leaf in new for bundle in MOMENTS},
    }


def openssl(leaf: Moment, anchors: Moment, purpose: str) -> bool:
    roots = ["-no-CApath", "-no-CAstore", "-CAfile", str(anchors.bundle)]
    strict = ["-x509_strict", "-purpose", purpose, "-verify_hostname", NAME]
    command = ["openssl", "verify", *roots, *strict, "-untrusted", str(leaf.chain), str(leaf.chain)]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


async def test_python_shakes_hands_between_neighbouring_moments_and_no_others(moments: dict[str, Moment]):
    outcomes = {(ours, theirs): await shake_hands(moments[ours], moments[theirs]) for ours, theirs in NEIGHBOURS}

    assert outcomes == NEIGHBOURS


async def shake_hands(server: Moment, client: Moment) -> bool:
    """Whether a byte comes back over mutual TLS, the host name checked too."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read(1))
        writer.close()

    serving = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=server.context(ssl.Purpose.CLIENT_AUTH))
    async with serving:
        port = serving.sockets[0].getsockname()[1]
        tls = client.context(ssl.Purpose.SERVER_AUTH)
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls, server_hostname=NAME)
            writer.write(b"x")
            heard = await reader.read(1)
            writer.close()
        except OSError:  # ssl.SSLError is one
            return False
        return heard == b"x"
