"""Whatever is wrong from outside gets an answer that names it, and the server goes on with what is right.

Oversized messages on workload sockets: tests/sds/test_listen.py. Unknown names and stale nonces:
tests/sds/test_sds_api.py and test_xds_session.py.
Malformed bundles and configurations, row by row: tests/spiffe/test_bundle_json.py, tests/meshca/test_config.py.
"""

import asyncio
import json
import os
import resource
import shutil
import socket
import sqlite3
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from meshca.adapters.store_sql import SqlStore
from meshca.client import AdminClient, CallFailed, connect
from meshca.csr import make_csr
from meshca.demo.server import Server, register, running_server
from meshca.proto import admin_pb2 as pb
from tests.support.children import NOBODY
from tests.support.command import NO_HTTP, meshca
from tests.support.pki import CA
from tests.support.wait import until
from tests.support.witness import witness

SETTINGS = """\
trust_domain = "mesh.local"
data_dir = "{directory}/disk/data"
admin_socket = "{directory}/admin.sock"

[http]
enabled = false

[authority]
settle = "50ms"
tick = "20ms"
"""
ROOT = CA.create("mesh.local").certificate.public_bytes(Encoding.DER)
CSR = make_csr(ec.generate_private_key(ec.SECP256R1()))
Call = Callable[[AdminClient], Awaitable[Any]]


def create(**fields: Any) -> Call:
    entry = pb.Entry(**{"spiffe_id": "spiffe://mesh.local/x", "selectors": ["unix:uid:0"]} | fields)
    return lambda server: server.entries.Create(pb.CreateEntryRequest(entry=entry))


def mint(**fields: Any) -> Call:
    request = pb.MintRequest(**{"spiffe_id": "spiffe://mesh.local/x", "csr": CSR} | fields)
    return lambda server: server.svids.Mint(request)


def bundle(**fields: Any) -> Call:
    return lambda server: server.bundles.Set(pb.Bundle(**{"trust_domain": "partner.example", "sequence": -1} | fields))


INVALID, REFUSED = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION
CALLS = {
    "malformed ID": (create(spiffe_id="spiffe://mesh.local/a//b"), INVALID, "spiffe://mesh.local/a//b"),
    "ID without a path": (create(spiffe_id="spiffe://mesh.local"), INVALID, "spiffe://mesh.local"),
    "foreign ID": (create(spiffe_id="spiffe://other.example/x"), INVALID, "spiffe://other.example/x"),
    "reserved path": (create(spiffe_id="spiffe://mesh.local/meshca/x"), INVALID, "/meshca"),
    "selector without a value": (create(selectors=["unix"]), INVALID, "unix"),
    "selector that nobody can have": (create(selectors=["unix:uid:root"]), INVALID, "root"),
    "selector of no attestor": (create(selectors=["moon:phase:full"]), INVALID, "moon:phase:full"),
    "no selectors": (create(selectors=[]), INVALID, "selector"),
    "reserved name": (create(dns_names=["server.mesh.local.meshca.internal"]), INVALID, "meshca.internal"),
    "malformed DNS name": (create(dns_names=["-bad-.example"]), INVALID, "-bad-.example"),
    "unknown trust domain": (create(federates_with=["no.example"]), INVALID, "no.example"),
    "ttl too short": (create(ttl={"seconds": 1}), INVALID, "1s"),
    "ttl too long": (create(ttl={"seconds": 10**9}), INVALID, "ttl"),
    "malformed CSR": (mint(csr=b"no csr"), REFUSED, "CSR"),
    "CSR with a wrong signature": (mint(csr=CSR[:-1] + bytes([CSR[-1] ^ 1])), REFUSED, "CSR"),
    "mint of no ID": (mint(spiffe_id="https://mesh.local/x"), INVALID, "https://mesh.local/x"),
    "malformed bundle": (bundle(x509_authorities=[b"no certificate"]), INVALID, "partner.example"),
    "empty bundle": (bundle(), INVALID, "partner.example"),
    "bundle of our own": (bundle(trust_domain="mesh.local", x509_authorities=[ROOT]), REFUSED, "mesh.local"),
    "unknown kind": (lambda server: server.authorities.Prepare(pb.KindRequest(kind="trunk")), INVALID, "trunk"),
    "unknown authority": (
        lambda server: server.authorities.Taint(pb.AuthorityRequest(id="nobody")),
        grpc.StatusCode.NOT_FOUND,
        "nobody",
    ),
    "a limit that no answer can hold": (
        lambda server: server.audit.Find(pb.FindRequest(limit=10_001)),
        INVALID,
        "limit 10001",
    ),
    "malformed serial": (lambda server: server.audit.Find(pb.FindRequest(serial="xyz")), INVALID, "xyz"),
    "malformed head": (lambda server: server.audit.Verify(pb.VerifyAuditRequest(head="head")), INVALID, "head"),
    "an id of 100 KB": (create(id="x" * 100_000), INVALID, "id 'xxx"),
    "an id that paints": (create(id="\x1b[31mred"), INVALID, "id '\\x1b[31mred'"),
    "an unknown id of 100 KB": (
        lambda server: server.entries.Delete(pb.DeleteEntryRequest(id="y" * 100_000)),
        grpc.StatusCode.NOT_FOUND,
        "there is no entry 'yyy",
    ),
    "a source of 100 KB": (
        lambda server: server.entries.Apply(pb.ApplyEntriesRequest(source="z" * 100_000, prune=True)),
        INVALID,
        "source 'zzz",
    ),
    "oversized": (create(selectors=["unix:path:/" + "x" * 5_000_000]), grpc.StatusCode.RESOURCE_EXHAUSTED, ""),
}


async def test_what_can_not_be_is_refused_by_name_and_nothing_is_kept_of_it(tmp_path: Path):
    async with running_server(tmp_path, ["a"], settings=SETTINGS) as server, connect(server.admin_socket) as client:
        for name, (call, code, named) in CALLS.items():
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call(client)
            assert refused.value.code() is code, (name, refused.value)
            assert named in str(refused.value.details()), (name, refused.value)
        assert not (await client.entries.List(pb.ListEntriesRequest())).entries
        assert len((await client.bundles.List(pb.Empty())).bundles) == 1
        assert (await client.status.Status(pb.Empty())).ready
        assert "Traceback" not in server.log()

        told = [(each.kind, json.loads(each.body)) for each in await recorded(client)]
        wishes = [facts["operation"] for kind, facts in told if kind == "admin"]
        assert wishes == ["svid.mint", "svid.mint"], "of which the CSR was wrong, as the issuer has recorded"
        refusals = [facts for kind, facts in told if kind == "refused" and "operation" in facts]
        assert {each["operation"] for each in refusals} >= {"entry.create", "entry.delete", "entry.apply"}
        assert all(len(each["text"]) <= 300 and each["text"].isprintable() for each in refusals)
        assert all(each["uid"] == os.geteuid() and "wish" not in each for each in refusals)


async def recorded(client: AdminClient) -> list[pb.AuditRecord]:
    """The whole record, newest first."""
    return list((await client.audit.Find(pb.FindRequest(limit=1000))).records)


async def test_a_wish_that_fails_when_it_is_carried_out_is_recorded_as_that(tmp_path: Path):
    async with running_server(tmp_path, ["a"], settings=SETTINGS) as server, connect(server.admin_socket) as client:
        await create()(client)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await create()(client)
        failed, wish = (await recorded(client))[:2]
        assert (failed.kind, wish.kind) == ("refused", "admin")
        told, asked = json.loads(failed.body), json.loads(wish.body)
        assert told.pop("text") == str(refused.value.details())
        assert told.pop("wish") == wish.sequence
        assert told.items() <= asked.items(), "the same operation, uid and pid"


async def test_callers_that_hang_up_leave_memory_and_store_in_agreement(tmp_path: Path):
    async with running_server(tmp_path, ["a"], settings=SETTINGS) as server, connect(server.admin_socket) as client:

        async def hang_up(number: int) -> None:
            request = pb.Entry(spiffe_id=f"spiffe://mesh.local/{number}", selectors=["unix:uid:0"])
            call = client.entries.Create(pb.CreateEntryRequest(entry=request))
            await asyncio.sleep(number * 0.0004)  # the moment is the subject here
            call.cancel()

        for number in range(40):
            await hang_up(number)
        await register(client, "spiffe://mesh.local/last", "unix:uid:0")
        told = {each.id for each in (await client.entries.List(pb.ListEntriesRequest())).entries}
        async with SqlStore.open(f"sqlite:///{tmp_path}/disk/data/store.db") as store:
            assert {each.id for each in await store.entries.entries()} == told


def newer(directory: Path) -> None:
    with closing(sqlite3.connect(directory / "store.db")) as store, store:
        store.execute("UPDATE alembic_version SET version_num = '9999'")


def no_database(directory: Path) -> None:
    (directory / "store.db").write_bytes(b"this is no database, and long enough to be looked at " * 100)


def foreign(directory: Path) -> None:
    shutil.chown(directory, NOBODY)


def open_key(directory: Path) -> None:
    next((directory / "keys").iterdir()).chmod(0o640)


WRONG_PLACES = [
    pytest.param(newer, "has revision 9999, but this version of meshca knows only", id="a store from a newer version"),
    pytest.param(no_database, "store.db can not be used: it is no SQLite database", id="a store that is none"),
    pytest.param(
        lambda directory: directory.chmod(0o750), "has mode 0750 and is open to others: chmod 0700", id="open"
    ),
    pytest.param(open_key, "has mode 0640 and is open to others: chmod 0600", id="a key that others may read"),
    pytest.param(foreign, f"belongs to uid {NOBODY}", id="of somebody else"),
]


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a server that has ended left behind."""
    directory = tmp_path_factory.mktemp("left")

    async def live() -> None:
        async with running_server(directory, ["a"], settings=SETTINGS):
            pass

    asyncio.run(live())
    return directory / "disk/data"


@pytest.mark.parametrize(("spoil", "told"), WRONG_PLACES)
async def test_a_data_directory_that_is_not_right_is_refused_by_name_and_left_alone(
    tmp_path: Path, left: Path, spoil: Callable[[Path], None], told: str
):
    directory = tmp_path / "data"
    await asyncio.to_thread(shutil.copytree, left, directory)
    spoil(directory)
    before = (directory / "store.db").read_bytes()
    ended = await meshca(*up(tmp_path))
    assert ended.code == 1
    assert ended.err.startswith("error: ")
    assert str(directory) in ended.err
    assert told in ended.err
    assert (directory / "store.db").read_bytes() == before
    assert not (tmp_path / "admin.sock").exists()


def names(directory: Path) -> list[str]:
    return sorted(each.name for each in directory.iterdir())


def up(directory: Path, workload: object = None) -> list[object]:
    """A command line that starts a server in a directory."""
    workload = workload or directory / "w.sock"
    sockets = ["--admin-socket", directory / "admin.sock", "--socket", f"w={workload}"]
    return ["up", "--config", NO_HTTP, "--data-dir", directory / "data", *sockets]


async def test_a_read_only_data_directory_is_named(tmp_path: Path):
    (tmp_path / "data").mkdir(mode=0o700)
    with read_only(tmp_path / "data"):
        ended = await meshca(*up(tmp_path))
    assert ended.code == 1
    assert f"data directory {tmp_path}/data cannot be written: Read-only file system" in ended.err


@contextmanager
def read_only(directory: Path) -> Iterator[None]:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "ro,mode=0700", "tmpfs", directory], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("only root with CAP_SYS_ADMIN can mount a disk")
    try:
        yield
    finally:
        subprocess.run(["umount", directory], check=True)


async def test_a_socket_path_that_is_too_long_or_taken_is_named_and_what_is_there_is_left_alone(tmp_path: Path):
    long = tmp_path / ("x" * 100)
    ended = await meshca(*up(tmp_path, long))
    assert ended.code == 2, "it is the configuration that is wrong"
    assert str(long) in ended.err
    assert "107" in ended.err

    taken = tmp_path / "taken.sock"
    taken.write_text("mine\n")
    ended = await meshca(*up(tmp_path, taken))
    assert ended.code == 1
    assert f"socket {taken} cannot be opened: something that is not a socket is there" in ended.err
    assert taken.read_text() == "mine\n"
    assert names(tmp_path / "data") == ["lock"], "no store and no key yet: the trust domain is not bound"

    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        file = tmp_path / "meshca.toml"
        file.write_text(f"[http]\nport = {port}\n")
        ended = await meshca(
            *up(tmp_path, taken), "--socket", f"v={file}/v", "--socket=u=/u,group=nogr", "--config", file
        )
    assert ended.code == 1
    for told in (
        f"socket {taken} cannot",
        f"socket {file}/v cannot",
        "no group 'nogr'",
        f"port {port}: Address already",
    ):
        assert told in ended.err, "all that is wrong at once"
    assert names(tmp_path / "data") == ["lock"]

    ended = await meshca(*up(tmp_path), "--socket", "w", "--socket", "x=/x,size=1", "--socket", f"w={taken}")
    assert ended.code == 2
    for told in ("'w' is not written NAME=PATH", "'size=1' is not one", "the name 'w' is given twice"):
        assert told in ended.err


async def test_the_socket_of_a_live_server_is_refused_and_one_that_a_kill_left_behind_is_replaced(tmp_path: Path):
    async with running_server(tmp_path / "one", ["a"], settings=SETTINGS) as server:
        taken = server.sockets["a"]
        ended = await meshca(*up(tmp_path, taken))
        assert ended.code == 1
        assert f"socket {taken} cannot be opened: a running server listens there" in ended.err
        async with connect(server.admin_socket) as client:
            assert (await client.status.Status(pb.Empty())).ready
        await server.kill()
        assert taken.is_socket()
        await server.start()
        with socket.socket(socket.AF_UNIX) as dialled:
            dialled.connect(str(taken))


@contextmanager
def disk_of_one_megabyte(directory: Path) -> Iterator[None]:
    directory.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", directory], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("only root with CAP_SYS_ADMIN can mount a disk")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)


@contextmanager
def full(directory: Path) -> Iterator[None]:
    """No byte of room is left while this lasts."""
    ballast = directory / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            pass
    try:
        yield
    finally:
        ballast.unlink()


@contextmanager
def files_that_may_not_grow(server: Server) -> Iterator[None]:
    """What a disk with a quota does, as everybody can have it."""
    size = (server.directory / "disk/data/store.db-wal").stat().st_size
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


async def refused_for_the_disk(client: AdminClient) -> None:
    """Ask until there is no room for the answer: it must be the record that fails, by name."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:  # noqa: PT012 - until it raises
        while True:
            await mint()(client)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "store.db can not be used: the disk" in str(refused.value.details())


@pytest.mark.parametrize("how", ["no room", "no growth"])
async def test_on_a_full_disk_nothing_is_signed_what_is_valid_is_served_and_it_recovers_by_itself(
    tmp_path: Path, how: str
):
    async with AsyncExitStack() as stack:
        disk = tmp_path / "disk"
        if how == "no room":
            stack.enter_context(disk_of_one_megabyte(disk))
        server = await stack.enter_async_context(running_server(tmp_path, ["a"], settings=SETTINGS))
        client = await stack.enter_async_context(connect(server.admin_socket))
        await register(client, "spiffe://mesh.local/a", "socket:a")
        workload = await stack.enter_async_context(witness(server.sockets["a"]))
        keys = set((disk / "data/keys").iterdir())

        with full(disk) if how == "no room" else files_that_may_not_grow(server):
            await refused_for_the_disk(client)
            for kind in ("intermediate", "root"):
                with pytest.raises(grpc.aio.AioRpcError, match="the disk"):
                    await client.authorities.Prepare(pb.KindRequest(kind=kind))
            status = await client.status.Status(pb.Empty())
            assert any("nothing can be recorded, so nothing is signed" in alarm for alarm in status.alarms)
            assert (status.ready, "the disk" in status.checks[0].text) == (False, True), "at once, and not by and by"
            async with witness(server.sockets["a"]) as late:
                assert late.svid.chain == workload.svid.chain, "what is valid is served"
            head = status.audit_head
        await mint()(client)
        assert not (await client.status.Status(pb.Empty())).alarms
        await client.audit.Verify(pb.VerifyAuditRequest(head=head))
        assert set((disk / "data/keys").iterdir()) == keys, "no key without an authority"
        await client.authorities.Prepare(pb.KindRequest(kind="root"))

        await server.kill()
        await server.start()
        async with connect(server.admin_socket) as after:
            await after.audit.Verify(pb.VerifyAuditRequest(head=head))
        await until(
            lambda: len(workload.contexts[-1].bundles[workload.svid.spiffe_id.trust_domain].x509_authorities) == 2
        )
        assert workload.denials == []


async def test_no_server_is_said_in_words(tmp_path: Path):
    with pytest.raises(CallFailed, match="start it with `meshca up`"):
        async with connect(str(tmp_path / "admin.sock")):
            pass
