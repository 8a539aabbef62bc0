"""The server as a process: it starts, says so, reloads, mends itself, ends, and starts again."""

import asyncio
import base64
import json
import os
import re
import shutil
import signal
import socket
import stat
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

import aiohttp
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from meshca.client import AdminClient, connect
from meshca.clock import SystemClock
from meshca.csr import make_csr
from meshca.demo.server import Server, register, running_server
from meshca.errors import CannotStart
from meshca.proto import admin_pb2 as pb
from sds.endpoint import Endpoint
from sds.workload_client import WorkloadClient
from spiffe.x509svid import X509SVID
from spiffe.x509verify import verify
from tests.support.children import TREE, python
from tests.support.command import meshca
from tests.support.wait import until
from tests.support.witness import witness

SETTINGS = """\
trust_domain = "mesh.local"
data_dir = "{directory}/data"
admin_socket = "{directory}/admin.sock"

[http]
port = 0

[log]
format = "json"
level = "debug"

[authority]
settle = "50ms"
tick = "20ms"
"""
CSR = make_csr(ec.generate_private_key(ec.SECP256R1()))
METRICS = {
    "meshca_svids_issued_total",
    "meshca_issuance_stage_seconds_bucket",
    "meshca_earliest_expiry_timestamp_seconds",
    "meshca_authorities",
    "meshca_streams_open",
    "meshca_pushes_total",
    "meshca_acks_total",
    "meshca_nacks_total",
    "meshca_delivery_latency_seconds_bucket",
    "meshca_ready",
    "meshca_alarms",
    "meshca_holders_behind",
    "meshca_audit_head_sequence",
}


def events(server: Server, event: str) -> list[dict[str, object]]:
    """What was logged under this name."""
    lines = [json.loads(line) for line in server.log().splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == event]


def configure(server: Server, *changes: tuple[str, str]) -> None:
    """Change the configuration of a server that runs, and send SIGHUP."""
    file = server.directory / "meshca.toml"
    text = file.read_text()
    for before, after in changes:
        assert before in text
        text = text.replace(before, after)
    file.write_text(text)
    os.kill(server.pid, signal.SIGHUP)


def key_files(server: Server) -> dict[str, Path]:
    return {path.name.removesuffix(".pem"): path for path in (server.directory / "data/keys").iterdir()}


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def mode_of(path: str) -> int:
    return stat.S_IMODE(Path(path).stat().st_mode)


def limits(server: Server) -> str:
    return Path(f"/proc/{server.pid}/limits").read_text()


async def active(client: AdminClient) -> dict[str, str]:
    """The ids of the active authorities by kind."""
    found = (await client.authorities.List(pb.Empty())).authorities
    return {each.kind: each.id for each in found if each.state == "active"}


async def fetch(server: Server) -> X509SVID:
    context = await WorkloadClient(Endpoint.at(server.sockets["a"])).fetch_x509()
    return context.identities[0].svid


async def test_it_says_where_everything_is_serves_it_and_leaves_nothing_behind_at_sigterm(tmp_path: Path):
    async with running_server(tmp_path, ["a"], settings=SETTINGS) as server:
        said = server.log()
        for line in (
            f"workloads     unix://{tmp_path}/a.sock (socket:a)",
            f"admin         unix://{tmp_path}/admin.sock",
        ):
            assert line in said
        assert "\nready\n" in said
        assert re.search(r"Max core file size +0 +0 ", limits(server))
        assert mode_of(server.admin_socket) == 0o600
        async with connect(server.admin_socket) as client:
            await register(client, "spiffe://mesh.local/a", "socket:a")
        await fetch(server)
        (listens,) = events(server, "http listens")
        async with aiohttp.ClientSession(f"http://127.0.0.1:{listens['port']}") as http:
            async with http.get("/live") as response:
                assert (response.status, await response.text()) == (200, "live\n")
            async with http.get("/ready") as response:
                assert response.status == 200
                assert (await response.json())["ready"] is True
            async with http.get("/metrics") as response:
                metrics = await response.text()
        assert set(re.findall(r"^(\w+)", metrics, re.MULTILINE)) >= METRICS
        assert "meshca_svids_issued_total 1.0" in metrics
        assert 'meshca_authorities{kind="root",state="active"} 1.0' in metrics

        await server.stop()
        (stopping,), (stopped,) = events(server, "stopping"), events(server, "stopped")
        assert str(stopping["time"]) <= str(stopped["time"])
        assert server.process is not None
        assert server.process.returncode == 0
        assert names(tmp_path) == ["data", "meshca.toml", "server.log"]
        await server.start()
        await fetch(server)
    assert server.process.returncode == 0


async def test_open_streams_do_not_hold_up_the_end_and_come_back_to_the_next_start(tmp_path: Path):
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(running_server(tmp_path, ["a"], settings=SETTINGS))
        async with connect(server.admin_socket) as client:
            await register(client, "spiffe://mesh.local/a", "socket:a")
            workload = await stack.enter_async_context(witness(server.sockets["a"]))
            watch = client.bundles.Watch(pb.BundleRequest())
            assert (await watch.read()).x509_authorities
            # A minted leaf reports nothing, so this rotation waits for as long as it lives.
            await client.svids.Mint(pb.MintRequest(spiffe_id="spiffe://mesh.local/m", csr=CSR))
            rotation = client.authorities.Rotate(pb.KindRequest(kind="root"))
            assert (await rotation.read()).step == "prepared"
            await server.stop()
        assert server.process is not None
        assert server.process.returncode == 0
        assert "Traceback" not in server.log()
        messages = len(workload.contexts)
        await server.start()
        await until(lambda: len(workload.contexts) > messages)
        async with connect(server.admin_socket) as client:
            assert [each.state for each in await roots(client)] == ["active", "prepared"]
        assert workload.denials == []


async def test_a_signal_before_it_is_ready_does_no_harm(tmp_path: Path):
    async with running_server(tmp_path, ["a"], settings=SETTINGS) as server:
        await server.stop()
        (tmp_path / "data/lock").unlink()
        starting = asyncio.create_task(server.start())
        await until((tmp_path / "data/lock").exists, every=0.001)
        os.kill(server.pid, signal.SIGHUP)
        await starting
        async with connect(server.admin_socket) as client:
            assert (await client.status.Status(pb.Empty())).ready


async def roots(client: AdminClient) -> list[pb.Authority]:
    return [each for each in (await client.authorities.List(pb.Empty())).authorities if each.kind == "root"]


async def test_no_private_key_is_in_the_most_talkative_log(tmp_path: Path):
    async with running_server(tmp_path, ["a"], settings=SETTINGS) as server:
        keys = {path.read_text() for path in key_files(server).values()}
        async with connect(server.admin_socket) as client:
            await register(client, "spiffe://mesh.local/a", "socket:a")
            await fetch(server)
            for kind in ("intermediate", "root"):
                await client.authorities.Prepare(pb.KindRequest(kind=kind))
                keys |= {path.read_text() for path in key_files(server).values()}
            leaf = await fetch(server)
        assert len(keys) == 4
        log = server.log()
        assert "PRIVATE KEY" not in log
        for pem in keys:
            (body,) = re.findall(r"-----\n(.*)\n-----", pem, re.DOTALL)
            assert not [line for line in body.splitlines() if line in log]
            number = load_pem_private_key(pem.encode(), None).private_numbers().private_value  # type: ignore[union-attr]
            secret = number.to_bytes(32, "big")
            assert not any(each in log for each in (secret.hex(), str(number), base64.b64encode(secret).decode()[:40]))
        assert leaf.private_key is not None


async def test_sighup_applies_what_it_can_says_what_it_can_not_and_a_wrong_file_changes_nothing(tmp_path: Path):
    async with running_server(tmp_path, ["a"], settings=SETTINGS) as server:
        assert {each["level"] for each in events(server, "admin call")} == {"debug"}, "only the status was asked for"
        configure(server, ('level = "debug"', 'level = "warnig"'))
        (refused,) = await until(lambda: events(server, "configuration not reloaded"))
        assert "warnig" in str(refused["reason"])

        configure(
            server,
            ('"warnig"', '"info"'),
            ('tick = "20ms"', 'tick = "30ms"'),
            ("[http]", "admin_uids = [12345]\n[http]"),
        )
        (done,) = await until(lambda: events(server, "configuration reloaded"))
        assert done["applied"] == ["admin_uids: [] -> [12345]", 'log.level: "debug" -> "info"']
        assert done["restart_needed"] == ['authority.tick: "20ms" -> "30ms"']

        configure(server, ('format = "json"', 'format = "console"'))
        await until(lambda: " configuration reloaded " in server.log())
        assert server.log().splitlines()[-1].startswith("20")

        assert mode_of(server.admin_socket) == 0o666, "who was added may dial now; the gate decides"


ADMIN = """
import asyncio, os, sys
import grpc
from meshca.client import connect
from meshca.proto import admin_pb2 as pb
os.chdir(sys.argv[1])
os.chmod(".", 0o711)
os.setgroups([]); os.setgid(12345); os.setuid(12345)
async def main():
    async with connect("admin.sock") as client:
        watch = client.bundles.Watch(pb.BundleRequest())
        await watch.read()
        print("in", flush=True)
        sys.stdin.readline()
        for call in (
            lambda: client.status.Status(pb.Empty()),
            lambda: client.bundles.Watch(pb.BundleRequest()).read(),
            lambda: client.authorities.Prepare(pb.KindRequest(kind="root")),
            watch.read,
        ):
            try:
                await call()
                print("done", flush=True)
            except grpc.aio.AioRpcError as error:
                print(error.code().name, error.details(), flush=True)
asyncio.run(main())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
async def test_an_administrator_who_is_removed_can_do_nothing_more_on_connections_that_are_open(tmp_path: Path):
    async with running_server(tmp_path, ["a"], settings="admin_uids = [12345]\n" + SETTINGS) as server:
        admin = await asyncio.create_subprocess_exec(*python(ADMIN, tmp_path), cwd=TREE, stdin=PIPE, stdout=PIPE)
        assert admin.stdin is not None
        assert admin.stdout is not None
        assert await admin.stdout.readline() == b"in\n"

        configure(server, ("admin_uids = [12345]", "admin_uids = []"))
        await until(lambda: events(server, "configuration reloaded"))
        admin.stdin.write(b"\n")
        refused = b"PERMISSION_DENIED uid 12345 may not administer: root, uid 0 and admin_uids may\n"
        for _ in range(3):
            assert await admin.stdout.readline() == refused
        async with connect(server.admin_socket) as client:
            await client.authorities.Prepare(pb.KindRequest(kind="root"))
        assert await admin.stdout.readline() == refused, "nor does it hear of what comes later"
        await admin.wait()


async def refusal(server: Server, *arguments: object) -> str:
    """What `meshca up` says when it does not start, with the server's configuration, its sockets and these flags."""
    sockets = [f"--socket={name}={path}" for name, path in server.sockets.items()]
    ended = await meshca("up", "--config", server.directory / "meshca.toml", *sockets, *arguments)
    assert ended.code == 1, ended
    return ended.err


async def test_a_second_server_another_trust_domain_and_a_new_store_beside_old_keys_are_refused(tmp_path: Path):
    async with running_server(tmp_path, ["a"], settings=SETTINGS) as server:
        assert f"another meshca server runs in {tmp_path}/data" in await refusal(server)
        async with connect(server.admin_socket) as client:
            assert (await client.status.Status(pb.Empty())).ready, "the first one goes on"
            before = await active(client)
        await server.stop()

        renamed = await refusal(server, "--trust-domain", "other.example")
        assert "the store is of trust domain mesh.local, the configuration says other.example" in renamed

        store = tmp_path / "data/store.db"
        away = store.rename(tmp_path / "store.db")
        assert "there are keys of authorities, but the store is new" in await refusal(server)
        assert set(key_files(server)) == set(before.values()), "the keys are kept"
        away.rename(store)

        await server.start()
        async with connect(server.admin_socket) as client:
            assert await active(client) == before


async def stopped(server: Server, key: Path) -> None:
    """The key goes while the server is down."""
    await server.stop()
    Path.unlink(key)
    await server.start()


async def running(_: Server, key: Path) -> None:
    """The key goes while the server runs."""
    Path.unlink(key)


async def spoilt(server: Server, key: Path) -> None:
    """The file is there, and holds no key."""
    await server.stop()
    os.truncate(key, 100)
    await server.start()


@pytest.mark.parametrize("kind", ["root", "intermediate"])
@pytest.mark.parametrize("lose", [stopped, running, spoilt])
async def test_a_key_that_is_lost_is_replaced_without_help_while_leaves_and_bundle_stay_good(
    tmp_path: Path, kind: str, lose: Callable[[Server, Path], Awaitable[None]]
):
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(running_server(tmp_path, ["a"], settings=SETTINGS))
        async with connect(server.admin_socket) as client:
            await register(client, "spiffe://mesh.local/a", "socket:a")
            lost = (await active(client))[kind]
        workload = await stack.enter_async_context(witness(server.sockets["a"]))
        first = workload.svid
        await lose(server, key_files(server)[lost])

        async def replaced() -> bool:
            async with connect(server.admin_socket) as client:
                found = await active(client)
                return len(found) == 2 and found[kind] != lost

        await until(replaced)
        published = 2 if kind == "root" else 1
        assert {each["authority"] for each in events(server, "the key of an authority is gone")} == {lost}
        # A lost key is no stolen key: leaves below it live out their time, and what proves them stays in the bundle.
        await until(
            lambda: len(workload.contexts[-1].bundles[first.spiffe_id.trust_domain].x509_authorities) == published
        )
        for svid in (first, workload.svid):
            verify(svid.chain, workload.contexts[-1].bundles, SystemClock().now())
        async with connect(server.admin_socket) as client:
            status = await client.status.Status(pb.Empty())
            assert (status.ready, list(status.alarms)) == (True, [])
            await client.audit.Verify(pb.VerifyAuditRequest())
        assert workload.denials == []


def moved_away(server: Server) -> None:
    """As when their disk is not mounted."""
    (server.directory / "data/keys").rename(server.directory / "away")


def put_back(server: Server) -> None:
    shutil.rmtree(server.directory / "data/keys", ignore_errors=True)
    (server.directory / "away").rename(server.directory / "data/keys")


def all_spoilt(server: Server) -> None:
    shutil.copytree(server.directory / "data/keys", server.directory / "away")
    for key in key_files(server).values():
        os.truncate(key, 100)


@pytest.mark.parametrize(
    ("lose", "reason"),
    [(moved_away, "there is no directory {keys}"), (all_spoilt, "key file {keys}/{key_id}.pem holds no private key")],
    ids=["moved away", "all spoilt"],
)
async def test_without_any_key_it_does_not_start_says_what_is_missing_and_goes_on_when_they_are_back(
    tmp_path: Path, lose: Callable[[Server], None], reason: str
):
    async with running_server(tmp_path, ["a"], settings=SETTINGS) as server:
        async with connect(server.admin_socket) as client:
            before = await active(client)
        await server.stop()
        lose(server)
        told = await refusal(server)
        assert "\nerror: no active authority has its key:\n" in told
        keys = tmp_path / "data/keys"
        for kind, key_id in before.items():
            assert f"{kind} {key_id}: {reason.format(keys=keys, key_id=key_id)}" in told
        assert keys.exists() is (lose is all_spoilt), "a start that is refused makes nothing"
        assert "Put the keys back" in told
        assert "meshca up --abandon-keys" in told

        put_back(server)
        await server.start()
        async with connect(server.admin_socket) as client:
            assert await active(client) == before


async def test_with_the_keys_abandoned_it_serves_but_is_ready_only_once_it_can_sign(tmp_path: Path):
    async with running_server(tmp_path, ["a"], settings=SETTINGS) as server:
        async with connect(server.admin_socket) as client:
            await client.svids.Mint(pb.MintRequest(spiffe_id="spiffe://mesh.local/m", csr=CSR))
        await server.stop()
        shutil.rmtree(tmp_path / "data/keys")
        flags = ["--abandon-keys", f"--config={tmp_path}/meshca.toml", f"--socket=a={tmp_path}/a.sock"]
        command = [sys.executable, "-m", "meshca", "up", *flags]
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as systemd:
            systemd.bind(str(tmp_path / "notify"))
            environ = os.environ | {"NOTIFY_SOCKET": str(tmp_path / "notify")}
            up = await asyncio.create_subprocess_exec(*command, env=environ, stdout=PIPE, stderr=DEVNULL)
            try:
                assert up.stdout is not None
                while not (said := (await up.stdout.readline()).decode()).startswith("not ready: "):
                    assert said not in {"", "ready\n"}
                assert "cannot sign: no intermediate is active" in said
                told = await asyncio.get_running_loop().sock_recv(systemd, 1000)
                assert told.startswith(b"EXTEND_TIMEOUT_USEC=60000000\nSTATUS=not ready: cannot sign")
                async with connect(server.admin_socket) as client:
                    status = await client.status.Status(pb.Empty())
                    assert not status.ready
                    assert [holder.name for holder in status.behind] == [f"mint/{os.geteuid()}"]
                    (prepared,) = [each for each in await roots(client) if each.state == "prepared"]
                    await client.authorities.Activate(pb.AuthorityRequest(id=prepared.id, force=True))
                assert await up.stdout.readline() == b"ready\n"
                while b"READY=1" not in told:
                    told = await asyncio.get_running_loop().sock_recv(systemd, 1000)
                up.terminate()
                assert await up.wait() == 0
            finally:
                if up.returncode is None:
                    up.kill()
                    await up.wait()
        await server.start()


async def test_what_may_connect_is_logged_at_start_and_there_is_an_alarm_while_connections_are_turned_away(
    tmp_path: Path,
):
    settings = SETTINGS + "[limits]\nconnections_per_uid = 2\n"
    async with running_server(tmp_path, ["a"], settings=settings) as server:
        (told,) = events(server, "connection limits")
        assert (told["per_uid"], told["configured_per_uid"]) == (2, 2)
        assert isinstance(told["all"], int)
        assert told["all"] > 2
        async with connect(server.admin_socket) as client:
            assert not (await client.status.Status(pb.Empty())).alarms
            with ExitStack() as dialled:
                for _ in range(3):
                    dialled.enter_context(socket.socket(socket.AF_UNIX)).connect(str(server.sockets["a"]))
                (alarm,) = await until(lambda: alarms(client))
        assert alarm.startswith("connections are turned away")


async def alarms(client: AdminClient) -> list[str]:
    return list((await client.status.Status(pb.Empty())).alarms)


async def test_keys_are_encrypted_with_a_passphrase_and_a_wrong_one_starts_nothing_and_loses_nothing(tmp_path: Path):
    passphrase = tmp_path / "passphrase"
    passphrase.write_text("correct horse\n")
    passphrase.chmod(0o400)
    settings = SETTINGS + f'[key_manager]\npassphrase_file = "{passphrase}"\n'
    async with running_server(tmp_path / "server", ["a"], settings=settings) as server:
        async with connect(server.admin_socket) as client:
            before = await active(client)
        assert "correct horse" not in server.log()
        for path in key_files(server).values():
            assert path.read_text().startswith("-----BEGIN ENCRYPTED PRIVATE KEY-----")
        await server.stop()

        passphrase.unlink()
        passphrase.write_text("wrong horse\n")
        passphrase.chmod(0o400)
        with pytest.raises(CannotStart, match="does not open with this passphrase"):
            await server.start()
        assert set(key_files(server)) == set(before.values())

        passphrase.unlink()
        passphrase.write_text("correct horse\n")
        passphrase.chmod(0o400)
        await server.start()
        async with connect(server.admin_socket) as client:
            assert await active(client) == before
