import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
import pytest

from sds.endpoint import Endpoint
from sds.errors import UNCOVERED
from sds.proto import workload_pb2 as pb
from sds.provider import Grants
from sds.workload_api import x509_svids
from sds.workload_client import WorkloadAPIError, WorkloadClient, parse_x509_context, pause_after
from spiffe.bundle import BundleSet
from tests.support.grants import TRUST_DOMAIN, ScriptedProvider, bundle_of, identity
from tests.support.pki import CA, NOW
from tests.support.wait import until
from tests.support.workloads import serving

OURS, PARTNER = CA.create("example.org"), CA.create("partner.test")
WEB, DB = identity(OURS, "/web", "public"), identity(OURS, "/db", "internal")
GRANTS = Grants(
    trust_domain=TRUST_DOMAIN, identities=(WEB, DB), bundles=BundleSet([bundle_of(OURS), bundle_of(PARTNER)])
)
Answer = Callable[[grpc.aio.ServicerContext], Awaitable[None]]


def message(grants: Grants = GRANTS) -> pb.X509SVIDResponse:
    return x509_svids(grants, NOW)[0]


@asynccontextmanager
async def answering(path: Path, *answers: Answer) -> AsyncIterator[list[None]]:
    """A stock gRPC server (EP-04) that answers one call after another by script, the last one for ever; yields the calls so far."""
    calls: list[None] = []

    async def fetch(_: bytes, context: grpc.aio.ServicerContext) -> None:
        assert dict(context.invocation_metadata())["workload.spiffe.io"] == "true", "EP-07"
        calls.append(None)
        await answers[min(len(calls), len(answers)) - 1](context)

    server = grpc.aio.server()
    methods = {"FetchX509SVID": grpc.unary_stream_rpc_method_handler(fetch)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("SpiffeWorkloadAPI", methods),))
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    yield calls
    await server.stop(None)


def refusing(code: grpc.StatusCode) -> Answer:
    async def answer(context: grpc.aio.ServicerContext) -> None:
        await context.abort(code, "because")

    return answer


def sending(*contents: bytes, then: Answer | None = None) -> Answer:
    async def answer(context: grpc.aio.ServicerContext) -> None:
        for content in contents:
            await context.write(content)
        if then is not None:
            await then(context)

    return answer


async def stays(_: grpc.aio.ServicerContext) -> None:
    await asyncio.Event().wait()


GOOD = message().SerializeToString()


async def test_a_context_holds_identities_in_order_and_a_bundle_per_trust_domain(tmp_path: Path):
    provider = ScriptedProvider()
    provider.federate(bundle_of(PARTNER))
    async with serving(tmp_path, provider) as workloads:
        context = await WorkloadClient(Endpoint.at(workloads.path)).fetch_x509()
    assert context.identities == provider.grants.value.identities
    assert context.bundles == provider.grants.value.bundles


async def test_changes_and_redactions_arrive_and_the_client_returns_when_the_server_does(tmp_path: Path):
    provider = ScriptedProvider()
    async with aclosing(WorkloadClient(Endpoint.at(tmp_path / "workload")).x509_contexts()) as contexts:
        async with serving(tmp_path, provider):
            first = await anext(contexts)
            provider.federate(bundle_of(PARTNER))
            assert len((await anext(contexts)).bundles) == 2
            provider.federate()
            assert await anext(contexts) == first, "WA-12, WA-13: what is absent is gone"
            provider.deny("the entry was deleted")
            denied = await anext(contexts)
            assert denied.identities == ()
            assert not denied.bundles
            assert UNCOVERED in denied.denied
            provider.grant("/web")
            assert (await anext(contexts)).identities == provider.grants.value.identities, "EP-26, WA-29"
        provider.grant("/moved")
        waiting = asyncio.ensure_future(anext(contexts))
        await until(lambda: not (tmp_path / "workload").exists())
        async with serving(tmp_path, provider):
            assert (await waiting).identities == provider.grants.value.identities, "WA-06"


@pytest.mark.parametrize("code", [grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED])
async def test_what_no_retry_can_mend_is_tried_once(tmp_path: Path, code: grpc.StatusCode):
    async with answering(tmp_path / "s", refusing(code)) as calls:
        with pytest.raises(WorkloadAPIError, match=f"{tmp_path}/s: {code.name}: because") as refusal:
            await anext(WorkloadClient(Endpoint.at(tmp_path / "s")).x509_contexts())
        assert refusal.value.code is code
        assert len(calls) == 1, "EP-22, EP-31"


@pytest.mark.parametrize(("code", "told"), [(grpc.StatusCode.UNAVAILABLE, 0), (grpc.StatusCode.PERMISSION_DENIED, 1)])
async def test_other_refusals_are_tried_again(tmp_path: Path, code: grpc.StatusCode, told: int):
    async with answering(tmp_path / "s", refusing(code), refusing(code), sending(GOOD, then=stays)) as calls:
        async with aclosing(WorkloadClient(Endpoint.at(tmp_path / "s")).x509_contexts()) as contexts:
            for _ in range(told):
                assert code.name in (await anext(contexts)).denied
            assert (await anext(contexts)).identities == (WEB, DB)
        assert len(calls) == 3, "EP-24, EP-26"


def test_pauses_grow_to_a_limit_and_spread():
    pauses = [[pause_after(failures) for _ in range(100)] for failures in range(7)]
    for shorter, longer in pairwise(pauses):
        assert max(shorter) <= min(longer), "EP-24"
    assert min(pauses[0]) > 0
    assert max(pauses[0]) <= 0.1, "WA-06: after a loss at once"
    assert len(set(pauses[0])) > 1
    assert max(pause_after(failures) for failures in (20, 10_000)) <= 10


async def test_a_stream_that_ends_after_a_message_is_opened_anew(tmp_path: Path):
    async with answering(tmp_path / "s", sending(GOOD), sending(GOOD), sending(GOOD, then=stays)) as calls:
        async with aclosing(WorkloadClient(Endpoint.at(tmp_path / "s")).x509_contexts()) as contexts:
            for _ in range(3):
                assert await anext(contexts)
        assert len(calls) == 3


async def test_a_broken_message_is_dropped_and_the_stream_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    later = message(Grants(trust_domain=TRUST_DOMAIN, identities=(DB,), bundles=GRANTS.bundles)).SerializeToString()
    async with answering(tmp_path / "s", sending(GOOD, b"", b"\xff", later, then=stays)) as calls:
        async with aclosing(WorkloadClient(Endpoint.at(tmp_path / "s")).x509_contexts()) as contexts:
            assert (await anext(contexts)).identities == (WEB, DB)
            assert (await anext(contexts)).identities == (DB,)
        assert len(calls) == 1
    assert [record.message for record in caplog.records].count("message dropped") == 2, "WA-16"


async def test_one_shot_calls_tell_why_they_failed(tmp_path: Path):
    client = WorkloadClient(Endpoint.at(tmp_path / "s"))
    for answer, code in (
        (refusing(grpc.StatusCode.PERMISSION_DENIED), grpc.StatusCode.PERMISSION_DENIED),
        (sending(), grpc.StatusCode.UNAVAILABLE),
        (sending(b""), None),
        (stays, grpc.StatusCode.DEADLINE_EXCEEDED),
    ):
        async with answering(tmp_path / "s", answer):
            with pytest.raises(WorkloadAPIError) as refusal:
                await client.fetch_x509(timeout=0.2 if answer is stays else 20)
        assert refusal.value.code is code
    (tmp_path / "s").unlink(missing_ok=True)
    with pytest.raises(WorkloadAPIError, match=re.escape(str(tmp_path / "s"))) as refusal:
        await client.fetch_x509()
    assert refusal.value.code is grpc.StatusCode.UNAVAILABLE


def changed(**fields: Any) -> pb.X509SVIDResponse:
    altered = message()
    for name, value in fields.items():
        setattr(altered.svids[0], name, value)
    return altered


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (pb.X509SVIDResponse(), "no svids"),
        (changed(spiffe_id="spiffe://example.org/other"), "spiffe://example.org/other"),
        (changed(x509_svid=b""), "no certificate"),
        (changed(x509_svid=bundle_of(OURS).to_pem()), "SEQUENCE"),
        (changed(x509_svid_key=b""), "private key"),
        (changed(x509_svid_key=DB.svid.key_der()), "private key"),
        (changed(bundle=b""), "no certificate"),
    ],
)
def test_a_message_with_a_part_missing_or_wrong_is_refused(broken: pb.X509SVIDResponse, reason: str):
    with pytest.raises(WorkloadAPIError, match=reason) as refusal:
        parse_x509_context(broken.SerializeToString())
    assert refusal.value.code is None


def test_a_federated_bundle_that_can_not_be_read_costs_only_its_own_trust_domain():
    altered = message()
    altered.federated_bundles["spiffe://empty.test"] = b""
    altered.federated_bundles["Not A Domain"] = PARTNER.der
    altered.federated_bundles["spiffe://example.org"] = PARTNER.der
    context = parse_x509_context(altered.SerializeToString())
    assert context.bundles == GRANTS.bundles, "and the own bundle is that of the SVID"


def test_of_two_identities_with_one_hint_the_first_is_meant():
    altered = message()
    altered.svids[1].hint = "public"
    context = parse_x509_context(altered.SerializeToString())
    assert context.with_hint("public") == WEB, "WA-27"
    assert context.with_hint("none") is None
