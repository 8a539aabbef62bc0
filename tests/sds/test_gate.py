import asyncio
import contextlib
import errno
import os
import re
import resource
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from sds.caller import UnixPeer
from sds.errors import NotAuthorized, SDSError
from sds.gate import Admit, Gate, GateLimits, raise_open_files
from sds.peer import PidfdLife, StartTimeLife, read_peer, start_time
from sds.unix_socket import SocketSpec
from tests.support.wait import until

DIALLER = """
import os, socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
if len(sys.argv) > 2: os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2]))
print("connected", flush=True)
sys.stdin.read()
"""


def started(script: str, *arguments: object) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", script, *map(str, arguments)], stdin=subprocess.PIPE)


def spec(path: Path, name: str = "web") -> SocketSpec:
    return SocketSpec(name=name, path=path)


async def echo_peer(gate: Gate) -> grpc.aio.Server:
    """A gRPC server behind the gate that tells each caller who it is, or sends its request back."""

    async def who(_: bytes, context: grpc.aio.ServicerContext) -> bytes:
        try:
            return str(gate.identify(context)).encode()
        except NotAuthorized as error:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(error))

    async def echo(request: bytes, _: grpc.aio.ServicerContext) -> bytes:
        return request

    server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
    methods = {"Who": grpc.unary_unary_rpc_method_handler(who), "Echo": grpc.unary_unary_rpc_method_handler(echo)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Test", methods),))
    server.add_insecure_port(f"unix:{gate.private}")
    await server.start()
    return server


@contextlib.asynccontextmanager
async def serving(*sockets: SocketSpec, **settings: object) -> AsyncIterator[Gate]:
    async with Gate(**settings) as gate:
        server = await echo_peer(gate)
        for each in sockets:
            await gate.open(each)
        yield gate
        await server.stop(None)


@contextlib.asynccontextmanager
async def dialled(path: Path, method: str = "Who") -> AsyncIterator[grpc.aio.UnaryUnaryMultiCallable]:
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
    async with grpc.aio.insecure_channel(f"unix:{path}", options=options) as channel:
        yield channel.unary_unary(f"/Test/{method}")


async def test_a_caller_is_known_by_pid_uid_gid_and_the_socket_it_dialled(tmp_path: Path):
    async with serving(spec(tmp_path / "a", "web"), spec(tmp_path / "b", "db")):
        for file, name in (("a", "web"), ("b", "db")):
            async with dialled(tmp_path / file) as who:
                answer = (await who(b"")).decode()
            assert answer == f"pid {os.getpid()} (uid {os.getuid()}, gid {os.getgid()}) on socket '{name}'"


async def test_a_caller_that_dials_the_private_socket_directly_is_refused(tmp_path: Path):
    async with serving(spec(tmp_path / "s")) as gate:
        assert gate.private.parent.stat().st_mode & 0o777 == 0o700
        async with dialled(gate.private) as who:
            with pytest.raises(grpc.aio.AioRpcError) as refusal:
                await who(b"")
    assert refusal.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert "did not come through the gate" in str(refusal.value.details())


@dataclass(frozen=True)
class At:
    """The part of a servicer context that the gate reads."""

    address: str

    def peer(self) -> str:
        return self.address


@pytest.mark.parametrize(
    "address", ["unix:", f"unix-abstract:meshca-{'0' * 32}", "unix-abstract:", "ipv4:127.0.0.1:1", ""]
)
def test_an_address_that_the_gate_did_not_give_is_nobody(address: str):
    with pytest.raises(NotAuthorized, match=re.escape(repr(address))):
        Gate().identify(At(address))


async def test_two_hundred_connections_are_served_at_once_and_forgotten_when_they_end(tmp_path: Path):
    async with serving(spec(tmp_path / "s")) as gate, contextlib.AsyncExitStack() as stack:
        calls = [await stack.enter_async_context(dialled(tmp_path / "s")) for _ in range(200)]
        answers = await asyncio.gather(*(call(b"") for call in calls))
        assert len(set(answers)) == 1
        assert gate.connections == 200
        await stack.aclose()
        await until(lambda: gate.connections == 0)
        assert not gate._peers


async def test_bytes_arrive_whole_when_they_are_more_than_any_buffer_holds(tmp_path: Path):
    content = os.urandom(8 * 1024 * 1024)
    async with serving(spec(tmp_path / "s")), dialled(tmp_path / "s", "Echo") as echo:
        assert await echo(content) == content


async def test_a_client_that_does_not_read_holds_back_nobody(tmp_path: Path):
    async with serving(spec(tmp_path / "s")) as gate:
        idle = [socket.socket(socket.AF_UNIX) for _ in range(20)]
        for each in idle:
            each.connect(str(tmp_path / "s"))
        async with dialled(tmp_path / "s") as who:
            assert await who(b"")
        for each in idle:
            each.close()
        await until(lambda: gate.connections == 0)


async def test_a_peer_dies_with_its_process_even_while_its_connection_stays_open(tmp_path: Path):
    async with serving(spec(tmp_path / "s")) as gate:
        dialler = started(DIALLER, tmp_path / "s")
        [peer] = (await until(lambda: list(gate._peers.values())))[:1]
        assert peer.pid == dialler.pid
        assert peer.alive()
        assert peer.started == start_time(dialler.pid)
        dialler.kill()
        dialler.wait()
        dialler.stdin.close()
        assert not peer.alive()


def test_a_peer_that_died_before_it_was_identified_gets_nothing(tmp_path: Path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        subprocess.run([sys.executable, "-c", DIALLER, str(tmp_path / "s")], stdin=subprocess.DEVNULL, check=True)
        connection, _ = listener.accept()
        with connection, pytest.raises(NotAuthorized, match="pid"):
            read_peer(connection, "web")


class Answering(socket.socket):
    """A connection of which a test says what the kernel answers: about the peer's pid, and about its pidfd."""

    def __init__(self, *, pid: int = os.getpid(), pidfd: int = -1, refused: int = 0) -> None:
        super().__init__(socket.AF_UNIX)
        self.answers = pid, pidfd, refused

    def getsockopt(self, _: int, option: int, __: int = 0) -> bytes | int:
        pid, pidfd, refused = self.answers
        if option == socket.SO_PEERCRED:
            return struct.pack("3i", pid, 1, 1)
        if refused:
            raise OSError(refused, os.strerror(refused))
        return pidfd


def test_a_peer_of_an_unseen_pid_namespace_is_refused():
    with Answering(pid=0) as connection, pytest.raises(NotAuthorized, match="pid namespace"):
        read_peer(connection, "web")


def test_on_an_old_kernel_a_peer_is_known_by_pid_and_start_time():
    with Answering(refused=errno.ENOPROTOOPT) as connection:
        peer, life = read_peer(connection, "web")
    assert (peer.pid, peer.started, peer.alive()) == (os.getpid(), start_time(os.getpid()), True)
    life.close()
    assert not peer.alive()


@pytest.mark.parametrize("code", [errno.ESRCH, errno.EINVAL])
def test_a_peer_whose_process_the_kernel_no_longer_knows_is_refused(code: int):
    with Answering(refused=code) as connection, pytest.raises(NotAuthorized, match=f"pid {os.getpid()} ended"):
        read_peer(connection, "web")


def test_a_peer_that_was_replaced_under_its_number_is_refused():
    """The number is that of a running process, but the process that connected has ended."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    pidfd = os.pidfd_open(ended.pid)
    ended.wait()
    with Answering(pidfd=pidfd) as connection, pytest.raises(NotAuthorized, match="ended after it had connected"):
        read_peer(connection, "web")
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(pidfd)


def test_what_the_kernel_refuses_otherwise_is_not_taken_for_a_verdict():
    with Answering(refused=errno.EMFILE) as connection, pytest.raises(OSError, match="Too many"):
        read_peer(connection, "web")


def test_both_proofs_of_life_end_with_the_process_and_with_close():
    for make in (lambda pid: PidfdLife(os.pidfd_open(pid)), lambda pid: StartTimeLife(pid, start_time(pid))):
        process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        life, closed = make(process.pid), make(process.pid)
        assert life.alive()
        closed.close()
        closed.close()
        assert not closed.alive()
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # a zombie by now
        assert not life.alive()
        process.communicate()
        assert not life.alive()
        life.close()


def test_a_process_number_that_was_used_again_is_another_process():
    assert not StartTimeLife(os.getpid(), start_time(os.getpid()) - 1).alive()


@pytest.mark.parametrize("admit", [lambda peer: f"uid {peer.uid} may not", lambda _: None])
async def test_an_admission_rule_closes_the_connections_that_it_refuses(
    tmp_path: Path, admit: Admit, caplog: pytest.LogCaptureFixture
):
    async with serving(spec(tmp_path / "s"), admit=admit) as gate:
        reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
        if admit(UnixPeer(pid=1, uid=0, gid=0, started=0, socket="web")):
            assert await reader.read() == b""
            assert gate.connections == 0
            assert f"uid {os.getuid()} may not" in caplog.records[-1].reason
        else:
            assert await reader.read(1)  # grpcio greets first
        writer.close()


async def test_an_admission_rule_that_fails_costs_only_the_connection_at_hand(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    failures = [LookupError("no such user")]

    def admit(_: UnixPeer) -> None:
        if failures:
            raise failures.pop()

    async with serving(spec(tmp_path / "s"), admit=admit):
        reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
        assert await reader.read() == b""
        writer.close()
        assert caplog.records[-1].exc_info
        async with dialled(tmp_path / "s") as who:
            assert await who(b"")


async def test_connections_wait_while_the_server_behind_the_gate_is_slow_to_accept(tmp_path: Path):
    async with Gate() as gate:
        with socket.socket(socket.AF_UNIX) as slow:
            slow.setblocking(False)
            slow.bind(str(gate.private))
            slow.listen(0)
            await gate.open(spec(tmp_path / "s"))
            clients = [await asyncio.open_unix_connection(tmp_path / "s") for _ in range(5)]
            for number, (_, writer) in enumerate(clients):
                writer.write(bytes([number]))
            await until(lambda: gate.connections >= 2)  # one was taken in, the next waits for room
            loop = asyncio.get_running_loop()
            arrived = []
            for _ in clients:
                connection, _ = await loop.sock_accept(slow)
                arrived.append(await loop.sock_recv(connection, 10))
                connection.close()
            assert arrived == [bytes([number]) for number in range(5)]
        for _, writer in clients:
            writer.close()


SOFT_LIMIT, _ = resource.getrlimit(resource.RLIMIT_NOFILE)


@pytest.mark.parametrize(
    "limits", [GateLimits(per_uid=2), GateLimits(total=2), GateLimits(reserved_files=SOFT_LIMIT - 4 * 2)]
)
async def test_connections_beyond_a_limit_are_closed_at_once_and_the_log_says_why(
    tmp_path: Path, limits: GateLimits, caplog: pytest.LogCaptureFixture
):
    shed: list[None] = []
    async with serving(spec(tmp_path / "s"), limits=limits, on_shed=lambda: shed.append(None)) as gate:
        connections = [await asyncio.open_unix_connection(tmp_path / "s") for _ in range(2)]
        assert all([await reader.read(1) for reader, _ in connections])
        for _ in range(5):
            reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
            assert await reader.read() == b""
            writer.close()
        refusals = [record for record in caplog.records if record.message == "connection refused"]
        assert len(refusals) == 1
        assert "limit" in refusals[0].reason
        assert len(shed) == 5
        connections[0][1].close()
        await until(lambda: gate.connections == 1)
        reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
        assert await reader.read(1)
        for each in (writer, connections[1][1]):
            each.close()


@pytest.mark.parametrize(("total", "share"), [(1, 1), (2, 2), (100, 75)])
def test_one_user_cannot_take_all_connections_where_few_fit(total: int, share: int):
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    limits = GateLimits()
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limits.reserved_files + 4 * total, before[1]))
        assert limits.share() == share
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_soft_limit_of_open_files_is_raised_to_the_hard_one():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (512, before[1]))
        assert raise_open_files() == before[1]
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def test_the_gate_recovers_when_the_server_behind_it_was_away(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    async with Gate() as gate:
        await gate.open(spec(tmp_path / "s"))
        reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
        assert await reader.read() == b""
        writer.close()
        assert caplog.records[-1].message == "connection failed"
        server = await echo_peer(gate)
        async with dialled(tmp_path / "s") as who:
            assert await who(b"")
        await server.stop(None)


async def test_closing_a_socket_removes_its_file_and_leaves_open_connections(tmp_path: Path):
    async with serving(spec(tmp_path / "s")) as gate:
        async with dialled(tmp_path / "s") as who:
            await who(b"")
            await gate.close("web")
            assert not (tmp_path / "s").exists()
            assert await who(b"")
        await gate.open(spec(tmp_path / "s"))  # the name is free again
        with pytest.raises(SDSError, match="two sockets called 'web'"):
            await gate.open(spec(tmp_path / "other"))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become others")
async def test_two_users_are_told_apart(tmp_path: Path):
    for directory in (tmp_path, *tmp_path.parents):
        if directory.owner() == "root" and directory != Path("/"):
            directory.chmod(directory.stat().st_mode | 0o011)
    script = DIALLER.replace("connection.connect(sys.argv[1])\n", "").replace(
        'print("connected"', 'connection.connect(sys.argv[1]); print("connected"'
    )
    async with serving(spec(tmp_path / "s")) as gate:
        for uid in (12345, 54321):
            dialler = started(script, tmp_path / "s", uid)
            [peer] = await until(lambda: list(gate._peers.values()))
            assert (peer.uid, peer.gid) == (uid, uid)
            dialler.communicate()
            await until(lambda: gate.connections == 0)
