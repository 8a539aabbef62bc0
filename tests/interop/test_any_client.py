"""What every client of the Workload API relies on, shown by py-spiffe and by go-spiffe."""

import asyncio

import grpc
import pytest

from meshca.proto import admin_pb2 as pb
from tests.interop.conftest import Start
from tests.interop.peers import TRUST_DOMAIN, Domain, Refused, spiffe_id
from tests.support.pki import CA
from tests.support.wait import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

CLIENTS = pytest.mark.parametrize("client", ["pyspiffe", "gospiffe"])
PARTNER = CA.create("partner.test")


@CLIENTS
async def test_it_fetches_an_svid_that_its_bundle_proves(client: str, domain: Domain, start: Start):
    peer = await start(client, await domain.socket("/web"))

    fetched = await peer.fetch()

    assert list(fetched.chains) == [spiffe_id("/web")]
    assert [len(chain) for chain in fetched.chains.values()] == [2]
    assert set(fetched.authorities) == {TRUST_DOMAIN.name}
    fetched.verify()


@CLIENTS
@pytest.mark.parametrize("kind", ["intermediate", "root"])
async def test_it_sees_a_rotation_without_asking(client: str, kind: str, domain: Domain, start: Start):
    peer = await start(client, await domain.socket("/web"))
    await peer.open()
    before = await peer.held()

    await domain.rotate(kind)

    after = await peer.moved_on(before)
    after.verify()
    assert (before.authorities == after.authorities) == (kind == "intermediate")


@CLIENTS
async def test_it_recovers_when_its_entry_comes_late(client: str, domain: Domain, start: Start):
    socket = next(domain.free)
    peer = await start(client, socket)
    with pytest.raises(Refused) as refused:
        await peer.fetch()
    assert refused.value.code is grpc.StatusCode.PERMISSION_DENIED
    await peer.do("open")
    assert not await peer.do("opened", patience=0.3)

    await domain.register(socket, "/late")

    assert await peer.do("opened", patience=15)
    assert list((await peer.held()).chains) == [spiffe_id("/late")]


@CLIENTS
async def test_it_comes_back_to_a_server_that_was_killed(client: str, domain: Domain, start: Start):
    peer = await start(client, await domain.socket("/web"))
    await peer.open()
    before = await peer.held()
    await domain.server.kill()

    await domain.server.start()

    await domain.rotate("root")
    after = await peer.moved_on(before)
    after.verify()
    assert not before.authorities[TRUST_DOMAIN.name] & after.authorities[TRUST_DOMAIN.name]


@CLIENTS
async def test_a_federated_bundle_comes_and_goes_with_the_entry_that_names_it(
    client: str, domain: Domain, start: Start
):
    await domain.do("bundles", "Set", pb.Bundle(trust_domain="partner.test", x509_authorities=[PARTNER.der]))
    socket = next(domain.free)
    entry = await domain.register(socket, "/web", federates_with=["partner.test"])
    peer = await start(client, socket)
    await peer.open()
    assert (await peer.held("partner.test")).authorities == {"partner.test": {PARTNER.certificate}}
    assert set((await peer.fetch()).authorities) == {TRUST_DOMAIN.name, "partner.test"}

    change = pb.UpdateEntryRequest(entry=pb.Entry(id=entry), fields=["federates_with"])
    await domain.do("entries", "Update", change)

    async def redacted() -> bool:
        return not (await peer.held("partner.test")).authorities

    await until(redacted)
    assert set((await peer.fetch()).authorities) == {TRUST_DOMAIN.name}


@CLIENTS
async def test_two_sockets_give_two_processes_of_one_user_two_identities(client: str, domain: Domain, start: Start):
    sockets = [await domain.socket(path) for path in ("/one", "/two")]
    peers = [await start(client, socket) for socket in sockets]

    fetched = await asyncio.gather(*(peer.fetch() for peer in peers))

    assert [list(each.chains) for each in fetched] == [[spiffe_id("/one")], [spiffe_id("/two")]]
