"""Load reports: `envoy.service.load_stats.v3.LoadReportingService`, on the router's own port. Envoy and proxyless gRPC speak it alike.

Rules:
- Who reports is said by its SVID, and what it may report by what it may call: nothing else is asked for, and nothing else is counted.
- A stream is admitted as one of configuration is, and ends when its certificate does, or is not trusted any more.
- Nothing is asked while there is no ramp, so that reports cost nothing then.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

import grpc
from envoy.config.endpoint.v3.load_report_pb2 import ClusterStats
from envoy.service.load_stats.v3.lrs_pb2 import LoadStatsRequest, LoadStatsResponse
from google.protobuf.duration_pb2 import Duration
from grpc.aio import ServicerContext

from meshca.router.admission import Admission
from meshca.router.canary.loads import NONE, Asked, Load, Loads, Tally
from meshca.router.identity import Peer
from sds.xds.server import ending_with_status
from spiffe.id import SpiffeID

MayReport = Callable[[SpiffeID, str], bool]
"""Whether an identity may call a service, by its host."""
_IDLE = timedelta(hours=1)
_NANOS = 1e9


class LoadReports:
    """Takes the reports of whoever proves an identity of ours."""

    def __init__(
        self,
        *,
        loads: Loads,
        admission: Admission,
        may_report: MayReport,
        now: Callable[[], datetime],
    ) -> None:
        self._loads = loads
        self._admission = admission
        self._may_report = may_report
        self._now = now

    def service(self) -> Any:
        """What is added to a gRPC server."""
        method = grpc.stream_stream_rpc_method_handler(
            self._stream, LoadStatsRequest.FromString, LoadStatsResponse.SerializeToString
        )
        return grpc.method_handlers_generic_handler(
            "envoy.service.load_stats.v3.LoadReportingService", {"StreamLoadStats": method}
        )

    async def _stream(self, requests: AsyncIterator[LoadStatsRequest], context: ServicerContext[Any, Any]) -> None:
        await ending_with_status(context, self._admit(requests, context))

    async def _admit(self, requests: AsyncIterator[LoadStatsRequest], context: ServicerContext[Any, Any]) -> None:
        async with self._admission.admitted(context) as peer:
            await self._serve(peer, requests, context)

    async def _serve(
        self, peer: Peer, requests: AsyncIterator[LoadStatsRequest], context: ServicerContext[Any, Any]
    ) -> None:
        left = (peer.not_after - self._now()).total_seconds()
        with suppress(TimeoutError):
            async with asyncio.timeout(left), asyncio.TaskGroup() as tasks:
                asking = tasks.create_task(self._ask(peer.spiffe_id, context), name="load report asker")
                async for request in requests:
                    self._take(peer.spiffe_id, request)
                asking.cancel()

    async def _ask(self, reporter: SpiffeID, context: ServicerContext[Any, Any]) -> None:
        """Ask at first once there is something to ask for, and then at each change."""
        before = _response(frozenset(), Asked())
        async for asked in self._loads.asked.watch():
            response = _response(self._clusters(reporter, asked), asked)
            if response != before:
                before = response
                with suppress(grpc.aio.InternalError):  # the client has left, which the reader is about to hear
                    await context.write(response)

    def _take(self, reporter: SpiffeID, request: LoadStatsRequest) -> None:
        wanted = self._clusters(reporter, self._loads.asked.value)
        for stats in request.cluster_stats:
            if stats.cluster_name in wanted:
                self._loads.take(reporter, _load(stats), self._now())

    def _clusters(self, reporter: SpiffeID, asked: Asked) -> frozenset[str]:
        return frozenset(each.cluster for each in asked.wanted if self._may_report(reporter, each.host))


def _response(clusters: frozenset[str], asked: Asked) -> LoadStatsResponse:
    response = LoadStatsResponse(clusters=sorted(clusters))
    response.load_reporting_interval.FromTimedelta(asked.interval if clusters else _IDLE)
    return response


def _load(stats: ClusterStats) -> Load:
    return Load(
        cluster=stats.cluster_name,
        tally=sum(_tallies(stats), NONE),
        period=_period(stats.load_report_interval),
    )


def _period(said: Duration) -> timedelta:
    """What was said, as far as a period can be that long."""
    seconds = said.seconds + said.nanos / _NANOS
    return timedelta(seconds=min(max(seconds, 0), _IDLE.total_seconds()))


def _tallies(stats: ClusterStats) -> Iterator[Tally]:
    """Of each locality, and of what was dropped before it had one."""
    dropped = stats.total_dropped_requests
    yield Tally(issued=dropped, finished=dropped, errors=dropped)
    for each in stats.upstream_locality_stats:
        finished = each.total_successful_requests + each.total_error_requests
        yield Tally(issued=each.total_issued_requests, finished=finished, errors=each.total_error_requests)
