"""Third-party workloads as child processes, and the trust domain that serves them."""

import asyncio
import base64
import json
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509

from meshca.client import connect
from meshca.clock import SystemClock
from meshca.demo.server import Server, running_server
from meshca.proto import admin_pb2 as pb
from spiffe import Bundle, BundleSet, SpiffeID, TrustDomain, verify
from tests.support.wait import until

TRUST_DOMAIN = TrustDomain("interop.test")
HEADER = ("workload.spiffe.io", "true")
SOCKETS = [f"w{number}" for number in range(40)]
ANSWER_SECONDS = 30

CODES = {code.value[0]: code for code in grpc.StatusCode}


def spiffe_id(path: str) -> str:
    """That path in our trust domain."""
    return str(SpiffeID(trust_domain=TRUST_DOMAIN, path=path))


class Refused(Exception):  # noqa: N818 - what happened
    """The driver's library raised. `kind` is the name of its exception, `code` the gRPC status that it came from."""

    def __init__(self, kind: str, text: str, code: int | None) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind, self.text, self.code = kind, text, CODES.get(code)


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """What a client holds: chains by SPIFFE ID in their order, and authorities by trust domain."""

    chains: dict[str, list[x509.Certificate]]
    authorities: dict[str, set[x509.Certificate]]

    @classmethod
    def of(cls, shown: dict[str, Any]) -> "Material":
        """Read what a driver has shown."""
        return cls(
            chains={each["spiffe_id"]: list(map(certificate, each["chain"])) for each in shown["svids"]},
            authorities={name: set(map(certificate, each)) for name, each in shown["bundles"].items()},
        )

    @property
    def serials(self) -> set[int]:
        """Those of the leaves."""
        return {chain[0].serial_number for chain in self.chains.values()}

    def verify(self) -> None:
        """Check by our own verifier that each chain proves its ID by the bundle of its trust domain. Raises VerificationFailed."""
        bundles = BundleSet(
            Bundle(trust_domain=TrustDomain(name), x509_authorities=tuple(found))
            for name, found in self.authorities.items()
        )
        for name, chain in self.chains.items():
            assert verify(chain, bundles, SystemClock().now()) == SpiffeID.parse(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A process that does what a line says. Its library finds the endpoint by SPIFFE_ENDPOINT_SOCKET."""

    process: asyncio.subprocess.Process

    async def do(self, command: str, **arguments: object) -> Any:
        """Make it do something; return what that gave. Raises Refused."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"do": command, **arguments}).encode() + b"\n")
        line = await asyncio.wait_for(self.process.stdout.readline(), ANSWER_SECONDS)
        answer = json.loads(line)
        if "error" in answer:
            raise Refused(**answer["error"])
        return answer["is"]

    async def fetch(self) -> Material:
        """Fetch once. Raises Refused."""
        return Material.of(await self.do("fetch"))

    async def open(self) -> None:
        """Keep a source, which has an SVID already."""
        await self.do("open")
        assert await self.do("opened", patience=ANSWER_SECONDS / 2)

    async def held(self, *trust_domains: str) -> Material:
        """What the source holds: the default SVID and these bundles, by default the own one."""
        return Material.of(await self.do("held", trust_domains=trust_domains or [TRUST_DOMAIN.name]))

    async def moved_on(self, before: Material) -> Material:
        """What the source holds when a rotation has reached it: no leaf from before, and one root."""

        async def moved() -> Material | None:
            now = await self.held()
            is_over = not now.serials & before.serials and len(now.authorities[TRUST_DOMAIN.name]) == 1
            return now if is_over else None

        return await until(moved)

    async def stream(self, method: str, *metadata: tuple[str, str]) -> int:
        """Open a raw stream; return its number."""
        return await self.do("stream", method=method, metadata=metadata)

    async def messages(self, stream: int) -> list[dict[str, Any]]:
        """All messages of a raw stream so far, at least one."""

        async def seen() -> list[dict[str, Any]]:
            return (await self.do("streamed", number=stream))["messages"]

        return await until(seen)

    async def ending(self, stream: int) -> tuple[grpc.StatusCode, str]:
        """How a raw stream ended."""

        async def ended() -> dict[str, Any] | None:
            seen = await self.do("streamed", number=stream)
            return seen if seen["code"] is not None else None

        seen = await until(ended)
        return CODES[seen["code"]], seen["text"]


@dataclass(slots=True, kw_only=True)
class Domain:
    """A running server. Each test takes sockets that nobody has used."""

    server: Server
    free: Iterator[str] = field(default_factory=lambda: iter(SOCKETS))

    async def register(self, socket: str, path: str, **fields: Any) -> str:
        """Say that whoever dials this socket is that path in our trust domain; return the entry's id."""
        entry = pb.Entry(spiffe_id=spiffe_id(path), selectors=[f"socket:{socket}"], **fields)
        return (await self.do("entries", "Create", pb.CreateEntryRequest(entry=entry))).id

    async def socket(self, path: str, **fields: Any) -> str:
        """A fresh socket with one entry."""
        socket = next(self.free)
        await self.register(socket, path, **fields)
        return socket

    async def rotate(self, kind: str) -> None:
        """Replace the authority of that kind, to the end."""
        async with connect(self.server.admin_socket) as client:
            steps = [progress.step async for progress in client.authorities.Rotate(pb.KindRequest(kind=kind))]
        assert steps[-1] == "done"

    async def do(self, service: str, call: str, request: Any) -> Any:
        """Make one call of the admin API. Raises CallFailed."""
        async with connect(self.server.admin_socket) as client:
            return await getattr(getattr(client, service), call)(request)


@asynccontextmanager
async def running_domain(directory: Path) -> AsyncIterator[Domain]:
    """A server in this directory until the end of the context."""
    async with running_server(directory, SOCKETS, trust_domain=TRUST_DOMAIN.name) as server:
        yield Domain(server=server)


@asynccontextmanager
async def running_peer(command: Sequence[str], socket: Path) -> AsyncIterator[Peer]:
    """A workload that runs this driver and dials that socket."""
    environment = {"PATH": os.environ["PATH"], "SPIFFE_ENDPOINT_SOCKET": f"unix://{socket}"}
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, env=environment, stdin=pipe, stdout=pipe, limit=1 << 20)
    try:
        yield Peer(process=process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def certificate(text: str) -> x509.Certificate:
    """A certificate from base64 of DER."""
    return x509.load_der_x509_certificate(base64.b64decode(text))
