"""Who gets through a real Envoy and who does not; who gets a certificate, late or no more. Judged by handshakes and `/certs`."""

from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from meshca.bootstrap import BootstrapSpec, Inbound
from meshca.client import AdminClient, connect
from meshca.csr import make_csr
from meshca.demo.envoys import running_envoy
from meshca.demo.server import register, running_server
from meshca.proto import admin_pb2 as pb
from spiffe.id import SpiffeID
from tests.support.mesh import BACKEND, FRONTEND, running_mesh
from tests.support.pki import CA, key_pem, pem
from tests.support.tls_peer import ask
from tests.support.wait import until

pytestmark = pytest.mark.envoy
OK = "HTTP/1.1 200 OK"


async def minted(client: AdminClient, spiffe_id: str) -> tuple[bytes, bytes]:
    """A chain and a key of the mesh's own CA for any ID."""
    key = ec.generate_private_key(ec.SECP256R1())
    response = await client.svids.Mint(pb.MintRequest(spiffe_id=spiffe_id, csr=make_csr(key)))
    return pem(*(x509.load_der_x509_certificate(each) for each in response.chain)), key_pem(key)


def foreign(ca: CA, *uris: str) -> tuple[bytes, bytes]:
    issued = ca.leaf(uris=list(uris))
    return issued.chain_pem, issued.key_pem


async def test_only_the_named_identity_of_our_own_ca_gets_through_also_where_we_federate(tmp_path: Path):
    partner = CA.create("partner.example")
    async with running_mesh(tmp_path) as mesh:
        der = partner.certificate.public_bytes(serialization.Encoding.DER)
        await mesh.client.bundles.Set(pb.Bundle(trust_domain="partner.example", x509_authorities=[der], sequence=-1))
        for entry in (await mesh.client.entries.List(pb.ListEntriesRequest())).entries:
            entry.federates_with.append("partner.example")
            await mesh.client.entries.Update(pb.UpdateEntryRequest(entry=entry, fields=["federates_with"]))
        port = await mesh.backend.port("inbound")
        shown = {
            "our frontend": await minted(mesh.client, str(FRONTEND)),
            "another of ours": await minted(mesh.client, "spiffe://mesh.local/other"),
            "an unknown CA as our frontend": foreign(CA.create("mesh.local"), str(FRONTEND)),
            "a partner as itself": foreign(partner, "spiffe://partner.example/frontend"),
            "a partner as our frontend": foreign(partner, str(FRONTEND)),
            "a partner with two URIs, its own first": foreign(partner, "spiffe://partner.example/x", str(FRONTEND)),
            "a partner with two URIs, ours first": foreign(partner, str(FRONTEND), "spiffe://partner.example/x"),
            "nobody": (b"", b""),
        }
        got = {name: await ask(port, *pair) for name, pair in shown.items()}
        assert got == {name: OK if name == "our frontend" else "refused" for name in shown}


async def test_a_federated_peer_gets_through_where_its_trust_domain_is_named_but_not_with_a_second_uri(tmp_path: Path):
    partner = CA.create("partner.example")
    theirs = SpiffeID.parse("spiffe://partner.example/frontend")
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(running_server(tmp_path, ["edge"]))
        client = await stack.enter_async_context(connect(server.admin_socket))
        der = partner.certificate.public_bytes(serialization.Encoding.DER)
        await client.bundles.Set(pb.Bundle(trust_domain="partner.example", x509_authorities=[der], sequence=-1))
        entry = pb.Entry(
            spiffe_id="spiffe://mesh.local/edge", selectors=["socket:edge"], federates_with=["partner.example"]
        )
        await client.entries.Create(pb.CreateEntryRequest(entry=entry))
        inbound = Inbound(
            name="inbound",
            port=0,
            address="127.0.0.1",
            peers=(theirs,),
            response="hi",
            validation="spiffe://partner.example",
        )
        edge = await stack.enter_async_context(
            running_envoy("edge", spec_of(server.sockets["edge"], inbound), tmp_path / "edge")
        )
        port = await edge.port("inbound")
        assert await ask(port, *foreign(partner, str(theirs))) == OK
        assert await ask(port, *foreign(partner, "spiffe://partner.example/other")) == "refused"
        assert await ask(port, *foreign(CA.create("partner.example"), str(theirs))) == "refused"
        # Envoy matches any URI, so a partner can vouch for its own names twice; what it can not do is to be one of us.
        assert await ask(port, *foreign(partner, "spiffe://mesh.local/edge", str(theirs))) == "refused"


def spec_of(socket: Path, *inbound: Inbound, name: str = "edge") -> BootstrapSpec:
    return BootstrapSpec(node_id=name, node_cluster="test", sds_socket=str(socket), admin_port=0, inbound=inbound)


async def test_an_envoy_without_an_entry_waits_and_is_served_as_soon_as_there_is_one(tmp_path: Path):
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(running_server(tmp_path, ["late"]))
        client = await stack.enter_async_context(connect(server.admin_socket))
        inbound = Inbound(name="inbound", port=0, address="127.0.0.1", peers=(FRONTEND,), response="hi")
        spec = spec_of(server.sockets["late"], inbound)
        envoy = await stack.enter_async_context(running_envoy("late", spec, tmp_path / "late", wait=False))
        await until(lambda: "no entry" in server.log() or "denied" in server.log())
        assert not await envoy.is_live()
        why = await client.status.Why(pb.WhyRequest(pid=envoy.process.pid))
        assert not why.granted
        entry = await register(client, "spiffe://mesh.local/late", "socket:late")
        await until(envoy.is_live)
        assert [leaf.uris for leaf in await envoy.leaves()] == [("spiffe://mesh.local/late",)]
        why = await client.status.Why(pb.WhyRequest(pid=envoy.process.pid))
        assert [each.id for each in why.granted] == [entry]


async def test_a_removed_entry_renews_no_more_but_its_leaf_lives_out_its_time(tmp_path: Path):
    async with running_mesh(tmp_path) as mesh:
        before = await mesh.in_use()
        for entry in (await mesh.client.entries.List(pb.ListEntriesRequest(spiffe_id=str(BACKEND)))).entries:
            await mesh.client.entries.Delete(pb.DeleteEntryRequest(id=entry.id))
        async with mesh.under_load():
            pass
        assert dict(mesh.load.failures) == {}
        assert await mesh.in_use() == before


async def test_a_removed_entry_with_now_makes_its_envoy_trust_nobody(tmp_path: Path):
    async with running_mesh(tmp_path) as mesh:
        port = await mesh.backend.port("inbound")
        pair = await minted(mesh.client, str(FRONTEND))
        assert await ask(port, *pair) == OK
        for entry in (await mesh.client.entries.List(pb.ListEntriesRequest(spiffe_id=str(BACKEND)))).entries:
            await mesh.client.entries.Delete(pb.DeleteEntryRequest(id=entry.id, now=True))

        async def refused() -> bool:
            return await ask(port, *pair) == "refused"

        await until(refused)


async def test_a_nack_is_told_once_and_the_same_bytes_are_never_sent_again(tmp_path: Path):
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(running_server(tmp_path, ["odd"]))
        client = await stack.enter_async_context(connect(server.admin_socket))
        await register(client, "spiffe://mesh.local/odd", "socket:odd")
        inbound = Inbound(
            name="inbound",
            port=0,
            address="127.0.0.1",
            peers=(FRONTEND,),
            response="hi",
            secret="ROOTCA",  # a bundle where a leaf belongs
            validation="spiffe://mesh.local",
        )
        spec = spec_of(server.sockets["odd"], inbound)
        envoy = await stack.enter_async_context(running_envoy("odd", spec, tmp_path / "odd", wait=False))

        async def rejected() -> int:
            return (await envoy.stats("sds.ROOTCA.update_rejected")).get("sds.ROOTCA.update_rejected", 0)

        await until(rejected)
        assert await rejected() == 1
        await until(lambda: "nack" in server.log().lower())
        await client.authorities.Prepare(pb.KindRequest(kind="root"))

        async def again() -> bool:
            return await rejected() == 2

        await until(again)
        # Envoy acknowledges bytes that it has refused before (facts/spiffe.md 4.3): so a success would be a second sending.
        assert await envoy.stats("sds.ROOTCA.update_success") == {}


async def test_delta_and_state_of_the_world_give_the_same_to_late_and_early_envoys(tmp_path: Path):
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(running_server(tmp_path, ["both"]))
        client = await stack.enter_async_context(connect(server.admin_socket))
        await register(client, "spiffe://mesh.local/both", "socket:both")
        inbound = Inbound(name="inbound", port=0, address="127.0.0.1", peers=(FRONTEND,), response="hi")
        spec = spec_of(server.sockets["both"], inbound)
        envoys = [
            await stack.enter_async_context(running_envoy(name, replace(spec, delta=delta), tmp_path / name))
            for name, delta in (("sotw", False), ("delta", True))
        ]
        uris = [[leaf.uris for leaf in await envoy.leaves()] for envoy in envoys]
        assert uris == [[("spiffe://mesh.local/both",)]] * 2
        serials = {leaf.serial for envoy in envoys for leaf in await envoy.leaves()}
        assert len(serials) == 2, "each process has a leaf of its own"
