"""Network namespaces for tests, joined by a cable. They end with this process, whatever becomes of it: nothing is left on the machine."""

import asyncio
import ctypes
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import aiohttp

from meshca.bootstrap import BootstrapSpec, envoy_bootstrap
from meshca.demo.envoys import Envoy, envoy_binary, stop
from tests.support.wait import until

ENVOY_UID = 1337
_CLONE_NEWNET = 0x40000000
_PROGRAMS = ("ip", "nft", "nsenter", "setpriv")
_RIGHTS = "+dac_override,+dac_read_search"
_LIBC = ctypes.CDLL(None, use_errno=True)
_Made = TypeVar("_Made")


@dataclass(frozen=True, slots=True, kw_only=True)
class Namespace:
    """A network namespace, held open by a file of this process."""

    file: int

    @property
    def path(self) -> str:
        """Where other programs find it."""
        return f"/proc/{os.getpid()}/fd/{self.file}"

    def command(self, *arguments: str | Path) -> list[str]:
        """The command, run inside."""
        return ["nsenter", f"--net={self.path}", *map(str, arguments)]

    def run(self, *arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a program inside to its end."""
        return subprocess.run(self.command(*arguments), capture_output=True, text=True, check=check)

    def tcp_socket(self, family: int = socket.AF_INET) -> socket.socket:
        """A TCP socket that lives inside."""
        return _in_thread(lambda: _entered(self.file, lambda: socket.socket(family, socket.SOCK_STREAM)))

    def listening(self, port: int, address: str = "0.0.0.0") -> socket.socket:
        """A socket that listens inside."""
        made = self.tcp_socket()
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((address, port))
        made.listen()
        return made

    @asynccontextmanager
    async def dialled(
        self, address: str, port: int
    ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """A connection from inside, until the context ends. Raises OSError."""
        made = self.tcp_socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        made.setblocking(False)
        with made:
            await asyncio.get_running_loop().sock_connect(made, (address, port))
            reader, writer = await asyncio.open_connection(sock=made)
            try:
                yield reader, writer
            finally:
                writer.close()


def namespace() -> Namespace:
    """A new one, with loopback up."""
    made = Namespace(file=_in_thread(_unshared))
    made.run("ip", "link", "set", "lo", "up")
    return made


def join(one: Namespace, other: Namespace) -> None:
    """A cable between two: 10.77.0.1 and fd77::1 here, 10.77.0.2 and fd77::2 there, each the other's way to everywhere."""
    one.run("ip", "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", other.path)
    for here, mine, theirs in ((one, 1, 2), (other, 2, 1)):
        here.run("ip", "addr", "add", f"10.77.0.{mine}/24", "dev", "wire")
        here.run("ip", "-6", "addr", "add", f"fd77::{mine}/64", "dev", "wire", "nodad")
        here.run("ip", "link", "set", "wire", "up")
        here.run("ip", "route", "add", "default", "via", f"10.77.0.{theirs}")
        here.run("ip", "-6", "route", "add", "default", "via", f"fd77::{theirs}")


def unavailable() -> str:
    """Why there can be no such test here, or nothing."""
    if missing := [each for each in _PROGRAMS if shutil.which(each) is None]:
        return f"not installed: {', '.join(missing)} (Debian: iproute2 nftables util-linux)"
    try:
        probe = namespace()
        probe.run("nft", "list", "ruleset")
    except (OSError, subprocess.CalledProcessError) as error:
        return f"network namespaces need root: {error}"
    os.close(probe.file)
    return ""


@asynccontextmanager
async def running_envoy(where: Namespace, name: str, spec: BootstrapSpec, directory: Path) -> AsyncIterator[Envoy]:
    """An Envoy inside, as a user of its own that may read this test's files; live when the body starts."""
    _prepare(directory, spec)
    user = ["setpriv", f"--reuid={ENVOY_UID}", f"--regid={ENVOY_UID}", "--clear-groups"]
    rights = [f"--inh-caps={_RIGHTS}", f"--ambient-caps={_RIGHTS}"]
    options = ["--config-path", "bootstrap.json", "--concurrency", "1", "--disable-hot-restart"]
    log = ["--log-level", "warning", "--log-path", "envoy.log"]
    process = await asyncio.create_subprocess_exec(
        *where.command(*user, *rights, envoy_binary(), *options, *log), cwd=directory, stdin=asyncio.subprocess.DEVNULL
    )
    connector = aiohttp.TCPConnector(socket_factory=lambda found: _nonblocking(where.tcp_socket(found[0])))
    async with aiohttp.ClientSession(connector=connector) as session:
        envoy = Envoy(name=name, directory=directory, process=process, session=session)
        envoy.admin = f"127.0.0.1:{spec.admin_port}"
        try:
            await until(lambda: _is_live(envoy))
            yield envoy
        finally:
            await stop(process)


@asynccontextmanager
async def running(where: Namespace, *arguments: str | Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """A `meshca` command inside, until the context ends."""
    command = where.command(sys.executable, "-m", "meshca", *arguments)
    process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.DEVNULL)
    try:
        yield process
    finally:
        await stop(process)


def _prepare(directory: Path, spec: BootstrapSpec) -> None:
    directory.mkdir()
    (directory / "bootstrap.json").write_text(json.dumps(envoy_bootstrap(spec)))


async def _is_live(envoy: Envoy) -> bool:
    assert envoy.process.returncode is None, envoy.log()
    try:
        return await envoy.is_live()
    except aiohttp.ClientError:
        return False


def _nonblocking(made: socket.socket) -> socket.socket:
    made.setblocking(False)
    return made


def _in_thread(make: Callable[[], _Made]) -> _Made:
    """What a thread of its own makes: only that thread is in another namespace."""
    made: list[_Made | Exception] = []

    def work() -> None:
        try:
            made.append(make())
        except OSError as error:
            made.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if isinstance(made[0], Exception):
        raise made[0]
    return made[0]


def _unshared() -> int:
    _check(_LIBC.unshare(_CLONE_NEWNET))
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _entered(file: int, make: Callable[[], _Made]) -> _Made:
    _check(_LIBC.setns(file, _CLONE_NEWNET))
    return make()


def _check(outcome: int) -> None:
    if outcome:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
