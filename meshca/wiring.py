"""Where everything is put together, and the only importer of adapters: `meshca up` from its configuration.

Constructors do no I/O; contexts open and close, in order: what can fail fails before the first socket appears.
"""

import asyncio
import fcntl
import gc
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from importlib.metadata import version
from pathlib import Path

import grpc

from meshca import logs
from meshca.adapters import store_backup
from meshca.adapters.keys import new_key
from meshca.adapters.keys_disk import DiskKeyManager
from meshca.adapters.keys_memory import MemoryKeyManager
from meshca.adapters.private_files import private_directory
from meshca.adapters.processes import find_process
from meshca.adapters.store_memory import MemoryStore
from meshca.adapters.store_sql import SqlStore
from meshca.adapters.workload_unix import UnixAttestor
from meshca.agent.explain import Explanation
from meshca.agent.workloads import Workloads
from meshca.clock import SystemClock
from meshca.config import Config, read_passphrase, reloadable
from meshca.errors import CannotStart, MeshcaError, Refused
from meshca.hardening import harden
from meshca.notify import Notify
from meshca.ports import KeyManager
from meshca.proto import admin_pb2 as pb
from meshca.server.admin import Outcomes
from meshca.server.app import CAServer, Ports, Surroundings
from meshca.server.chores import ticking
from meshca.server.convert import entry_message
from meshca.server.http_api import serve_http
from meshca.server.requests import RequestIDs
from meshca.telemetry import Telemetry
from sds.caller import UnixPeer
from sds.errors import NotAuthorized
from sds.gate import Gate, GateLimits, raise_open_files
from sds.listen import WorkloadLimits, serve_workloads
from sds.sds_api import StrangerLimits
from sds.unix_socket import SocketSpec

DRAIN_SECONDS = 1.0
MOST_ADMINS = 128

logger = logging.getLogger(__name__)

Store = SqlStore | MemoryStore
Load = Callable[[], Config]


def run_up(load: Load) -> None:
    """Run server and agent in one process until SIGTERM or SIGINT; SIGHUP loads the configuration again. Raises CannotStart."""
    config = load()
    harden()
    logs.configure(config.log.format, config.log.level)
    raise_open_files()
    asyncio.run(_up(config, load))


def restore_store(config: Config, backup: Path) -> Path | None:
    """Put a backup in place of a stopped server's store; return where the old one was moved to. Raises MeshcaError."""
    database = config.store.path or config.data_dir / "store.db"
    with _locked(config.data_dir):
        store_backup.verify_backup(backup)
        kept = _set_aside(database)
        store_backup.restore(backup, database)
    return kept


async def _up(config: Config, load: Load) -> None:
    async with AsyncExitStack() as stack:
        stack.enter_context(_locked(config.data_dir))
        store = await stack.enter_async_context(_open_store(config))
        clock, telemetry, attestor = SystemClock(), Telemetry(version=version("meshca")), UnixAttestor()
        ports = Ports(
            keys=_keys(config),
            entries=store.entries,
            bundles=store.bundles,
            journal=store.journal,
            audit=store.audit,
            clock=clock,
            is_gone=is_gone,
        )
        server = CAServer(config=config, ports=ports, telemetry=telemetry)
        await server.start()
        workloads = Workloads(
            authority=server.ca,
            attestor=attestor,
            clock=clock,
            make_key=lambda: new_key(config.authority.leaf_key),
            find=find_process,
        )
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        running = tasks.create_task(workloads.run(), name="workloads")
        await stack.enter_async_context(ticking(server.chores, clock))
        gate = await stack.enter_async_context(
            serve_workloads(
                sockets=config.socket_specs,
                provider=workloads,
                now=clock.now,
                observer=telemetry,
                limits=_limits(config),
            )
        )
        around = Surroundings(
            version=version("meshca"),
            started_at=clock.now(),
            sockets={name: str(each.path) for name, each in config.sockets.items()},
            streams=lambda: telemetry.open_streams,
            explain=lambda pid: _explain(workloads, pid),
            backup=lambda path: _back_up(store, path),
        )
        admins = Admins(config)
        await stack.enter_async_context(_serve_admin(server, admins, around))
        if config.http.enabled:
            await stack.enter_async_context(
                serve_http(
                    address=config.http.address,
                    port=config.http.port,
                    metrics=lambda: telemetry.render(server.standing(gate.connections)),
                    ready=lambda: _ready(server),
                )
            )
        gc.freeze()  # what start-up made stays: no full collection need look at it again, and hold up everybody for so long
        _announce(config)
        notify = Notify(clock=clock)
        notify.ready()
        await _until_told(config, load, admins, notify)
        notify.stopping()
        running.cancel()


@contextmanager
def _locked(data_dir: Path) -> Iterator[None]:
    """Hold the data directory for ourselves: made if need be, ours alone, and no other server in it. Raises CannotStart."""
    with private_directory(data_dir, parents=True) as directory:  # a fresh home has no ~/.local/state
        try:
            lock = os.open("lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=directory)
        except OSError as error:
            raise CannotStart(f"data directory {data_dir} cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError as error:
            raise CannotStart(
                f"another meshca server runs in {data_dir}: stop it, or choose another data directory"
            ) from error
        finally:
            os.close(lock)


@asynccontextmanager
async def _open_store(config: Config) -> AsyncIterator[Store]:
    url = config.store_url
    if url is None:
        yield MemoryStore()
        return
    async with SqlStore.open(url) as store:
        yield store


def _keys(config: Config) -> KeyManager:
    match config.key_manager.kind:
        case "memory":
            return MemoryKeyManager()
        case "disk":
            keys = DiskKeyManager(config.keys_directory, read_passphrase(config.key_manager, os.environ))
            keys.key_ids()  # checks every file's owner and mode: fail now rather than at the first signature
            return keys


def _limits(config: Config) -> WorkloadLimits:
    limits = config.limits
    lifetime = limits.unentitled_stream_lifetime.total_seconds()
    return WorkloadLimits(
        gate=GateLimits(per_uid=limits.connections_per_uid),
        strangers=StrangerLimits(streams_per_uid=limits.unentitled_streams_per_uid, seconds=lifetime),
        message_bytes=limits.max_message_bytes,
    )


class Admins:
    """Who may administer: root, the server's own user, and those whom the configuration names. SIGHUP may change it."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def refusal(self, peer: UnixPeer) -> str | None:
        """Why a peer may not connect; None when it may."""
        if peer.uid in {0, os.geteuid(), *self.config.admin_uids}:
            return None
        return f"uid {peer.uid} may not administer: root, uid {os.geteuid()} and admin_uids may"

    def apply(self, config: Config) -> None:
        """Go by a configuration that was loaded again: who was added must be able to dial, too."""
        self.config = config
        with suppress(FileNotFoundError):
            self.socket.path.chmod(self.socket.mode)

    @property
    def socket(self) -> SocketSpec:
        """Closed to others by its mode, too, unless somebody else is to come in: then the gate alone decides."""
        return SocketSpec(name="admin", path=self.config.admin_socket, mode=0o666 if self.config.admin_uids else 0o600)


@asynccontextmanager
async def _serve_admin(server: CAServer, admins: Admins, around: Surroundings) -> AsyncIterator[None]:
    async with Gate(admit=admins.refusal, limits=GateLimits(total=MOST_ADMINS)) as gate:
        listener = grpc.aio.server(interceptors=(RequestIDs(), Outcomes()))
        server.add_admin_services(listener, gate.identify, around)
        listener.add_insecure_port(f"unix:{gate.private}")
        await listener.start()
        try:
            await gate.open(admins.socket)
            yield
        finally:
            await gate.close()
            await listener.stop(DRAIN_SECONDS)


async def _until_told(config: Config, load: Load, admins: Admins, notify: Notify) -> None:
    """Wait for SIGTERM or SIGINT; at each SIGHUP, load the configuration again."""
    loop, told, hangup = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    loop.add_signal_handler(signal.SIGHUP, hangup.set)
    while await _first(told, hangup) is hangup:
        hangup.clear()
        notify.reloading()
        config = _reload(config, load)
        admins.apply(config)
        notify.ready()


async def _first(*events: asyncio.Event) -> asyncio.Event:
    """The first of the events that is set, in the order given."""
    waits = [asyncio.create_task(event.wait()) for event in events]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
    return next(event for event in events if event.is_set())


def _reload(old: Config, load: Load) -> Config:
    """Apply what can be applied now; a configuration that is wrong changes nothing."""
    try:
        outcome = reloadable(old, load())
    except MeshcaError as error:
        logger.error("configuration not reloaded", extra={"reason": str(error)})  # noqa: TRY400 - the reason is all there is
        return old
    logs.configure(outcome.config.log.format, outcome.config.log.level)
    changes = {
        "applied": [str(each) for each in outcome.applied],
        "restart_needed": [str(each) for each in outcome.restart],
    }
    logger.info("configuration reloaded", extra=changes)
    return outcome.config


def _announce(config: Config) -> None:
    """For the person at the terminal: where everything is, and that it is ready."""
    lines = [f"trust domain  {config.trust_domain}", f"data          {config.data_dir}"]
    lines += [f"workloads     unix://{each.path} (socket:{name})" for name, each in config.sockets.items()]
    lines += [f"admin         unix://{config.admin_socket}"]
    if config.http.enabled:
        lines.append(f"http          http://{config.http.address}:{config.http.port}/metrics, /live, /ready")
    print("\n".join([*lines, "ready"]), flush=True)  # noqa: T201 - this is what it is for


def _ready(server: CAServer) -> tuple[bool, dict[str, object]]:
    good, text = server.readiness.check()
    return good, {"signing": text}


def is_gone(holder: str) -> bool:
    """Whether a holder's process has provably ended: its pid is free, or somebody else's."""
    match holder.split("/"):
        case ["unix", pid, started, *_]:
            try:
                return find_process(int(pid)).started != int(started)
            except NotAuthorized:
                return True
            except OSError:  # we cannot look, so it is not proven
                return False
    return False


async def _explain(workloads: Workloads, pid: int) -> pb.WhyResponse:
    return why_message(await workloads.explain(pid))


def why_message(explanation: Explanation) -> pb.WhyResponse:
    """An explanation as the admin API tells it."""
    misses = [
        pb.NearMiss(entry=entry_message(miss.entry), missing=[str(each) for each in miss.missing])
        for miss in explanation.near_misses
    ]
    return pb.WhyResponse(
        caller=explanation.caller,
        selectors=[str(each) for each in explanation.selectors],
        remarks=explanation.remarks,
        granted=[entry_message(entry) for entry in explanation.granted],
        near_misses=misses,
        holds=explanation.holds,
        verdict=explanation.verdict,
    )


async def _back_up(store: Store, path: Path) -> int:
    if isinstance(store, MemoryStore):
        raise Refused("a memory store has nothing to back up")
    await store.backup(path)
    return os.stat(path).st_size  # noqa: PTH116 - one look at a file just written


def _set_aside(database: Path) -> Path | None:
    """Move a store out of the way, with what SQLite keeps beside it."""
    if not database.exists():
        return None
    kept = next(
        path
        for number in range(1, 1000)
        if not (path := database.with_name(f"{database.name}.before-{number}")).exists()
    )
    for suffix in ("", "-wal", "-shm"):
        beside = database.with_name(database.name + suffix)
        if beside.exists():
            beside.rename(kept.with_name(kept.name + suffix))
    return kept
