"""Transparent capture, as its users have it: an application that knows of no proxy, nftables rules, real Envoys, two hosts and a cable.

Each host is a network namespace of the test's own.
"""

import asyncio
import ssl
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import pytest
import pytest_asyncio

from meshca.bootstrap import BootstrapSpec, RouterLink, Transparent
from meshca.cli.exits import Exit
from meshca.client import connect
from meshca.demo.envoys import Envoy
from meshca.demo.server import Server, register, running_server
from tests.support.netns import ENVOY_UID, Namespace, join, namespace, running, running_envoy, unavailable
from tests.support.routed import FRONTEND, ROUTER, TRUST_DOMAIN
from tests.support.wait import until

REASON = unavailable()
pytestmark = [
    pytest.mark.envoy,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(bool(REASON), reason=REASON),
]

CALLEE, VIP, DB_VIP = "10.77.0.2", "10.99.0.1", "10.99.0.2"
ANSWER_SECONDS = 20
SERVICES = f"""\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: api-server}}
spec:
  hosts: [api-server]
  addresses: ["{VIP}", "fd99::1"]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{{number: 80, name: http, protocol: HTTP}}]
  workloadSelector: {{labels: {{app: api}}}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: db}}
spec:
  hosts: [db]
  addresses: ["{DB_VIP}"]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{{number: 5432, name: tcp, protocol: TCP}}]
  workloadSelector: {{labels: {{app: api}}}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: outside}}
spec:
  hosts: [outside.example]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{{number: 443, name: https, protocol: HTTPS}}]
  endpoints: [{{address: 127.0.0.1, ports: {{https: 9443}}}}]
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: api}}
spec: {{address: {CALLEE}, ports: {{http: 8443, tcp: 5432}}, labels: {{app: api}}, serviceAccount: api}}
"""
PERMISSIVE = """\
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: open}
spec: {mtls: {mode: PERMISSIVE}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hosts:
    """Two hosts: the frontend's and that of api-server and db, each with its Envoy."""

    server: Server
    caller: Namespace
    callee: Namespace
    config: Path
    envoys: dict[str, Envoy]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hosts(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Hosts]:
    directory = tmp_path_factory.mktemp("capture")
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(running_server(directory, ["frontend", "api", "router"]))
        async with connect(server.admin_socket) as client:
            await register(client, str(ROUTER), "socket:router")
            await register(client, str(FRONTEND), "socket:frontend")
            await register(client, f"spiffe://{TRUST_DOMAIN}/ns/default/sa/api", "socket:api")
        caller, callee = namespace(), namespace()
        join(caller, callee)
        config = directory / "config"
        config.mkdir()
        (config / "services.yaml").write_text(SERVICES)
        await stack.enter_async_context(applications(callee))
        await stack.enter_async_context(tls_names(caller, 9443))
        router = ["--config-dir", config, "--listen", f"{CALLEE}:15010", "--socket", server.sockets["router"]]
        await stack.enter_async_context(
            running(callee, "router", "run", *router, "--status-socket", directory / "status.sock")
        )
        envoys = {}
        for name, where in (("api", callee), ("frontend", caller)):
            spec = sidecar(server, name, app_ports={8443: 8080} if name == "api" else {})
            envoys[name] = await stack.enter_async_context(running_envoy(where, name, spec, directory / name))
        yield Hosts(server=server, caller=caller, callee=callee, config=config, envoys=envoys)


def sidecar(
    server: Server,
    name: str,
    *,
    app_ports: Mapping[int, int] = MappingProxyType({}),
    number: int = 0,
    passes_unknown: bool = False,
) -> BootstrapSpec:
    """The bootstrap of one sidecar, as `meshca envoy bootstrap --transparent` prints it. `number` is added to its ports."""
    link = RouterLink(
        host=CALLEE,
        port=15010,
        identity=ROUTER,
        app_ports=app_ports,
        outbound_port=15001 + number,
        transparent=Transparent(inbound_port=15006 + number, passes_unknown=passes_unknown),
    )
    return BootstrapSpec(
        node_id=name,
        node_cluster="test",
        sds_socket=str(server.sockets[name]),
        admin_port=9901 + number,
        delta=True,
        router=link,
    )


@asynccontextmanager
async def applications(where: Namespace) -> AsyncIterator[None]:
    """On 80, 8080 and 9000 HTTP that tells who it takes its caller for; on 5432 and 9001 a server that speaks first."""

    async def tell(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := (await reader.readuntil(b"\r\n\r\n")).decode().lower():
                who = head.partition("x-forwarded-client-cert: ")[2].partition("\r\n")[0].encode() or b"nobody"
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(who), who))
        except (EOFError, OSError):
            writer.close()

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello\n")
        await reader.read()
        writer.close()

    async with AsyncExitStack() as stack:
        for port, serve in ((80, tell), (8080, tell), (9000, tell), (5432, greet), (9001, greet)):
            server = await asyncio.start_server(serve, sock=where.listening(port))
            await stack.enter_async_context(server)
        yield


@asynccontextmanager
async def tls_names(where: Namespace, port: int) -> AsyncIterator[None]:
    """Stands for a TLS server outside: answers a ClientHello with its own bytes."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while content := await reader.read(65536):
            writer.write(content)
        writer.close()

    async with await asyncio.start_server(echo, sock=where.listening(port, "127.0.0.1")):
        yield


def capture(where: Namespace, *options: str) -> None:
    """`meshca capture`, as an administrator runs it there."""
    where.run(sys.executable, "-m", "meshca", "capture", *options)


async def ask(where: Namespace, address: str, port: int = 80, host: str = "api-server") -> str:
    """What a plain HTTP call is answered: status and body. Empty where there is no answer."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS), where.dialled(address, port) as (reader, writer):
            writer.write(f"GET / HTTP/1.1\r\nhost: {host}\r\n\r\n".encode())
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = head.partition("content-length: ")[2].partition("\r\n")[0]
            return f"{head.split(' ')[1]} {(await reader.readexactly(int(length))).decode()}"
    except (EOFError, ConnectionError):
        return ""


async def hello(where: Namespace, name: str) -> bytes:
    """The first byte of what is answered to a TLS client that asks an address nobody has for this name."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return (await greeted(where, "203.0.113.9", 443, say=outgoing.read()))[:1]


async def greeted(where: Namespace, address: str, port: int, *, say: bytes = b"") -> bytes:
    """What a server says first; nothing if the connection is closed. The client says as much as it is told to."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS), where.dialled(address, port) as (reader, writer):
            writer.write(say)
            return await reader.read(6)
    except ConnectionError:
        return b""


OURS = f"uri={FRONTEND}"
CALLER_RULES, CALLEE_RULES = [f"--envoy-uid={ENVOY_UID}"], [f"--envoy-uid={ENVOY_UID}", "--app=8443=8080", "--app=5432"]


async def test_what_an_application_calls_by_name_or_address_arrives_with_its_identity(hosts: Hosts):
    capture(hosts.caller, *CALLER_RULES, "--apply")
    capture(hosts.callee, *CALLEE_RULES, "--apply")
    for address, host in ((VIP, "api-server"), ("fd99::1", "api-server"), (VIP, VIP), ("fd99::1", "[fd99::1]")):
        answer = await ask(hosts.caller, address, host=host)
        assert answer.startswith("200 by=spiffe://mesh.local/ns/default/sa/api;"), (address, host)
        assert answer.endswith(OURS)


async def test_a_tcp_service_is_found_by_its_address_and_by_its_endpoints_also_if_it_speaks_first(hosts: Hosts):
    before = await handshakes(hosts)
    assert await greeted(hosts.caller, DB_VIP, 5432) == b"hello\n"
    assert await greeted(hosts.caller, CALLEE, 5432) == b"hello\n"
    assert await handshakes(hosts) == before + 2


async def test_a_tls_service_is_found_by_the_name_that_is_asked_for_wherever_it_is(hosts: Hosts):
    assert await hello(hosts.caller, "outside.example") == b"\x16"
    assert await hello(hosts.caller, "elsewhere.example") == b""


async def test_what_the_mesh_does_not_know_is_refused(hosts: Hosts):
    assert (await ask(hosts.caller, VIP, host="elsewhere.example")).startswith("502 no such service")
    assert await ask(hosts.caller, CALLEE, 9000) == ""
    assert await greeted(hosts.caller, CALLEE, 9001) == b""


async def test_what_is_excluded_goes_its_own_way(hosts: Hosts):
    capture(hosts.caller, *CALLER_RULES, "--exclude-port=9001", "--apply")
    assert await greeted(hosts.caller, CALLEE, 9001) == b"hello\n"
    assert await ask(hosts.caller, CALLEE, 9000) == ""
    capture(hosts.caller, *CALLER_RULES, f"--exclude-cidr={CALLEE}/31", "--apply")
    assert await ask(hosts.caller, CALLEE, 9000) == "200 nobody"
    assert (await ask(hosts.caller, VIP)).endswith(OURS)
    assert hosts.caller.run("nft", "list", "tables").stdout == "table inet meshca\n"


async def test_what_the_mesh_does_not_know_is_passed_on_only_where_that_was_asked_for(hosts: Hosts):
    spec = sidecar(hosts.server, "frontend", number=1, passes_unknown=True)
    async with running_envoy(hosts.caller, "passing", spec, hosts.config.parent / "passing") as envoy:
        capture(hosts.caller, *CALLER_RULES, "--outbound-port=15002", "--apply")
        assert (await ask(hosts.caller, VIP)).endswith(OURS)
        assert await greeted(hosts.caller, CALLEE, 9001) == b"hello\n"
        assert await ask(hosts.caller, CALLEE, 9000) == "200 nobody"
        assert await ask(hosts.caller, CALLEE, 80, host="elsewhere.example") == "200 nobody"
        before = await envoy.stats("PassthroughCluster.upstream_cx_total")
        assert await ask(hosts.caller, "127.0.0.1", 15002, host="elsewhere.example") == ""  # it must not go in circles
        assert await envoy.stats("PassthroughCluster.upstream_cx_total") == before
    capture(hosts.caller, *CALLER_RULES, "--apply")


async def test_plaintext_to_the_applications_port_is_refused_unless_it_is_allowed(hosts: Hosts):
    capture(hosts.caller, "--remove")
    ports = ((CALLEE, 8080), ("fd77::2", 8080))
    assert [await ask(hosts.caller, *each) for each in ports] == ["", ""]
    assert (await greeted(hosts.caller, CALLEE, 5432, say=b"first\n"))[:1] == b"\x15"  # a TLS alert
    (hosts.config / "open.yaml").write_text(PERMISSIVE)
    await until(lambda: came_in(hosts, "200 nobody"))
    assert await greeted(hosts.caller, CALLEE, 5432, say=b"first\n") == b"hello\n"
    (hosts.config / "open.yaml").unlink()
    await until(lambda: came_in(hosts, ""))


async def test_who_may_not_change_rules_is_told_what_is_missing(hosts: Hosts):
    command = [sys.executable, "-m", "meshca", "capture", *CALLER_RULES, "--apply"]
    found = hosts.caller.run("setpriv", "--bounding-set=-net_admin", *command, check=False)
    assert (found.returncode, "it needs CAP_NET_ADMIN" in found.stderr) == (Exit.NOT_ALLOWED, True)


async def test_without_the_rules_all_is_as_it_was(hosts: Hosts):
    for host in (hosts.caller, hosts.callee):
        capture(host, "--remove")
        capture(host, "--remove")
        assert host.run("nft", "list", "tables").stdout == ""
    assert await ask(hosts.caller, CALLEE, 8080) == "200 nobody"
    assert await greeted(hosts.caller, CALLEE, 5432) == b"hello\n"


async def came_in(hosts: Hosts, answer: str) -> bool:
    return await ask(hosts.caller, CALLEE, 8080) == answer


async def handshakes(hosts: Hosts) -> int:
    return sum((await hosts.envoys["frontend"].stats(r"5432..db\.ssl\.handshake$")).values())
