"""Who is let in is judged again at each new bundle: with real gRPC clients, over mutual TLS, on the router's own server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import pytest
from envoy.service.discovery.v3 import discovery_pb2 as pb
from envoy.service.load_stats.v3.lrs_pb2 import LoadStatsRequest

from meshca.clock import SystemClock
from meshca.router.admission import MOST_STREAMS, Admission
from meshca.router.ads import Now, Router
from meshca.router.canary.loads import Asked, Loads, Wanted
from meshca.router.canary.lrs import LoadReports
from meshca.router.delivery.publishing import publish
from meshca.router.delivery.target import CLUSTERS
from meshca.router.directory import Files
from meshca.router.identity import Credentials
from meshca.router.mesh.state import State
from meshca.router.parsing.kinds import Parser
from meshca.router.resources.world import World
from meshca.router.resources.worlds import understood, world_of
from meshca.router.serving import serving
from sds.provider import Identity
from sds.watch import Latest
from sds.workload_client import X509Context
from spiffe.bundle import Bundle, BundleSet
from spiffe.x509svid import X509SVID
from tests.support.fleet import service
from tests.support.pki import CA, Issued, pem
from tests.support.routing import OURS, account
from tests.support.wait import until

NAME = "router.internal"
STREAM = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
REPORTS = "/envoy.service.load_stats.v3.LoadReportingService/StreamLoadStats"
NOW = SystemClock().now
OLD, NEW = CA.create("mesh.local"), CA.create("mesh.local")
SIGNERS = {each.certificate: each.intermediate() for each in (OLD, NEW)}


def leaf(root: CA, path: str, **changes: Any) -> Issued:
    return SIGNERS[root.certificate].leaf(uris=[f"spiffe://mesh.local{path}"], **changes)


def credentials(signed_by: CA, *trusted: CA) -> Credentials | None:
    """The router's, with a leaf of its own each time."""
    shown = leaf(signed_by, "/meshca/router", dns=[NAME])
    bundle = Bundle(trust_domain=OURS, x509_authorities=tuple(each.certificate for each in trusted))
    identity = Identity(svid=X509SVID.from_pem(shown.chain_pem, shown.key_pem))
    return Credentials.of(X509Context(identities=(identity,), bundles=BundleSet([bundle])))


def world(services: int) -> World:
    files = Files(texts={f"{number}.yaml": service(number) for number in range(services)})
    return world_of(understood(State(), files, Parser(OURS), "cluster.local"), OURS)


class Served:
    """A router's server and what it goes by, with clients of it."""

    def __init__(self, now: Now) -> None:
        self.credentials: Latest[Credentials | None] = Latest(None)
        self.credentials.set(credentials(OLD, OLD))
        self.worlds: Latest[World | None] = Latest(None)
        self.worlds.set(world(1))
        self.loads = Loads()
        self.ads, self.lrs = (Admission(credentials=self.credentials, now=now) for _ in range(2))
        self.router = Router(worlds=self.worlds, admission=self.ads, now=now)
        self.reports = LoadReports(loads=self.loads, admission=self.lrs, may_report=lambda _, __: True, now=now)
        self.port = 0
        self.clients = AsyncExitStack()

    async def channel(self, root: CA, name: str) -> grpc.aio.Channel:
        """A client on a connection of its own, with a leaf below this root."""
        shown = leaf(root, account(name).path)
        trusted = pem(OLD.certificate, NEW.certificate)
        options = (
            ("grpc.ssl_target_name_override", NAME),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.initial_reconnect_backoff_ms", 100),  # the newest server may not listen yet
        )
        secure = grpc.ssl_channel_credentials(trusted, shown.key_pem, shown.chain_pem)
        channel = grpc.aio.secure_channel(f"127.0.0.1:{self.port}", secure, options=options)
        return await self.clients.enter_async_context(channel)

    async def proxy(self, root: CA, name: str) -> "Proxy":
        """A proxy that has its first configuration."""
        proxy = Proxy(
            (await self.channel(root, name)).stream_stream(STREAM, None, pb.DiscoveryResponse.FromString)(
                wait_for_ready=True
            )
        )
        await proxy.accept(pb.DiscoveryRequest(type_url=CLUSTERS))
        assert await proxy.has() == 1
        return proxy

    async def reporter(self, root: CA, name: str) -> Any:
        """A stream of load reports that was asked for some."""
        stream = (await self.channel(root, name)).stream_stream(REPORTS, None, None)(wait_for_ready=True)
        await stream.write(LoadStatsRequest().SerializeToString())
        assert await stream.read()
        return stream


class Proxy:
    """A stream that accepts what comes."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    async def accept(self, request: pb.DiscoveryRequest) -> None:
        await self.stream.write(request.SerializeToString())

    async def has(self) -> int:
        """How many clusters come next."""
        response = await self.stream.read()
        await self.accept(pb.DiscoveryRequest(type_url=CLUSTERS, response_nonce=response.nonce))
        return len(response.resources)


@asynccontextmanager
async def served(now: Now = NOW) -> AsyncIterator[Served]:
    made = Served(now)
    made.loads.asked.set(Asked(wanted=frozenset({Wanted("outbound|80||service-0", "service-0")})))
    services = (made.router.service(), made.reports.service())
    async with serving(services, made.credentials, "127.0.0.1", 0) as made.port, made.clients:
        yield made


async def refused(stream: Any) -> str:
    """Why a stream was ended."""
    assert await stream.code() is grpc.StatusCode.UNAUTHENTICATED
    return str(await stream.details())


async def test_a_rotation_of_the_root_ends_no_stream_before_the_old_root_goes_and_then_only_those_below_it():
    async with served() as router:
        old, reporter = await router.proxy(OLD, "old"), await router.reporter(OLD, "old")
        router.credentials.set(credentials(OLD, OLD, NEW))
        router.credentials.set(credentials(NEW, OLD, NEW))
        new, newer = await router.proxy(NEW, "new"), await router.reporter(NEW, "new")
        router.worlds.set(world(2))
        router.loads.asked.set(Asked(revision=1))
        assert (await old.has(), await new.has()) == (2, 2)
        assert await reporter.read()
        assert await newer.read()
        router.credentials.set(credentials(NEW, NEW))
        for stream in (old.stream, reporter):
            reason = await refused(stream)
            assert "chain of spiffe://mesh.local/ns/default/sa/old leads to no authority of mesh.local" in reason
        router.worlds.set(world(3))
        router.loads.asked.set(Asked(wanted=frozenset({Wanted("outbound|80||service-1", "service-1")})))
        assert await new.has() == 3
        assert await newer.read()
        assert {str(each.peer.spiffe_id) for each in router.router.clients.values()} == {str(account("new"))}
        assert (router.ads.refused, router.lrs.refused) == ({"distrusted": 1}, {"distrusted": 1})


async def test_a_proxy_that_does_not_read_is_out_too(caplog: pytest.LogCaptureFixture):
    async with served() as router:
        router.worlds.set(world(5000))  # more than the connection takes unread
        deaf = await router.channel(OLD, "deaf")
        stream = deaf.stream_stream(STREAM, None, None)()
        await stream.write(pb.DiscoveryRequest(type_url=CLUSTERS).SerializeToString())
        await until(lambda: router.router.clients)
        router.credentials.set(credentials(NEW, NEW))
        await until(lambda: not router.router.clients)
        (told,) = [each for each in caplog.records if each.message.startswith("stream ended")]
        assert told.__dict__["spiffe_id"] == str(account("deaf"))


async def test_who_was_let_in_at_the_moment_of_a_revocation_is_not_overlooked():
    credentials_, now = Latest(credentials(OLD, OLD)), SystemClock().now
    shown = leaf(OLD, "/web")
    evidence = {"x509_pem_cert": [pem(shown.certificate)], "x509_pem_cert_chain": [pem(*shown.chain[1:])]}
    admission = Admission(credentials=credentials_, now=now, evidence=lambda _: evidence)
    context: Any = Dialled()

    async def stay() -> None:
        async with admission.admitted(context):
            credentials_.set(credentials(NEW, NEW))  # before anything else had its turn
            await asyncio.Event().wait()

    with pytest.raises(ExceptionGroup) as ended:
        await asyncio.wait_for(stay(), 20)
    assert "leads to no authority" in str(ended.value.exceptions[0])


async def test_streams_on_which_nothing_is_said_are_counted_and_judged_like_others():
    async with served() as router:
        channel = await router.channel(OLD, "mute")
        streams = [channel.stream_stream(STREAM, None, None)(wait_for_ready=True) for _ in range(MOST_STREAMS + 1)]
        await until(lambda: router.ads.refused == {"too_many": 1})
        router.credentials.set(credentials(NEW, NEW))
        reasons = [await stream.code() for stream in streams]
        assert reasons.count(grpc.StatusCode.UNAUTHENTICATED) == MOST_STREAMS
        assert router.router.clients == {}


class Dialled:
    """Of a call all that is asked for but for what was shown in TLS."""

    def peer(self) -> str:
        return "ipv6:%5B::1%5D:40000"


async def test_each_refusal_is_counted_by_its_reason():
    credentials_: Latest[Credentials | None] = Latest(None)
    shown = leaf(OLD, "/web")
    evidence = {"x509_pem_cert": [pem(shown.certificate)], "x509_pem_cert_chain": [pem(*shown.chain[1:])]}
    admission = Admission(credentials=credentials_, now=SystemClock().now, evidence=lambda _: evidence)
    context: Any = Dialled()
    async with AsyncExitStack() as stack:
        with pytest.raises(Exception, match="no identity at present"):
            await stack.enter_async_context(admission.admitted(context))
        credentials_.set(credentials(OLD, OLD))
        for _ in range(MOST_STREAMS):
            peer = await stack.enter_async_context(admission.admitted(context))
            assert peer.dials_from == "[::1]:40000"
        with pytest.raises(Exception, match="streams are open"):
            await stack.enter_async_context(admission.admitted(context))
        assert admission.refused == {"unauthenticated": 1, "too_many": 1}


async def test_a_callee_listens_until_those_are_back_whose_streams_have_just_ended():
    """At the end of a rotation all streams end at once, and who comes back last calls by what it knew."""
    wanted: Latest[World | None] = Latest(None)
    began = SystemClock().now()
    async with served(lambda: began) as router:  # time alone tells nobody that it is back
        caller = await router.proxy(OLD, "caller")
        caller.stream.cancel()
        await until(lambda: not router.router.clients)
        publishing = asyncio.create_task(publish(wanted, router.worlds, router.router))
        wanted.set(world(0))
        await until(lambda: router.worlds.value and router.worlds.value.leaving)
        await router.reporter(OLD, "other")  # meanwhile
        assert router.worlds.value is not wanted.value
        assert not router.router.is_complete
        stream = (await router.channel(OLD, "caller")).stream_stream(STREAM, None, None)(wait_for_ready=True)
        await stream.write(pb.DiscoveryRequest(type_url=CLUSTERS).SerializeToString())
        await until(lambda: router.router.is_complete)
        await until(lambda: router.worlds.value is wanted.value)
        publishing.cancel()
