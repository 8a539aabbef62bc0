"""Where everything is put together, and the only importer of adapters: `meshca up` from its configuration.

Constructors do no I/O; contexts open and close, in order: what can fail fails before the first socket appears.
"""

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import BinaryIO

from meshca import logs
from meshca.adapters import data_directory, store_backup
from meshca.adapters.keys import new_key
from meshca.adapters.keys_disk import DiskKeyManager
from meshca.adapters.keys_memory import MemoryKeyManager
from meshca.adapters.processes import find_process, has_ended
from meshca.adapters.store_memory import MemoryStore
from meshca.adapters.store_sql import SqlStore
from meshca.adapters.workload_unix import UnixAttestor
from meshca.agent.explain import Explanation
from meshca.agent.workloads import Workloads
from meshca.clock import SystemClock
from meshca.config import Config, read_passphrase
from meshca.errors import CannotStart, Refused
from meshca.hardening import harden
from meshca.heap import settle_heap
from meshca.http_api import check_address, serve_http
from meshca.model import Selector
from meshca.notify import Notify
from meshca.ports import KeyManager
from meshca.proto import admin_pb2 as pb
from meshca.router.directory import check_directory
from meshca.server.admin_socket import Admins, serve_admin
from meshca.server.app import CAServer, Ports, Surroundings
from meshca.server.chores import ticking
from meshca.server.convert import entry_message
from meshca.server.lifetime import Load, outlasting_calls, until_ready, until_told
from meshca.telemetry import Telemetry
from sds.endpoint import Endpoint
from sds.errors import SDSError
from sds.gate import Gate, GateLimits, raise_open_files
from sds.listen import WorkloadLimits, serve_workloads
from sds.sds_api import StrangerLimits
from sds.unix_socket import SocketSpec, check_free

Store = SqlStore | MemoryStore

CLOCK = SystemClock()
_HTTP_ADVICE = "Set http.port or http.address in the configuration to something else, or http.enabled = false"

logger = logging.getLogger(__name__)


def run_up(load: Load, *, abandon_keys: bool = False) -> None:
    """Run server and agent in one process until SIGTERM or SIGINT; SIGHUP loads the configuration again. Raises MeshcaError."""
    # A SIGHUP that comes before we are ready has nothing to reload, and must not end us.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    config = load()
    if config.router.config_dir:
        check_directory(config.router.config_dir)
    harden()
    logs.configure(config.log.format, config.log.level)
    raise_open_files()
    asyncio.run(_up(config, load, abandon_keys=abandon_keys))
    logger.info("stopped")


def restore_store(config: Config, backup: Path) -> Path | None:
    """Put a backup in place of a stopped server's store; return where the old one was moved to. Raises MeshcaError."""
    database = config.store.path or config.data_dir / "store.db"
    with data_directory.held(config.data_dir):
        store_backup.verify_backup(backup)
        kept = data_directory.set_aside(database)
        store_backup.restore(backup, database)
    return kept


async def _up(config: Config, load: Load, *, abandon_keys: bool) -> None:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(outlasting_calls())
        stack.enter_context(data_directory.held(config.data_dir))
        admins = Admins(config)
        _check_places(config, admins)
        store = await stack.enter_async_context(_open_store(config))
        telemetry, notify = Telemetry(version=version("meshca")), Notify(clock=CLOCK)
        server = CAServer(config=config, ports=_ports(config, store), telemetry=telemetry, abandon_keys=abandon_keys)
        await server.start()
        workloads = _workloads(config, server)
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        running = tasks.create_task(workloads.run(), name="workloads")
        await stack.enter_async_context(ticking(server.chores, CLOCK))
        gate = await stack.enter_async_context(_workload_sockets(config, workloads, telemetry))
        around = _surroundings(config, store, workloads, telemetry)
        await stack.enter_async_context(serve_admin(server, admins, around))
        if config.http.enabled:
            await stack.enter_async_context(_http(config, server, telemetry, gate))
        routing = tasks.create_task(_route(config, server, telemetry), name="router")
        settle_heap()
        _say(*_places(config))
        starting = tasks.create_task(until_ready(server.readiness, notify, _say), name="until ready")
        await until_told(config, load, admins.apply, notify)
        notify.stopping()
        starting.cancel()
        routing.cancel()
        running.cancel()


async def _route(config: Config, server: CAServer, telemetry: Telemetry) -> None:
    """Run a routing server if one is wanted: an ordinary workload, of an entry that is made for it. Raises CannotStart."""
    if config.router.config_dir is None:
        return
    from meshca.router.app import RouterSettings, running_router  # noqa: PLC0415 - Envoy's API, for those who route
    from meshca.router.metrics import RouterMetrics  # noqa: PLC0415 - same

    await server.give_router_identity(Selector("socket", config.router_socket.name))
    settings = RouterSettings(
        directory=config.router.config_dir,
        endpoint=Endpoint.at(config.router_socket.path),
        address=config.router.address,
        port=config.router.port,
        domain=config.router.domain,
        status_socket=config.router_status_socket,
        now=CLOCK.now,
    )
    async with running_router(settings) as running:
        telemetry.registry.register(RouterMetrics(running))
        _say(f"proxies       {config.router.address}:{running.port} (xDS, mutual TLS)")
        await asyncio.Event().wait()


def _sockets(config: Config) -> tuple[SocketSpec, ...]:
    """The workload sockets, that of the routing server with them."""
    return (*config.socket_specs, *([config.router_socket] if config.router.config_dir else []))


def _check_places(config: Config, admins: Admins) -> None:
    """Find out about all places where we cannot listen before there is a store or a key. Raises CannotStart."""
    checks: list[Callable[[], None]] = [partial(check_free, each) for each in (*_sockets(config), admins.socket)]
    if config.http.enabled:
        checks.append(partial(check_address, config.http.address, config.http.port, _HTTP_ADVICE))
    if wrong := [str(error) for check in checks if (error := _error_of(check))]:
        raise CannotStart("\n  ".join(wrong))


def _error_of(check: Callable[[], None]) -> Exception | None:
    try:
        check()
    except (CannotStart, SDSError) as error:
        return error
    return None


def _ports(config: Config, store: Store) -> Ports:
    return Ports(
        keys=_keys(config),
        entries=store.entries,
        bundles=store.bundles,
        journal=store.journal,
        audit=store.audit,
        clock=CLOCK,
        is_gone=has_ended,
    )


def _workloads(config: Config, server: CAServer) -> Workloads:
    return Workloads(
        authority=server.ca,
        attestor=UnixAttestor(),
        clock=CLOCK,
        make_key=lambda: new_key(config.authority.leaf_key),
        find=find_process,
    )


def _workload_sockets(config: Config, workloads: Workloads, telemetry: Telemetry) -> AbstractAsyncContextManager[Gate]:
    own = (config.router_socket,) if config.router.config_dir else ()
    return serve_workloads(
        sockets=(*config.socket_specs, *own),
        provider=workloads,
        now=CLOCK.now,
        observer=telemetry,
        limits=_limits(config),
    )


def _surroundings(config: Config, store: Store, workloads: Workloads, telemetry: Telemetry) -> Surroundings:
    return Surroundings(
        version=version("meshca"),
        started_at=CLOCK.now(),
        sockets={name: str(each.path) for name, each in config.sockets.items()},
        streams=lambda: telemetry.open_streams,
        explain=lambda pid: _explain(workloads, pid),
        backup=lambda: _back_up(store, config.data_dir),
    )


def _http(config: Config, server: CAServer, telemetry: Telemetry, gate: Gate) -> AbstractAsyncContextManager[int]:
    return serve_http(
        address=config.http.address,
        port=config.http.port,
        metrics=lambda: telemetry.render(server.standing(gate.connections)),
        ready=lambda: _ready(server),
        advice=_HTTP_ADVICE,
    )


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
    """What the workload sockets bear; how many connections that is depends on the open files that we may have."""
    limits, gate = config.limits, GateLimits(per_uid=config.limits.connections_per_uid)
    lifetime = limits.unentitled_stream_lifetime.total_seconds()
    counts = {"all": gate.capacity(), "per_uid": gate.share(), "configured_per_uid": limits.connections_per_uid}
    logger.info("connection limits", extra=counts)
    return WorkloadLimits(
        gate=gate,
        strangers=StrangerLimits(streams_per_uid=limits.unentitled_streams_per_uid, seconds=lifetime),
        message_bytes=limits.max_message_bytes,
    )


def _places(config: Config) -> list[str]:
    """Where everything is."""
    lines = [f"trust domain  {config.trust_domain}", f"data          {config.data_dir}"]
    lines += [f"workloads     unix://{each.path} (socket:{name})" for name, each in config.sockets.items()]
    lines += [f"admin         unix://{config.admin_socket}"]
    if config.http.enabled:
        lines.append(f"http          http://{config.http.address}:{config.http.port}/metrics, /live, /ready")
    return lines


def _say(*lines: str) -> None:
    """For the person at the terminal."""
    print(*lines, sep="\n", flush=True)  # noqa: T201 - this is what it is for


def _ready(server: CAServer) -> tuple[bool, dict[str, object]]:
    good, text = server.readiness.check()
    return good, {"signing": text}


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


async def _back_up(store: Store, directory: Path) -> BinaryIO:
    if isinstance(store, MemoryStore):
        raise Refused("a memory store has nothing to back up")
    return await store.backup(directory)
