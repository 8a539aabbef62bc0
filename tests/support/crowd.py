"""A crowd of proxies without proxies: incremental ADS clients over mutual TLS in a process of their own, which take whatever comes.

They reconnect as Envoy does, with the versions that they have. The parent asks, in lines of JSON on stdin, and is answered on stdout.
"""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from envoy.config.core.v3 import base_pb2
from envoy.service.discovery.v3 import discovery_pb2 as pb

from meshca.router.delivery.target import CLUSTERS, ENDPOINTS, LISTENERS, ROUTES
from sds.endpoint import Endpoint
from sds.workload_client import WorkloadClient
from tests.support.wait import until

METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
OUTBOUND = "outbound"
HOLD = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Pems:
    """An identity as gRPC takes it, all PEM."""

    key: bytes = field(repr=False)
    chain: bytes
    roots: bytes

    @classmethod
    async def fetch(cls, socket: Path) -> "Pems":
        """The default identity that a workload socket gives."""
        context = await WorkloadClient(Endpoint.at(socket)).fetch_x509()
        svid = context.identities[0].svid
        roots = context.bundles.get(svid.spiffe_id.trust_domain)
        assert roots is not None
        return cls(
            key=svid.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            chain=b"".join(each.public_bytes(Encoding.PEM) for each in svid.chain),
            roots=b"".join(each.public_bytes(Encoding.PEM) for each in roots.x509_authorities),
        )

    def credentials(self) -> grpc.ChannelCredentials:
        """To show it, and to believe its roots."""
        return grpc.ssl_channel_credentials(self.roots, self.key, self.chain)


@dataclass(slots=True)
class Simulated:
    """One proxy: what it has, by type and name, and when each version came."""

    node: base_pb2.Node
    have: dict[str, dict[str, str]] = field(default_factory=dict)
    arrived: dict[tuple[str, str], float] = field(default_factory=dict)
    messages: int = 0
    resources: int = 0
    received: int = 0
    last: float = 0.0

    async def run(self, target: str, name: str, pems: Pems) -> None:
        """Serve for ever, coming back when the router has gone."""
        options = (
            ("grpc.ssl_target_name_override", name),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_receive_message_length", -1),
        )
        while True:
            async with grpc.aio.secure_channel(target, pems.credentials(), options=options) as channel:
                try:
                    await self._stream(channel.stream_stream(METHOD, None, None)())
                except (grpc.aio.AioRpcError, asyncio.InvalidStateError):  # refused, or ended while something was said
                    await asyncio.sleep(HOLD)

    async def _stream(self, call: Any) -> None:
        for type_url in (CLUSTERS, ENDPOINTS, LISTENERS, ROUTES):
            had = self.have.setdefault(type_url, {})
            if type_url in {CLUSTERS, LISTENERS} or had:
                names = [] if type_url in {CLUSTERS, LISTENERS} else list(had)
                request = pb.DeltaDiscoveryRequest(type_url=type_url, node=self.node, initial_resource_versions=had)
                request.resource_names_subscribe.extend(names)
                await call.write(request.SerializeToString())
        while (content := await call.read()) is not grpc.aio.EOF:
            for request in self._take(content):
                await call.write(request.SerializeToString())

    def _take(self, content: bytes) -> list[pb.DeltaDiscoveryRequest]:
        """Take in a response: its ACK, and what is asked for then."""
        now, response = time.monotonic(), pb.DeltaDiscoveryResponse.FromString(content)
        self.messages, self.received = self.messages + 1, self.received + len(content)
        self.resources, self.last = self.resources + len(response.resources), now
        had = self.have[response.type_url]
        new = [each.name for each in response.resources if each.name not in had]
        for each in response.resources:
            had[each.name] = each.version
            self.arrived[each.name, each.version] = now
        for name in response.removed_resources:
            had.pop(name, None)
        ack = pb.DeltaDiscoveryRequest(type_url=response.type_url, response_nonce=response.nonce)
        return [ack, *self._ask(response.type_url, new, list(response.removed_resources))]

    def _ask(self, type_url: str, new: list[str], gone: list[str]) -> list[pb.DeltaDiscoveryRequest]:
        if type_url == CLUSTERS:
            served = [name for name in new if name.startswith("outbound|")]
            for name in gone:
                self.have[ENDPOINTS].pop(name, None)
            asked = pb.DeltaDiscoveryRequest(
                type_url=ENDPOINTS, resource_names_subscribe=served, resource_names_unsubscribe=gone
            )
            return [asked] if served or gone else []
        if type_url == LISTENERS and OUTBOUND in new:
            return [pb.DeltaDiscoveryRequest(type_url=ROUTES, resource_names_subscribe=[OUTBOUND])]
        return []


@dataclass(slots=True, kw_only=True)
class Crowd:
    """The parent's end."""

    process: asyncio.subprocess.Process
    size: int
    asking: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def ask(self, **question: str) -> Any:
        """One question, one answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        async with self.asking:
            self.process.stdin.write(json.dumps(question).encode() + b"\n")
            return json.loads(await self.process.stdout.readline())

    async def totals(self) -> dict[str, Any]:
        """Over all of them: messages, resources and bytes received, and when the last came."""
        return dict(await self.ask())

    async def arrivals(self, name: str, version: str) -> list[float]:
        """When (time.monotonic) this version of a resource came to each that has had it."""
        return list(await self.ask(name=name, version=version))

    async def have(self, name: str, version: str, *, within: float = 60.0) -> list[float]:
        """The same, once all of them have had it."""

        async def all_have() -> list[float]:
            times = await self.arrivals(name, version)
            return times if len(times) == self.size else []

        return list(await until(all_have, within=within))

    async def have_all(self, services: int) -> None:
        """Until each has received as much as so many services are, from nothing."""

        async def received() -> bool:
            return int((await self.totals())["resources"]) >= self.size * 2 * services

        await until(received, within=120)


@asynccontextmanager
async def crowd(port: int, name: str, who: list[Path], size: int) -> AsyncIterator[Crowd]:
    """Run so many proxies against a router whose certificate has this DNS name, with the identities of these sockets in turn."""
    pems = [await Pems.fetch(socket) for socket in who]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.support.crowd", str(port), name, str(size)), stdin=pipe, stdout=pipe, limit=2**24
    )
    assert process.stdin is not None
    shown = [[each.key.decode(), each.chain.decode(), each.roots.decode()] for each in pems]
    process.stdin.write(json.dumps(shown).encode() + b"\n")
    try:
        yield Crowd(process=process, size=size)
    finally:
        process.kill()
        await process.wait()


async def _main(port: str, name: str, size: str) -> None:
    reader = asyncio.StreamReader(limit=2**24)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    identities = [
        Pems(key=k.encode(), chain=c.encode(), roots=r.encode()) for k, c, r in json.loads(await reader.readline())
    ]
    proxies = [Simulated(base_pb2.Node(id=f"simulated-{number}")) for number in range(int(size))]
    async with asyncio.TaskGroup() as tasks:
        for number, proxy in enumerate(proxies):
            tasks.create_task(proxy.run(f"127.0.0.1:{port}", name, identities[number % len(identities)]))
        while line := await reader.readline():
            print(json.dumps(_answer(proxies, json.loads(line))), flush=True)


def _answer(proxies: list[Simulated], question: dict[str, str]) -> Any:
    if question:
        key = question["name"], question["version"]
        return [proxy.arrived[key] for proxy in proxies if key in proxy.arrived]
    totals = {name: sum(getattr(each, name) for each in proxies) for name in ("messages", "resources", "received")}
    return totals | {"last": max(each.last for each in proxies)}


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
