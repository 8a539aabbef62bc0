"""xDS over a real socket, spoken by the client stubs that the gRPC authors generated from Envoy's API."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any

import grpc
import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.base_pb2 import Node as NodeMessage
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from envoy.service.discovery.v3.ads_pb2_grpc import AggregatedDiscoveryServiceStub
from envoy.service.discovery.v3.discovery_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryRequest,
    DiscoveryResponse,
)
from envoy.service.secret.v3.sds_pb2_grpc import SecretDiscoveryServiceStub

from sds.errors import NotAuthorized
from sds.watch import Latest
from sds.xds.resource import CLUSTER, ENDPOINT, SECRET, Node, Resource, Snapshot, TypeRules
from sds.xds.server import Feed, aggregated_service, secret_service
from sds.xds.session import Acked, Event, Held, Nacked, Sent
from sds.xds.wire import pack
from tests.support.wait import until

INVALID, DENIED = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.PERMISSION_DENIED
PATIENCE = 30.0
"""Seconds until a call that hangs fails its test."""
UNAVAILABLE, OK = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.OK


def secret(name: str, content: str = "1") -> Resource:
    message = Secret(name=name)
    message.generic_secret.secret.inline_string = content
    return pack(name, message, proof=(name, content))


def secrets(**contents: str) -> dict[str, Resource]:
    return {name: secret(name, content) for name, content in contents.items()}


class Source:
    """All that clients may see, and what came back from them; `open_feeds` counts streams that were not yet left behind."""

    def __init__(self, *types: TypeRules) -> None:
        self.types = types
        self.wanted: Latest[dict[str, Resource] | None] = Latest({})
        self.denied = ""
        self.events: list[Event] = []
        self.nodes: list[Node] = []
        self.open_feeds = 0

    def of_kind(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]

    @asynccontextmanager
    async def open(self, _context: object, node: Node) -> AsyncIterator[Feed]:
        if self.denied:
            raise NotAuthorized(self.denied)
        self.nodes.append(node)
        self.open_feeds += 1
        try:
            yield self
        finally:
            self.open_feeds -= 1

    async def snapshots(self) -> AsyncIterator[Snapshot]:
        """Every type has the same resources; None ends the feed."""
        async for wanted in self.wanted.watch():
            if wanted is None:
                return
            for rules in self.types:
                yield Snapshot(type_url=rules.type_url, resources=wanted)

    def on_event(self, event: Event) -> None:
        self.events.append(event)


@pytest.fixture
def source() -> Source:
    return Source(SECRET)


@pytest.fixture
def routes() -> Source:
    """What the aggregated stream carries."""
    return Source(CLUSTER, ENDPOINT)


@pytest.fixture
async def address(source: Source, routes: Source, tmp_path: Path) -> AsyncIterator[str]:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (secret_service(source.open, source.open), aggregated_service(nullcontext, routes.open, routes.types))
    )
    address = f"unix:{tmp_path}/sds.sock"
    server.add_insecure_port(address)
    await server.start()
    yield address
    await server.stop(None)


@pytest.fixture
async def stub(address: str) -> AsyncIterator[SecretDiscoveryServiceStub]:
    async with grpc.aio.insecure_channel(address) as channel:
        yield SecretDiscoveryServiceStub(channel)


def ask(
    *names: str, answers: DiscoveryResponse | None = None, error: str | None = None, **more: Any
) -> DiscoveryRequest:
    request = DiscoveryRequest(type_url=SECRET.type_url, resource_names=names, **more)
    if answers is not None:
        request.response_nonce, request.version_info = answers.nonce, answers.version_info
    if error is not None:
        request.error_detail.message = error
    return request


def subscribe(*names: str, answers: DeltaDiscoveryResponse | None = None, **more: Any) -> DeltaDiscoveryRequest:
    nonce = "" if answers is None else answers.nonce
    return DeltaDiscoveryRequest(type_url=SECRET.type_url, resource_names_subscribe=names, response_nonce=nonce, **more)


def text(response: Any) -> str:
    """The content of the one secret in a response of either kind."""
    (found,) = response.resources
    message = Secret()
    assert getattr(found, "resource", found).Unpack(message)
    return message.generic_secret.secret.inline_string


async def test_a_state_of_the_world_stream_delivers_updates_and_reports_answers(source: Source, stub: Any):
    stream = stub.StreamSecrets(timeout=PATIENCE)
    await stream.write(ask("a", node=NodeMessage(id="envoy-1")))
    source.wanted.set(secrets(a="1"))
    first = await stream.read()
    assert (text(first), first.type_url, first.version_info) == ("1", SECRET.type_url, secret("a").version)
    await stream.write(ask("a", answers=first))
    source.wanted.set(secrets(a="2"))
    second = await stream.read()
    assert text(second) == "2"
    await stream.write(ask("a", answers=second, error="bad certificate"))
    source.wanted.set(secrets(a="3"))
    assert text(await stream.read()) == "3"
    assert [event.proof for event in source.events if isinstance(event, Acked)] == [("a", "1")]
    assert [event.message for event in source.events if isinstance(event, Nacked)] == ["bad certificate"]
    await until(lambda: source.of_kind(Sent) == [Sent(type_url=SECRET.type_url, names=("a",))] * 3)
    assert [node.id for node in source.nodes] == ["envoy-1"]
    stream.cancel()


async def test_an_incremental_stream_delivers_updates_and_reports_answers(source: Source, stub: Any):
    stream = stub.DeltaSecrets(timeout=PATIENCE)
    await stream.write(subscribe("a", "b"))
    source.wanted.set(secrets(a="1"))
    first = await stream.read()
    assert (text(first), first.resources[0].name, first.resources[0].version) == ("1", "a", secret("a").version)
    await stream.write(subscribe(answers=first))
    source.wanted.set(secrets(a="1", b="2"))
    second = await stream.read()
    assert (text(second), list(second.removed_resources)) == ("2", [])
    refusal = subscribe(answers=second)
    refusal.error_detail.message = ""
    await stream.write(refusal)
    await until(lambda: source.of_kind(Nacked))
    assert [event.names for event in source.events if isinstance(event, Nacked)] == [("b",)]
    assert source.of_kind(Sent) == [Sent(type_url=SECRET.type_url, names=(name,)) for name in "ab"]
    stream.cancel()


@pytest.mark.parametrize("incremental", [False, True])
async def test_a_client_that_comes_back_with_the_same_version_is_sent_nothing(
    source: Source, stub: Any, *, incremental: bool
):
    source.wanted.set(secrets(a="1"))
    version = secret("a").version
    stream = stub.DeltaSecrets(timeout=PATIENCE) if incremental else stub.StreamSecrets(timeout=PATIENCE)
    await stream.write(
        subscribe("a", initial_resource_versions={"a": version}) if incremental else ask("a", version_info=version)
    )
    await until(lambda: source.of_kind(Held))
    source.wanted.set(secrets(a="2"))
    assert text(await stream.read()) == "2"
    stream.cancel()


async def test_fetch_answers_at_once_with_the_secrets_or_says_which_are_missing(source: Source, stub: Any):
    source.wanted.set(secrets(a="1", b="2"))
    response = await stub.FetchSecrets(ask("a", version_info=secret("a").version))
    assert text(response) == "1"
    for request, code, words in (
        (ask("a", "late"), UNAVAILABLE, "late"),
        (ask(*(f"late{n}" + "x" * 2000 for n in range(8))), UNAVAILABLE, "late"),
        (ask(), INVALID, "resource_names is empty"),
        (ask(*["n"] * 101), INVALID, "101 names"),
    ):
        with pytest.raises(grpc.aio.AioRpcError, match=words) as failure:
            await stub.FetchSecrets(request)
        assert failure.value.code() is code
    await until(lambda: source.open_feeds == 0)
    assert source.events == [Sent(type_url=SECRET.type_url, names=("a",))]


@pytest.mark.parametrize(
    ("method", "sent", "words"),
    [
        ("StreamSecrets", DiscoveryRequest(type_url="x/other"), "not served here"),
        ("DeltaSecrets", DeltaDiscoveryRequest(type_url="x/other"), "not served here"),
        ("StreamSecrets", ask(*["n"] * 101), "101 names"),
        ("DeltaSecrets", subscribe(*["n"] * 101), "101 names"),
        ("StreamSecrets", ask("n" * 3000), "not 3000"),
        ("DeltaSecrets", subscribe("n" * 3000), "not 3000"),
        ("StreamSecrets", b"\xff", "1 bytes are not a DiscoveryRequest"),
        ("DeltaSecrets", b"\xff", "1 bytes are not a DeltaDiscoveryRequest"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_what_breaks_the_protocol_ends_the_stream_and_names_the_value(
    source: Source, address: str, method: str, sent: Any, words: str
):
    async with grpc.aio.insecure_channel(address) as channel:
        path = f"/envoy.service.secret.v3.SecretDiscoveryService/{method}"
        stream = channel.stream_stream(path)(timeout=PATIENCE)
        await stream.write(sent if isinstance(sent, bytes) else sent.SerializeToString())
        assert await stream.code() is INVALID
        assert words in await stream.details()
    assert source.nodes == [], "no feed was opened for it"


async def test_a_bad_request_later_on_ends_the_stream_too(source: Source, stub: Any):
    stream = stub.StreamSecrets(timeout=PATIENCE)
    await stream.write(ask("a"))
    await until(lambda: source.open_feeds)
    await stream.write(ask("a" * 3000))
    assert (await stream.code(), source.open_feeds) == (INVALID, 0)


async def test_a_caller_without_rights_is_denied_with_the_reason(source: Source, stub: Any):
    source.denied = "pid 7 matches no entry"
    stream = stub.StreamSecrets(timeout=PATIENCE)
    await stream.write(ask("a"))
    assert (await stream.code(), await stream.details()) == (DENIED, source.denied)


async def test_a_stream_ends_well_when_its_feed_ends_or_its_client_has_nothing_more_to_say(source: Source, stub: Any):
    ended, finished, silent = (stub.StreamSecrets(timeout=PATIENCE) for _ in range(3))
    await silent.done_writing()
    assert await silent.code() is OK
    for stream in (ended, finished):
        await stream.write(ask("a"))
    await until(lambda: source.open_feeds == 2)
    await finished.done_writing()
    assert await finished.code() is OK
    source.wanted.set(None)
    assert (await ended.code(), source.open_feeds) == (OK, 0)


async def test_a_stream_on_which_nothing_is_asked_ends(routes: Source, tmp_path: Path):
    server = grpc.aio.server()
    service = aggregated_service(nullcontext, routes.open, routes.types, first_seconds=0.01)
    server.add_generic_rpc_handlers((service,))
    server.add_insecure_port(address := f"unix:{tmp_path}/ads.sock")
    await server.start()
    async with grpc.aio.insecure_channel(address) as channel:
        stub = AggregatedDiscoveryServiceStub(channel)
        for silent in (stub.StreamAggregatedResources(), stub.DeltaAggregatedResources()):
            assert (await silent.code(), await silent.details()) == (INVALID, "no request came within 0.01 s")
    await server.stop(None)
    assert routes.nodes == []


def watchers() -> int:
    return sum(task.get_name() == "xds watcher" for task in asyncio.all_tasks())


async def test_many_streams_share_a_connection_and_leave_nothing_behind(source: Source, address: str):
    names = [f"s{n}" for n in range(4)]
    async with grpc.aio.insecure_channel(address) as channel:
        stub = SecretDiscoveryServiceStub(channel)
        streams = [stub.StreamSecrets(timeout=PATIENCE) for _ in range(25) for _ in names]
        for stream, name in zip(streams, itertools.cycle(names), strict=False):
            await stream.write(ask(name))
        await until(lambda: source.open_feeds == 100)
        source.wanted.set(secrets(**dict.fromkeys(names, "1")))
        assert {text(await stream.read()) for stream in streams} == {"1"}
        assert watchers() == 100
        for stream in streams[:50]:
            stream.cancel()
        await until(lambda: (source.open_feeds, watchers()) == (50, 50))
    await until(lambda: (source.open_feeds, watchers()) == (0, 0))


def want(rules: TypeRules, answers: DiscoveryResponse | None = None) -> DiscoveryRequest:
    nonce = answers.nonce if answers else ""
    return DiscoveryRequest(type_url=rules.type_url, resource_names=["big"], response_nonce=nonce)


async def test_a_client_that_does_not_read_delays_nobody_and_gets_only_the_newest_later(
    source: Source, routes: Source, address: str
):
    """The first 3 MB fill every buffer, so the response of the second type is a write that stays pending."""
    async with grpc.aio.insecure_channel(address) as lazy, grpc.aio.insecure_channel(address) as keen:
        slow = AggregatedDiscoveryServiceStub(lazy).StreamAggregatedResources(timeout=PATIENCE)
        fast = SecretDiscoveryServiceStub(keen).StreamSecrets(timeout=PATIENCE)
        routes.wanted.set(secrets(big="0" * 3_000_000))
        await fast.write(ask("small"))
        for rules in routes.types:
            await slow.write(want(rules))
        await until(lambda: (source.open_feeds, routes.open_feeds) == (1, 1))
        for content in map(str, range(20)):
            source.wanted.set(secrets(small=content))
            response = await fast.read()
            assert text(response) == content
            routes.wanted.set(secrets(big=content))
            await fast.write(ask("small", answers=response))
            await slow.write(want(CLUSTER))  # stale: it has not read yet what it must answer first
        received = [await slow.read() for _ in routes.types]
        assert {text(response) for response in received} == {"0" * 3_000_000}
        newest = []
        for rules, response in zip(routes.types, received, strict=True):
            await slow.write(want(rules, answers=response))
            newest.append(await slow.read())
        assert {text(response) for response in newest} == {"19"}


async def test_a_client_that_leaves_while_a_write_is_pending_leaves_nothing_behind(
    routes: Source, address: str, caplog: pytest.LogCaptureFixture
):
    routes.wanted.set(secrets(big="0" * 3_000_000))
    async with grpc.aio.insecure_channel(address) as channel:
        stream = AggregatedDiscoveryServiceStub(channel).StreamAggregatedResources(timeout=PATIENCE)
        for rules in (CLUSTER, ENDPOINT):
            await stream.write(want(rules))
        await until(watchers)
    await until(lambda: (routes.open_feeds, watchers()) == (0, 0))
    assert caplog.records == []


async def test_an_aggregated_stream_carries_each_type_in_order_and_demands_a_type_url(routes: Source, address: str):
    routes.wanted.set({"a": pack("a", Cluster(name="a"))})
    async with grpc.aio.insecure_channel(address) as channel:
        stub = AggregatedDiscoveryServiceStub(channel)
        stream = stub.StreamAggregatedResources(timeout=PATIENCE)
        received = []
        for rules in (CLUSTER, ENDPOINT):
            await stream.write(DiscoveryRequest(type_url=rules.type_url, resource_names=["a"]))
            received.append((await stream.read()).type_url)
        assert received == [CLUSTER.type_url, ENDPOINT.type_url]
        await stream.write(DiscoveryRequest(resource_names=["a"]))
        assert await stream.code() is INVALID
        delta = stub.DeltaAggregatedResources(timeout=PATIENCE)
        await delta.write(DeltaDiscoveryRequest(type_url=ENDPOINT.type_url, resource_names_subscribe=["a", "none"]))
        response = await delta.read()
        assert ([found.name for found in response.resources], list(response.removed_resources)) == (["a"], ["none"])
        delta.cancel()


async def test_of_a_node_only_what_is_needed_is_kept(source: Source, stub: Any):
    node = NodeMessage(id="i", cluster="c", user_agent_name="envoy")
    node.user_agent_build_version.version.major_number = 1
    node.user_agent_build_version.version.minor_number = 17
    node.metadata.update({"as_bool": True, "as_text": "true", "off": False, "other": "x", "nested": {"deep": True}})
    node.extensions.add(name="x" * 60_000)
    stream = stub.StreamSecrets(timeout=PATIENCE)
    await stream.write(ask("a", node=node))
    await until(lambda: source.nodes)
    assert source.nodes == [
        Node(id="i", cluster="c", user_agent="envoy", version=(1, 17, 0), flags=frozenset({"as_bool", "as_text"}))
    ]
    stream.cancel()


def test_equal_messages_pack_into_equal_versions_whatever_the_order_of_their_maps():
    one, two = Cluster(name="a"), Cluster(name="a")
    for message, keys in ((one, "xyz"), (two, "zyx")):
        for key in keys:
            message.metadata.filter_metadata[key].update({key: 1})
    assert pack("a", one) == pack("a", two)
    assert pack("a", one).version != pack("a", Cluster(name="b")).version
