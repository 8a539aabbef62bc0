import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from envoy.config.core.v3.base_pb2 import Node
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DiscoveryRequest
from envoy.service.secret.v3.sds_pb2_grpc import SecretDiscoveryServiceStub
from google.rpc.status_pb2 import Status

from sds.errors import UNCOVERED
from sds.listen import WorkloadLimits
from sds.provider import Proof
from sds.sds_api import StrangerLimits
from spiffe.x509svid import X509SVID
from tests.support.grants import bundle_of, identity
from tests.support.pki import CA
from tests.support.wait import until
from tests.support.workloads import Workloads, serving

TYPE = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
NODE = Node(id="sidecar", user_agent_name="envoy")
PARTNER = CA.create("partner.test")


@pytest.fixture
async def workloads(tmp_path: Path) -> AsyncIterator[Workloads]:
    async with serving(tmp_path) as served:
        yield served


@pytest.fixture
async def stub(workloads: Workloads) -> AsyncIterator[Any]:
    async with workloads.channel() as channel:
        yield SecretDiscoveryServiceStub(channel)


def secrets_in(response: Any) -> dict[str, Secret]:
    """Of a response of either kind: name -> secret."""
    found = {}
    for item in response.resources:
        secret = Secret()
        assert getattr(item, "resource", item).Unpack(secret)
        found[secret.name] = secret
    return found


class Sotw:
    """A client of StreamSecrets."""

    def __init__(self, stub: Any, node: Node = NODE) -> None:
        self.call = stub.StreamSecrets()
        self.node = node

    async def ask(self, *names: str, version: str = "", nonce: str = "", error: str = "") -> None:
        request = DiscoveryRequest(
            node=self.node, type_url=TYPE, resource_names=names, version_info=version, response_nonce=nonce
        )
        if error:
            request.error_detail.CopyFrom(Status(code=13, message=error))
        await self.call.write(request)

    async def get(self, *names: str) -> dict[str, Secret]:
        """Read a response and accept it."""
        self.response = await self.call.read()
        assert self.response is not grpc.aio.EOF
        await self.ask(*names, version=self.response.version_info, nonce=self.response.nonce)
        return secrets_in(self.response)


class Delta:
    """A client of DeltaSecrets."""

    def __init__(self, stub: Any) -> None:
        self.call = stub.DeltaSecrets()

    async def ask(self, *names: str, **more: Any) -> None:
        await self.call.write(DeltaDiscoveryRequest(type_url=TYPE, resource_names_subscribe=names, node=NODE, **more))

    async def get(self, *_: str) -> dict[str, Secret]:
        """Read a response and accept it."""
        response = await self.call.read()
        assert not response.removed_resources
        await self.call.write(DeltaDiscoveryRequest(type_url=TYPE, response_nonce=response.nonce))
        return secrets_in(response)


def svid_in(secret: Secret) -> X509SVID:
    certificate = secret.tls_certificate
    return X509SVID.from_pem(certificate.certificate_chain.inline_bytes, certificate.private_key.inline_bytes)


async def next_is_renewed(workloads: Workloads, client: Any, name: str = "default") -> None:
    """Show that nothing else was written meanwhile: the next response is to the grant that is made now."""
    workloads.provider.grant("/web")
    found = await client.get(name)
    assert {name: svid_in(secret) for name, secret in found.items()} == {
        name: workloads.provider.grants.value.identities[0].svid
    }


@pytest.mark.parametrize("kind", [Sotw, Delta])
async def test_every_name_is_served_by_both_protocols(workloads: Workloads, stub: Any, kind: Any):
    workloads.provider.federate(bundle_of(PARTNER))
    names = ("ALL", "ROOTCA", "default", "spiffe://example.org", "spiffe://example.org/web", "spiffe://partner.test")
    client = kind(stub)
    await client.ask(*names)
    found = await client.get(*names)
    assert tuple(sorted(found)) == names
    svid = workloads.provider.grants.value.identities[0].svid
    for name in ("default", "spiffe://example.org/web"):
        assert svid_in(found[name]) == svid
    own = bundle_of(workloads.provider.root).digest
    await until(lambda: len(workloads.provider.proofs) == 6)
    assert set(workloads.provider.proofs) == {Proof(), Proof(bundle=own), Proof(serials=frozenset({svid.serial}))}
    await until(lambda: workloads.counts["sds acked"] == 6)
    assert len(workloads.counts.latencies) == 6
    assert workloads.counts["sds pushed"] == 1


@pytest.mark.parametrize("kind", [Sotw, Delta])
async def test_only_what_changed_is_pushed_and_to_streams_that_asked_for_it(workloads: Workloads, stub: Any, kind: Any):
    leaf, trust = kind(stub), kind(stub)
    await leaf.ask("default")
    await trust.ask("ROOTCA")
    first = await leaf.get("default"), await trust.get("ROOTCA")
    provider = workloads.provider
    provider.change(identities=(identity(provider.issuer),))
    second = await leaf.get("default")
    assert second["default"] != first[0]["default"]
    provider.federate(bundle_of(PARTNER))  # concerns neither
    provider.change(bundles=provider.grants.value.bundles.with_bundle(bundle_of(provider.root, CA.create())))
    widened = await trust.get("ROOTCA")
    assert widened["ROOTCA"] != first[1]["ROOTCA"]
    await next_is_renewed(workloads, leaf)


@pytest.mark.parametrize("kind", [Sotw, Delta])
@pytest.mark.parametrize("name", ["default", "ROOTCA", "spiffe://example.org/late"])
async def test_a_name_that_is_not_there_yet_is_met_with_silence_and_served_later(
    workloads: Workloads, stub: Any, kind: Any, name: str
):
    workloads.provider.deny()
    client = kind(stub)
    await client.ask(name)
    await until(lambda: workloads.counts["sds denied"])
    workloads.provider.change(denied="", pending=True)
    workloads.provider.grant("/late")
    assert list(await client.get(name)) == [name]


async def test_a_client_that_comes_back_with_our_version_is_sent_nothing_and_counts_as_holding(
    workloads: Workloads, stub: Any
):
    first = Sotw(stub)
    await first.ask("ROOTCA")
    await first.get("ROOTCA")
    await until(lambda: workloads.provider.proofs)
    workloads.provider.proofs.clear()
    again = Sotw(stub)
    await again.ask("ROOTCA", version=first.response.version_info)
    await until(lambda: workloads.provider.proofs == [Proof(bundle=bundle_of(workloads.provider.root).digest)])
    assert workloads.counts["sds acked"] == workloads.counts["sds pushed"] == 1


async def test_a_removed_entry_leaves_the_stream_open_and_silent(workloads: Workloads, stub: Any):
    client = Sotw(stub)
    await client.ask("default")
    await client.get("default")
    workloads.provider.deny("the entry was deleted")
    await until(lambda: workloads.counts["sds denied"] == 1)
    await next_is_renewed(workloads, client)


async def test_who_is_cut_off_is_pushed_a_context_that_trusts_nobody(workloads: Workloads, stub: Any):
    client, leaf = Sotw(stub), Sotw(stub)
    await client.ask("ROOTCA")
    await leaf.ask("default")
    await client.get("ROOTCA")
    await leaf.get("default")
    workloads.provider.deny("the entry was deleted")
    workloads.provider.change(cut_off=True)
    cut_off = await client.get("ROOTCA")
    validator = cut_off["ROOTCA"].validation_context.custom_validator_config
    assert validator.name == "envoy.tls.cert_validator.spiffe"
    assert not validator.typed_config.value
    await next_is_renewed(workloads, leaf)


async def test_a_client_without_the_spiffe_validator_is_served_plainly_and_all_is_withheld(
    workloads: Workloads, stub: Any, caplog: pytest.LogCaptureFixture
):
    node = Node(id="old")
    node.metadata["disable_spiffe_cert_validation"] = "true"
    client = Sotw(stub, node)
    await client.ask("ROOTCA", "ALL")
    found = await client.get("ROOTCA", "ALL")
    assert list(found) == ["ROOTCA"]
    assert found["ROOTCA"].validation_context.trusted_ca.inline_bytes == workloads.provider.root.pem
    (record,) = [each for each in caplog.records if each.message == "secret withheld"]
    assert "pool trust domains" in record.reason


async def test_a_refusal_is_logged_in_the_clients_words_and_not_repeated(
    workloads: Workloads, stub: Any, caplog: pytest.LogCaptureFixture
):
    client = Sotw(stub)
    await client.ask("default")
    response = await client.call.read()
    await client.ask("default", nonce=response.nonce, error="KEY_VALUES_MISMATCH")
    await until(lambda: workloads.counts["sds nacked"] == 1)
    assert workloads.counts["sds pushed"] == 1
    (record,) = [each for each in caplog.records if each.message == "secret refused by its client"]
    assert (record.reason, record.secrets, record.node) == ("KEY_VALUES_MISMATCH", ["default"], "sidecar")
    assert "uid" in record.peer
    assert not workloads.provider.proofs
    await next_is_renewed(workloads, client)


async def test_no_key_reaches_the_log(workloads: Workloads, stub: Any, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    client = Sotw(stub)
    await client.ask("default")
    response = await client.call.read()
    await client.ask("default", nonce=response.nonce, error="no")
    await until(lambda: workloads.counts["sds nacked"] == 1)
    assert "PRIVATE KEY" not in " ".join(str(record.__dict__) for record in caplog.records)


async def test_fetch_answers_at_once_or_says_why_not(workloads: Workloads, stub: Any):
    response = await stub.FetchSecrets(DiscoveryRequest(type_url=TYPE, resource_names=["default", "ROOTCA"]))
    assert sorted(secrets_in(response)) == ["ROOTCA", "default"]
    assert workloads.counts["sds pushed"] == 1
    await refused(stub, grpc.StatusCode.INVALID_ARGUMENT, "resource_names is empty")
    await refused(
        stub, grpc.StatusCode.UNAVAILABLE, "spiffe://example.org/late", "default", "spiffe://example.org/late"
    )
    await refused(stub, grpc.StatusCode.INVALID_ARGUMENT, "type_url", "default", type_url="x/y")
    workloads.provider.change(pending=True)
    await refused(stub, grpc.StatusCode.UNAVAILABLE, "default", "default")
    workloads.provider.deny("no entry matches")
    await refused(stub, grpc.StatusCode.PERMISSION_DENIED, UNCOVERED, "default")
    await until(lambda: workloads.counts["sds opened"] == workloads.counts["sds closed"])


async def refused(stub: Any, code: grpc.StatusCode, text: str, *names: str, type_url: str = TYPE) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await stub.FetchSecrets(DiscoveryRequest(type_url=type_url, resource_names=names))
    assert (refusal.value.code(), text in str(refusal.value.details())) == (code, True)


async def test_streams_of_strangers_are_few_and_end_in_time(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    limits = WorkloadLimits(strangers=StrangerLimits(streams_per_uid=3, seconds=0.3))
    async with serving(tmp_path, limits=limits) as workloads, workloads.channel() as channel:
        stub = SecretDiscoveryServiceStub(channel)
        workloads.provider.deny("no entry matches")
        strangers = [Sotw(stub) for _ in range(3)]
        for each in strangers:
            await each.ask("default")
        await until(lambda: workloads.counts["sds denied"] == 3)
        fourth = Sotw(stub)
        await fourth.ask("default")
        assert await fourth.call.code() is grpc.StatusCode.PERMISSION_DENIED
        assert "3 such streams" in await fourth.call.details()
        for each in strangers:
            assert await each.call.code() is grpc.StatusCode.PERMISSION_DENIED
            assert await each.call.details() == UNCOVERED
        workloads.provider.grant("/web")
        served = [Sotw(stub) for _ in range(5)]
        for each in served:
            await each.ask("default")
            await each.get("default")
        assert workloads.counts["sds closed"] == 4
    assert len([record for record in caplog.records if record.message == "caller has no identity"]) == 1


async def test_a_stranger_that_gets_an_entry_is_no_longer_one(tmp_path: Path):
    limits = WorkloadLimits(strangers=StrangerLimits(streams_per_uid=1, seconds=3600))
    async with serving(tmp_path, limits=limits) as workloads, workloads.channel() as channel:
        stub = SecretDiscoveryServiceStub(channel)
        for turn in (1, 2, 3):
            workloads.provider.deny()
            client = Sotw(stub)
            await client.ask("default")
            await until(lambda: workloads.counts["sds denied"] == turn)  # noqa: B023 - awaited in the same turn
            await next_is_renewed(workloads, client)
            client.call.cancel()
            await until(lambda: not workloads.provider.open)


async def test_a_caller_that_is_gone_when_it_is_attested_is_denied(workloads: Workloads, stub: Any):
    workloads.provider.gone = "pid 7 has ended"
    client = Sotw(stub)
    await client.ask("default")
    assert (await client.call.code(), await client.call.details()) == (
        grpc.StatusCode.PERMISSION_DENIED,
        "pid 7 has ended",
    )


async def test_a_bundle_change_reaches_two_hundred_connections_of_four_secrets_each(tmp_path: Path):
    async with serving(tmp_path) as workloads, AsyncExitStack() as stack:
        provider, streams = workloads.provider, []
        for _ in range(200):
            stub = SecretDiscoveryServiceStub(await stack.enter_async_context(workloads.channel()))
            for name in ("default", "ROOTCA", "ALL", "spiffe://example.org/web"):
                streams.append((Sotw(stub), name))
                await streams[-1][0].ask(name)
        await asyncio.gather(*(stream.get(name) for stream, name in streams))
        provider.change(bundles=provider.grants.value.bundles.with_bundle(bundle_of(provider.root, CA.create())))
        holding = Proof(bundle=provider.grants.value.bundles[provider.grants.value.trust_domain].digest)
        await asyncio.gather(*(stream.get(name) for stream, name in streams if name in ("ROOTCA", "ALL")))
        await until(lambda: provider.proofs.count(holding) == 400)
        assert workloads.gate.connections == 200
