from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import cache
from typing import Any

import grpc
import pytest
from envoy.service.load_stats.v3.lrs_pb2 import LoadStatsRequest, LoadStatsResponse
from google.protobuf.duration_pb2 import Duration
from grpc.aio import ServicerContext

from meshca.router.admission import MOST_STREAMS, Admission
from meshca.router.canary.loads import Asked, Loads, Tally, Wanted, Window
from meshca.router.canary.lrs import LoadReports
from meshca.router.identity import Credentials, Evidence
from sds.watch import Latest
from spiffe.bundle import Bundle, BundleSet
from tests.support.pki import CA, pem
from tests.support.ramps import NOW
from tests.support.routing import OURS, account
from tests.support.wait import until

NEW, OLD, OTHER = "outbound|80|v2|api", "outbound|80|v1|api", "outbound|80|v1|other"
ASKED = Asked(wanted=frozenset({Wanted(NEW, "api"), Wanted(OLD, "api"), Wanted(OTHER, "other")}))
METHOD = "/envoy.service.load_stats.v3.LoadReportingService/StreamLoadStats"


SIGNER = CA.create("mesh.local").intermediate()
BUNDLES = BundleSet([Bundle(trust_domain=OURS, x509_authorities=(SIGNER.certificate,))])
CREDENTIALS = Credentials(own=OURS, bundles=BUNDLES, key=b"", chain=b"", roots=b"", not_after=NOW)


@cache
def certificate(name: str) -> bytes:
    """That of a client; the one of `brief` has just come to its end."""
    issued = SIGNER.leaf(uris=[str(account(name))], not_after=NOW + timedelta(days=0 if name == "brief" else 1))
    return pem(issued.certificate)


def evidence(context: ServicerContext[Any, Any]) -> Evidence:
    """By what a client says, in place of TLS: nothing of `nobody`."""
    name = str(dict(context.invocation_metadata() or ())["name"])
    return {} if name == "nobody" else {"x509_pem_cert": [certificate(name)]}


class Server:
    """Load reports on a socket; `hidden` are hosts that `frontend` may not call."""

    def __init__(self) -> None:
        self.loads = Loads()
        self.window: Window = self.loads.window("a", 1, NEW, OLD, NOW)
        self.hidden = {"other"}
        self.channel: grpc.aio.Channel

    def stream(self, name: str) -> Any:
        method = self.channel.stream_stream(METHOD, LoadStatsRequest.SerializeToString, LoadStatsResponse.FromString)
        return method(metadata=(("name", name),))


@asynccontextmanager
async def serving() -> AsyncIterator[Server]:
    made, server = Server(), grpc.aio.server()
    reports = LoadReports(
        loads=made.loads,
        admission=Admission(credentials=Latest(CREDENTIALS), now=lambda: NOW, evidence=evidence),
        may_report=lambda _, host: host not in made.hidden,
        now=lambda: NOW,
    )
    server.add_generic_rpc_handlers((reports.service(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as made.channel:
        yield made
    await server.stop(0)


def report(*clusters: str, good: int = 90, bad: int = 10, dropped: int = 0) -> LoadStatsRequest:
    request = LoadStatsRequest()
    for cluster in clusters:
        stats = request.cluster_stats.add(cluster_name=cluster, total_dropped_requests=dropped)
        stats.load_report_interval.CopyFrom(Duration(nanos=250_000_000))
        for zone in ("a", "b"):
            each = stats.upstream_locality_stats.add(total_issued_requests=good + bad)
            each.locality.zone = zone
            each.total_successful_requests, each.total_error_requests = good, bad
    return request


async def test_nothing_is_asked_before_there_is_a_ramp_and_then_only_what_the_reporter_may_call():
    async with serving() as server:
        stream = server.stream("frontend")
        await stream.write(LoadStatsRequest())
        server.loads.asked.set(Asked(revision=1))
        server.loads.asked.set(ASKED)
        response = await stream.read()
        assert (list(response.clusters), response.send_all_clusters) == ([OLD, NEW], False)
        assert response.load_reporting_interval == Duration(seconds=10)
        server.hidden.clear()
        server.loads.asked.set(Asked(wanted=ASKED.wanted, revision=1))  # as when the policies changed
        assert OTHER in (await stream.read()).clusters
        server.loads.asked.set(Asked())
        response = await stream.read()
        assert (list(response.clusters), response.load_reporting_interval) == ([], Duration(seconds=3600))
        stream.cancel()


async def test_reports_are_counted_over_all_localities_with_what_was_turned_away():
    async with serving() as server:
        server.loads.asked.set(ASKED)
        stream = server.stream("frontend")
        await stream.write(report(NEW, OLD, dropped=3))
        await until(lambda: server.window.heard)
        assert server.window.by_reporter == {account("frontend"): Tally(203, 203, 23)}
        stream.cancel()


@pytest.mark.parametrize("seconds", [-(2**63), -1, 0, 2**63 - 1])
async def test_a_period_that_can_not_be_does_no_harm(seconds: int):
    async with serving() as server:
        server.loads.asked.set(ASKED)
        stream, request = server.stream("frontend"), report(NEW)
        request.cluster_stats[0].load_report_interval.CopyFrom(Duration(seconds=seconds))
        await stream.write(request)
        await until(lambda: server.window.heard)
        assert bool(server.window.split) == (seconds <= 0)
        stream.cancel()


async def test_what_a_reporter_may_not_call_or_was_not_asked_for_does_not_count():
    async with serving() as server:
        server.loads.asked.set(ASKED)
        server.hidden.add("api")
        liar, honest = server.stream("liar"), server.stream("frontend")
        await liar.write(report(NEW, OLD, "outbound|80|v9|api", bad=10**9))
        await liar.done_writing()
        assert await liar.read() is grpc.aio.EOF  # so it was read to its end
        assert (server.window.heard, server.window.by_reporter) == (None, {})
        server.hidden.clear()
        await honest.write(report(NEW, "outbound|80|v9|api"))
        await until(lambda: server.window.heard)
        assert server.window.by_reporter == {account("frontend"): Tally(200, 200, 20)}
        honest.cancel()


async def test_who_proves_no_identity_is_refused_and_a_stream_ends_with_its_certificate():
    async with serving() as server:
        with pytest.raises(grpc.aio.AioRpcError, match="proves no identity") as refused:
            await server.stream("nobody").read()
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert await server.stream("brief").read() is grpc.aio.EOF


async def test_a_certificate_is_good_for_so_many_streams_and_one_that_ended_makes_room():
    async with serving() as server:
        server.loads.asked.set(ASKED)
        streams = [server.stream("frontend") for _ in range(MOST_STREAMS)]
        for each in streams:
            assert (await each.read()).clusters == [OLD, NEW]
        assert await server.stream("frontend").code() is grpc.StatusCode.UNAVAILABLE
        streams[0].cancel()

        async def has_room() -> bool:
            try:
                return bool((await server.stream("frontend").read()).clusters)
            except grpc.aio.AioRpcError:
                return False

        await until(has_room)
