"""Builds the gRPC server of one set of workload sockets: SDS, Workload API, health and reflection, behind one gate."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import grpc
from envoy.service.secret.v3 import sds_pb2  # noqa: F401 - so that reflection knows it
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from sds import sds_api, workload_api
from sds.call_limit import CallLimit
from sds.gate import Gate, GateLimits
from sds.observe import Observer, Silent
from sds.provider import Provider
from sds.sds_api import SecretDiscovery, StrangerLimits
from sds.unix_socket import SocketSpec
from sds.workload_api import WorkloadAPI
from sds.workload_header import HeaderCheck

_MOST_PENDING = 16_384
"""Calls that wait to be looked at: those of 2,000 proxies that come at once, twice. They are no user's yet."""
_CALLS_PER_CONNECTION = 2
"""On the average of as many connections as a user may have: 2,000 of them may still have the four calls of a busy proxy each."""
_SERVICES = (sds_api.SERVICE, workload_api.SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)

_OPTIONS = (
    ("grpc.server.max_pending_requests", _MOST_PENDING),  # a reconnect storm is served, not refused
    ("grpc.server.max_pending_requests_hard_limit", _MOST_PENDING),
    ("grpc.max_concurrent_streams", 100),  # of one connection: many times what a proxy needs
    ("grpc.http2.lookahead_bytes", 16 * 1024),  # what a call's client may send before it is read
    ("grpc.http2.bdp_probe", 0),  # which would make that 4 MiB
    ("grpc.so_reuseport", 0),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadLimits:
    """What one listener bears."""

    gate: GateLimits = field(default_factory=GateLimits)
    strangers: StrangerLimits = field(default_factory=StrangerLimits)
    message_bytes: int = 1024 * 1024
    """The largest message that is taken: Envoy's first request has 62 KB of node."""
    first_svid: float = 5.0
    """Seconds that a new Workload API caller waits for its first SVID before it is told to come again."""
    first_request: float = 30.0
    """Seconds that a call may take until its first request is there: clients send it at once, but all of them may do so."""
    drain: float = 1.0
    """Seconds for calls under way when the server stops; streams have no end of their own and are cut off then."""


@asynccontextmanager
async def serve_workloads(
    *,
    sockets: Sequence[SocketSpec],
    provider: Provider,
    now: Callable[[], datetime],
    observer: Observer | None = None,
    limits: WorkloadLimits | None = None,
) -> AsyncIterator[Gate]:
    """Serve on these sockets while the context is open; yield the gate, which can open more. Raises SDSError for a bad path.

    The sockets appear when the server is ready to answer. On exit they go first, then calls under way may end.
    """
    limits = limits or WorkloadLimits()
    observer = observer or Silent()
    async with Gate(limits=limits.gate, on_shed=observer.connection_shed) as gate:
        options = (*_OPTIONS, ("grpc.max_receive_message_length", limits.message_bytes))
        most = _CALLS_PER_CONNECTION * limits.gate.per_uid
        calls = CallLimit(identify=gate.identify, per_uid=most, patience=limits.first_request)
        server = grpc.aio.server(interceptors=(calls, HeaderCheck()), options=options)
        api = WorkloadAPI(
            provider=provider, identify=gate.identify, now=now, observer=observer, patience=limits.first_svid
        )
        secrets = SecretDiscovery(
            provider=provider, identify=gate.identify, now=now, observer=observer, limits=limits.strangers
        )
        server.add_generic_rpc_handlers((secrets.service(), api.service()))
        status = await _add_health(server)
        reflection.enable_server_reflection(_SERVICES, server)
        server.add_insecure_port(f"unix:{gate.private}")
        await server.start()
        try:
            for socket in sockets:
                await gate.open(socket)
            yield gate
        finally:
            await gate.close()
            with suppress(TimeoutError):  # a watcher that does not read cannot hold it up
                await asyncio.wait_for(status.enter_graceful_shutdown(), limits.drain)
            await server.stop(limits.drain)


async def _add_health(server: grpc.aio.Server) -> Any:
    status = health.aio.HealthServicer()  # type: ignore[attr-defined]  # missing in the stubs
    health_pb2_grpc.add_HealthServicer_to_server(status, server)
    for service in ("", *_SERVICES):
        await status.set(service, health_pb2.HealthCheckResponse.SERVING)
    return status
