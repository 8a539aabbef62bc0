import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_private_key

from sds.errors import UNCOVERED
from sds.listen import WorkloadLimits
from sds.proto import workload_pb2 as pb
from sds.proto.workload_pb2_grpc import SpiffeWorkloadAPIStub
from sds.provider import Proof
from spiffe.bundle import Bundle, BundleSet
from spiffe.id import TrustDomain
from spiffe.x509svid import X509SVID, parse_der_chain
from spiffe.x509verify import verify
from tests.support.grants import TRUST_DOMAIN, ScriptedProvider, bundle_of, identity
from tests.support.pki import CA, NOW, new_key
from tests.support.wait import until
from tests.support.workloads import HEADER, Workloads, serving

PARTNER = CA.create("partner.test")
EMPTY = Bundle(trust_domain=TrustDomain("empty.test"), x509_authorities=())


@pytest.fixture
async def workloads(tmp_path: Path) -> AsyncIterator[Workloads]:
    async with serving(tmp_path) as served:
        yield served


@pytest.fixture
async def stub(workloads: Workloads) -> AsyncIterator[Any]:
    async with workloads.channel() as channel:
        yield SpiffeWorkloadAPIStub(channel)


def svids(stub: Any) -> Any:
    return stub.FetchX509SVID(pb.X509SVIDRequest(), metadata=HEADER)


def bundles(stub: Any) -> Any:
    return stub.FetchX509Bundles(pb.X509BundlesRequest(), metadata=HEADER)


async def status(call: Any) -> tuple[grpc.StatusCode, str]:
    return await call.code(), await call.details()


async def test_a_caller_gets_its_svid_at_once_in_the_standards_encodings(workloads: Workloads, stub: Any):
    provider = workloads.provider
    message = await svids(stub).read()
    (svid,) = message.svids
    granted = provider.grants.value.identities[0].svid
    assert svid.spiffe_id == "spiffe://example.org/web"
    chain = parse_der_chain(svid.x509_svid)
    assert chain == granted.chain, "WA-18, WA-19: leaf first, intermediates after it"
    assert b"-----" not in svid.SerializeToString(), "WA-21"
    key = load_der_private_key(svid.x509_svid_key, password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert svid.x509_svid_key == granted.key_der(), "WA-20"
    assert X509SVID.from_der(svid.x509_svid, svid.x509_svid_key) == granted
    own = Bundle.from_der(TRUST_DOMAIN, svid.bundle)
    assert verify(chain, BundleSet([own]), NOW) == granted.spiffe_id, "WA-25"
    assert not message.crl
    await until(lambda: provider.proofs)
    assert provider.proofs == [Proof(bundle=own.digest, serials=frozenset({granted.serial}))]


async def test_bundles_hold_the_own_trust_domain_and_the_federated_ones_by_their_ids(workloads: Workloads, stub: Any):
    workloads.provider.federate(bundle_of(PARTNER), EMPTY)
    message = await bundles(stub).read()
    assert dict(message.bundles) == {
        "spiffe://example.org": workloads.provider.root.der,
        "spiffe://partner.test": PARTNER.der,
    }, "WA-22, WA-32, D-16"
    svid = await svids(stub).read()
    assert dict(svid.federated_bundles) == {"spiffe://partner.test": PARTNER.der}
    assert svid.svids[0].bundle == workloads.provider.root.der
    await until(lambda: len(workloads.provider.proofs) == 2)
    assert workloads.provider.proofs[0] == Proof(bundle=bundle_of(workloads.provider.root).digest)


async def test_each_change_brings_the_full_state_and_no_change_brings_nothing(workloads: Workloads, stub: Any):
    provider = workloads.provider
    provider.grant("/web", "/db")
    stream, trust = svids(stub), bundles(stub)
    first, trusted = await stream.read(), await trust.read()
    assert [each.spiffe_id for each in first.svids] == ["spiffe://example.org/web", "spiffe://example.org/db"]
    web, _ = provider.grants.value.identities
    provider.change(identities=(web, identity(provider.issuer, "/db")))
    second = await stream.read()
    assert [each.spiffe_id for each in second.svids] == [each.spiffe_id for each in first.svids], "WA-07, WA-72"
    assert second.svids[0] == first.svids[0]
    assert second.svids[1] != first.svids[1]
    provider.change(cut_off=False)  # nothing changed for anybody
    provider.federate(bundle_of(PARTNER))
    assert "spiffe://partner.test" in (await stream.read()).federated_bundles
    widened = await trust.read()
    assert widened != trusted, "the renewal of an SVID wrote nothing to this stream"
    provider.change(identities=(web,), bundles=BundleSet([bundle_of(provider.root)]))
    redacted = await stream.read()
    assert [each.spiffe_id for each in redacted.svids] == ["spiffe://example.org/web"], "WA-14, WA-24"
    assert not redacted.federated_bundles
    assert await trust.read() == trusted


async def test_hints_are_unique_and_the_first_keeps_it(workloads: Workloads, stub: Any):
    issuer = workloads.provider.issuer
    hints = ("internal", "", "internal", "external", "")
    workloads.provider.change(identities=tuple(identity(issuer, f"/{i}", hint) for i, hint in enumerate(hints)))
    message = await svids(stub).read()
    assert [each.hint for each in message.svids] == ["internal", "", "", "external", ""]
    assert len(message.svids) == 5, "WA-24: each identity is there"


@pytest.mark.parametrize("call", [svids, bundles])
async def test_a_caller_without_an_entry_is_denied_and_learns_nothing_of_others(
    workloads: Workloads, stub: Any, call: Any, caplog: pytest.LogCaptureFixture
):
    workloads.provider.deny("spiffe://example.org/secret also wants unix:uid:7")
    assert await status(call(stub)) == (grpc.StatusCode.PERMISSION_DENIED, UNCOVERED)
    assert "also wants unix:uid:7" in str([vars(record) for record in caplog.records])
    workloads.provider.grant("/web")
    assert await call(stub).read(), "WA-29: and served once it has one"


async def test_a_user_fills_no_log_by_asking_from_ever_new_processes(
    workloads: Workloads, stub: Any, caplog: pytest.LogCaptureFixture
):
    for pid in range(3):
        workloads.provider.gone = f"pid {pid} has ended"
        assert await status(svids(stub)) == (grpc.StatusCode.PERMISSION_DENIED, workloads.provider.gone)
    (told,) = [record for record in caplog.records if record.message == "caller has no identity"]
    assert told.reason == "pid 0 has ended"


@pytest.mark.parametrize("call", [svids, bundles])
async def test_a_stream_is_closed_when_the_entry_goes(workloads: Workloads, stub: Any, call: Any):
    stream = call(stub)
    assert await stream.read()
    workloads.provider.deny("the entry was deleted")
    assert await status(stream) == (grpc.StatusCode.PERMISSION_DENIED, UNCOVERED)
    await until(lambda: not workloads.provider.open)
    workloads.provider.change(denied="", cut_off=True)
    assert await call(stub).code() is grpc.StatusCode.PERMISSION_DENIED


async def test_a_caller_that_is_gone_when_it_is_attested_is_denied(workloads: Workloads, stub: Any):
    workloads.provider.gone = "pid 7 has ended"
    assert await status(svids(stub)) == (grpc.StatusCode.PERMISSION_DENIED, "pid 7 has ended")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"bundles": BundleSet()}, "no bundle for example.org"),
        ({"bundles": BundleSet([Bundle(trust_domain=TRUST_DOMAIN, x509_authorities=())])}, "no bundle for example.org"),
        ({"identities": ()}, "no X.509-SVID"),
    ],
)
async def test_what_can_not_be_served_yet_is_unavailable(workloads: Workloads, stub: Any, changes: dict, reason: str):
    workloads.provider.change(**changes)
    code, details = await status(svids(stub))
    assert (code, reason in details) == (grpc.StatusCode.UNAVAILABLE, True)


async def test_an_svid_that_expired_is_not_served(workloads: Workloads, stub: Any):
    workloads.clock.time = workloads.provider.grants.value.identities[0].svid.not_after
    assert await svids(stub).code() is grpc.StatusCode.UNAVAILABLE


async def test_a_caller_waits_for_its_first_svid(workloads: Workloads, stub: Any):
    workloads.provider.change(pending=True)
    stream = svids(stub)
    await until(lambda: workloads.provider.open)
    workloads.provider.change(pending=False)
    assert (await stream.read()).svids


async def test_an_svid_that_never_comes_is_unavailable(tmp_path: Path):
    provider = ScriptedProvider()
    provider.change(pending=True)
    async with (
        serving(tmp_path, provider, limits=WorkloadLimits(first_svid=0.0)) as workloads,
        workloads.channel() as channel,
    ):
        code, details = await status(svids(SpiffeWorkloadAPIStub(channel)))
    assert (code, "still being issued" in details) == (grpc.StatusCode.UNAVAILABLE, True)


@pytest.mark.parametrize(
    ("name", "request_"),
    [
        ("FetchJWTSVID", pb.JWTSVIDRequest(audience=["a"])),
        ("FetchJWTBundles", pb.JWTBundlesRequest()),
        ("ValidateJWTSVID", pb.ValidateJWTSVIDRequest(audience="a", svid="b")),
        ("FetchWITSVID", pb.WITSVIDRequest()),
        ("FetchWITBundles", pb.WITBundlesRequest()),
    ],
)
async def test_the_other_profiles_are_unimplemented(stub: Any, name: str, request_: Any):
    code, details = await status(getattr(stub, name)(request_, metadata=HEADER))
    assert (code, "X.509" in details) == (grpc.StatusCode.UNIMPLEMENTED, True)


@pytest.mark.parametrize("name", ["FetchX509SVID", "FetchX509Bundles"])
async def test_a_request_that_is_none_is_refused(workloads: Workloads, name: str):
    async with workloads.channel() as channel:
        call = channel.unary_stream(f"/SpiffeWorkloadAPI/{name}")(b"\xff\xff\xff\xff", metadata=HEADER)
        code, details = await status(call)
    assert (code, "this is no X509" in details) == (grpc.StatusCode.INVALID_ARGUMENT, True)


SLOW_CLIENT = """
import asyncio, re, sys
import grpc
async def main():
    async with grpc.aio.insecure_channel("unix:" + sys.argv[1]) as channel:
        stream = channel.unary_stream("/SpiffeWorkloadAPI/FetchX509SVID")(b"", metadata=[("workload.spiffe.io", "true")])
        async for message in stream:
            print(len(set(re.findall(rb"spiffe://td[0-9]+", message))), flush=True)
asyncio.run(main())
"""


async def test_a_client_that_does_not_read_holds_back_nobody_and_gets_the_newest_later(workloads: Workloads):
    key = new_key()
    federated = [bundle_of(*(CA.create(f"td{i}.test", key=key) for _ in range(60))) for i in range(20)]
    slow = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SLOW_CLIENT, str(workloads.path), stdout=subprocess.PIPE
    )
    assert await slow.stdout.readline() == b"0\n"
    slow.send_signal(signal.SIGSTOP)
    async with workloads.channel() as channel:
        quick = svids(SpiffeWorkloadAPIStub(channel))
        await quick.read()
        for count in range(1, 1 + len(federated)):
            workloads.provider.federate(*federated[:count])
            assert len((await quick.read()).federated_bundles) == count
    slow.send_signal(signal.SIGCONT)
    seen = [int(await slow.stdout.readline())]
    while seen[-1] < len(federated):
        seen.append(int(await slow.stdout.readline()))
    slow.kill()
    await slow.wait()
    assert len(seen) < len(federated), "what it had not read yet was merged"


async def test_what_happens_is_counted_and_streams_leave_nothing_behind(workloads: Workloads, stub: Any):
    streams = [svids(stub) for _ in range(20)]
    await asyncio.gather(*(stream.read() for stream in streams))
    assert len(workloads.provider.open) == 20
    for stream in streams:
        stream.cancel()
    await until(lambda: workloads.counts["workload_api closed"] == 20)
    assert workloads.counts["workload_api opened"] == workloads.counts["workload_api pushed"] == 20
    assert not workloads.provider.open
