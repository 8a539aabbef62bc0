"""What Prometheus sees of a router: asked of it at each scrape, so that it can not go stale. What is counted, the router counts itself.

Rules: labels are ours and few (no SPIFFE ID, node or name of an object: who may read metrics may not learn them), and each is there
before it first happens; times are seconds.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import get_args

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from meshca.router.admission import Reason
from meshca.router.ads import Pace
from meshca.router.app import Running
from meshca.router.canary.ramp import Phase
from meshca.router.status import TYPES

_KINDS = ("envoy", "grpc")
_STUCK = "stuck"

_Samples = Iterable[tuple[tuple[str, ...], float]]
"""Values of the labels, and the value."""


class RouterMetrics(Collector):
    """Of a router that serves. Belongs to its event loop."""

    def __init__(self, running: Running) -> None:
        self._running = running

    def collect(self) -> Iterator[Metric]:
        """All metrics, as they are now."""
        yield from self._proxies()
        yield from self._configuration()
        yield from self._events()

    def _proxies(self) -> Iterator[Metric]:
        router = self._running.router
        clients = router.clients.values()
        found = Counter((_KINDS[each.proxy.is_grpc], router.pace(each).value) for each in clients)
        paces = [((kind, pace.value), found[kind, pace.value]) for kind in _KINDS for pace in Pace]
        yield _gauges("proxies", "Proxies that are connected, by how far they are.", ("kind", "pace"), paces)
        refused = sum(1 for each in clients for _ in each.delivery.refusals())
        yield _gauge("resources_refused", "Resources that a proxy is to have and refuses.", refused)

    def _configuration(self) -> Iterator[Metric]:
        running, state = self._running, self._running.state.value
        yield _gauge("config_objects", "Objects of the configuration that are in force.", len(state.good))
        yield _gauge("config_problems", "What is wrong with the configuration.", len(state.problems))
        yield _gauge("config_warnings", "Warnings about the configuration.", len(state.warnings))
        yield _time(
            "config_read", "When the configuration was read last, which it is when it changes.", running.read_at
        )
        yield _time("certificate_expiry", "When the router's own certificate ends.", running.certificate_until)
        observed = running.ramping.observed.values()
        found = Counter(_STUCK if each.problem else (each.phase or Phase.RUNNING).value for each in observed)
        canaries = [((name,), found[name]) for name in (*(phase.value for phase in Phase), _STUCK)]
        yield _gauges("canaries", "Canaries by phase; stuck are those that can not go on.", ("phase",), canaries)

    def _events(self) -> Iterator[Metric]:
        running, refused = self._running, self._running.refused
        sent = [((name,), running.router.sent[type_url]) for name, type_url in TYPES.items()]
        yield _counters("resources_sent", "Resources sent to proxies.", ("type",), sent)
        reasons = [((reason,), refused[reason]) for reason in get_args(Reason)]
        yield _counters("streams_refused", "Streams that were turned away or ended, by reason.", ("reason",), reasons)
        stages = [((), running.worlds.version)]
        yield _counters("worlds_published", "Configurations published, each stage of a change counted.", (), stages)


def registry(running: Running, version: str) -> CollectorRegistry:
    """All that the process of a router tells."""
    made = CollectorRegistry()
    made.register(RouterMetrics(running))
    ProcessCollector(registry=made)
    Gauge("meshca_build_info", "The version that runs.", ("version",), registry=made).labels(version).set(1)
    return made


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"meshca_router_{name}", text, value=value)


def _time(name: str, text: str, at: datetime | None) -> Metric:
    return _gauge(f"{name}_timestamp_seconds", text, at.timestamp() if at else 0)


def _gauges(name: str, text: str, labels: tuple[str, ...], samples: _Samples) -> Metric:
    family = GaugeMetricFamily(f"meshca_router_{name}", text, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family


def _counters(name: str, text: str, labels: tuple[str, ...], samples: _Samples) -> Metric:
    family = CounterMetricFamily(f"meshca_router_{name}", text, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family
