"""Mutual TLS between independent implementations: spiffe-tls, go-spiffe's spiffetls and Python's `ssl`, all with SVIDs of ours."""

import asyncio
import ssl
import sys
from pathlib import Path

import pytest
from cryptography import x509

from spiffe.x509svid import spiffe_id_of
from tests.interop.conftest import Start
from tests.interop.peers import Domain, Peer, Refused, spiffe_id

pytestmark = pytest.mark.asyncio(loop_scope="module")

SERVERS = pytest.mark.parametrize("server", ["pyspiffe", "gospiffe"])
CLIENTS = pytest.mark.parametrize("client", ["pyspiffe", "gospiffe"])


async def opened(domain: Domain, start: Start, name: str, path: str) -> Peer:
    peer = await start(name, await domain.socket(path))
    await peer.open()
    return peer


@SERVERS
@CLIENTS
async def test_two_libraries_know_each_other_before_and_after_a_root_rotation(
    server: str, client: str, domain: Domain, start: Start
):
    serving, dialling = [await opened(domain, start, *who) for who in ((server, "/server"), (client, "/client"))]
    port = await serving.do("listen", authorize=spiffe_id("/client"))

    before = [await peer.held() for peer in (serving, dialling)]
    heard = [await dialling.do("dial", port=port, authorize=spiffe_id("/server"))]
    await domain.rotate("root")
    for peer, old in zip((serving, dialling), before, strict=True):
        await peer.moved_on(old)
    if server == "pyspiffe":  # pyOpenSSL lets nobody change a context in use, so that spiffe-tls must listen anew
        port = await serving.do("listen", authorize=spiffe_id("/client"))
    heard.append(await dialling.do("dial", port=port, authorize=spiffe_id("/server")))

    assert heard == [f"{spiffe_id('/client')} said hello"] * 2


@SERVERS
@CLIENTS
async def test_either_side_refuses_another_identity(server: str, client: str, domain: Domain, start: Start):
    serving, dialling = [await opened(domain, start, *who) for who in ((server, "/server"), (client, "/stranger"))]
    port = await serving.do("listen", authorize=spiffe_id("/client"))

    with pytest.raises(Refused):
        await dialling.do("dial", port=port, authorize=spiffe_id("/server"))
    with pytest.raises(Refused):
        await dialling.do("dial", port=port, authorize=spiffe_id("/another"))


@SERVERS
async def test_python_ssl_dials_with_files_that_the_cli_wrote(
    server: str, domain: Domain, start: Start, tmp_path: Path
):
    serving = await opened(domain, start, server, "/server")
    port = await serving.do("listen", authorize=spiffe_id("/client"))
    endpoint = f"unix://{domain.server.sockets[await domain.socket('/client')]}"
    await run(sys.executable, "-m", "meshca", "svid", "fetch", f"--socket={endpoint}", f"--write={tmp_path / 'svid'}")
    context = ssl.create_default_context(cafile=tmp_path / "svid" / "bundle.0.pem")
    context.check_hostname = False  # a SPIFFE ID is no host name: it is compared below
    context.load_cert_chain(tmp_path / "svid" / "svid.0.pem", tmp_path / "svid" / "svid.0.key")

    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    writer.write(b"hello\n")
    heard = await reader.read()

    assert heard.decode() == f"{spiffe_id('/client')} said hello"
    assert str(spiffe_id_of(leaf_of(writer))) == spiffe_id("/server")
    writer.close()


def leaf_of(writer: asyncio.StreamWriter) -> x509.Certificate:
    return x509.load_der_x509_certificate(writer.get_extra_info("ssl_object").getpeercert(binary_form=True))


async def run(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    await process.communicate()
    assert process.returncode == 0
