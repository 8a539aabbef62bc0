"""What Prometheus sees. Events are counted as they happen; how things stand is asked for at each scrape, so that it can not go stale.

Rules: a registry of its own, no globals; labels are ours and few (no SPIFFE ID, serial or peer: who may read metrics may not learn them);
times are seconds.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from meshca.errors import RefusalReason
from meshca.model import Kind, Slots, State
from sds.observe import Service

_STAGE_BUCKETS = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 1.0)
_DELIVERY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How things stand now. `earliest_leaf` is when the first leaf in use ends; None when there is none."""

    ready: bool
    slots: Slots
    earliest_leaf: datetime | None = None
    holders: int = 0
    behind: int = 0
    alarms: int = 0
    audit_head: int = 0
    connections: int = 0


class Telemetry:
    """All metrics of one process. Also the Observer of `sds.observe`. Methods belong to the event loop and never block or raise."""

    def __init__(self, *, version: str) -> None:
        self.registry = CollectorRegistry()
        self.open_streams = 0
        self.connections_shed = 0
        self._count_issuance()
        self._count_streams()
        self._gauge_standing()
        ProcessCollector(registry=self.registry)
        self._gauge("meshca_build_info", "The version that runs.", "version").labels(version).set(1)

    def _count_issuance(self) -> None:
        self._issued = self._counter("meshca_svids_issued", "X.509-SVIDs signed and recorded.")
        self._refused = self._counter("meshca_issuance_refusals", "Requests that got no X.509-SVID.", "reason")
        for reason in get_args(RefusalReason):  # seen as 0 from the start, or a rate would miss the first
            self._refused.labels(reason)
        self._stages = self._histogram(
            "meshca_issuance_stage_seconds",
            "CPU time of a stage of issuance; `sign` is the key's.",
            _STAGE_BUCKETS,
            "stage",
        )

    def _count_streams(self) -> None:
        self._streams = self._gauge("meshca_streams_open", "Streams open now.", "service")
        self._pushes = self._counter("meshca_pushes", "Messages written to streams.", "service")
        self._acks = self._counter("meshca_acks", "Resources that a client accepted.", "service")
        self._nacks = self._counter("meshca_nacks", "Responses that a client refused.", "service")
        self._denials = self._counter("meshca_denials", "Callers without an identity that were turned away.", "service")
        self._delivery = self._histogram(
            "meshca_delivery_latency_seconds",
            "From when it could be sent until it was accepted.",
            _DELIVERY_BUCKETS,
            "service",
        )
        self._shed = self._counter("meshca_connections_shed", "Connections closed at once, since a limit was reached.")
        for service in get_args(Service):  # same
            for metric in (self._streams, self._pushes, self._acks, self._nacks, self._denials, self._delivery):
                metric.labels(service)

    def _gauge_standing(self) -> None:
        self._ready = self._gauge("meshca_ready", "1 if the last self-test was good, and within the last minute.")
        self._authorities = self._gauge("meshca_authorities", "Authorities by kind and state.", "kind", "state")
        self._expiry = self._gauge(
            "meshca_earliest_expiry_timestamp_seconds",
            "When the first one in use ends; 0 while there is none.",
            "credential",
        )
        self._holders = self._gauge("meshca_holders", "Processes that have a leaf of ours.")
        self._behind = self._gauge("meshca_holders_behind", "Holders not known to have the published bundle.")
        self._alarms = self._gauge("meshca_alarms", "Alarms raised now; `meshca status` tells them.")
        self._audit_head = self._gauge(
            "meshca_audit_head_sequence", "The last link of the issuance record. It never falls."
        )
        self._connections = self._gauge("meshca_connections_open", "Connections at the gate.")

    def issued(self, leaves: int = 1) -> None:
        """Leaves were signed and recorded."""
        self._issued.inc(leaves)

    def refused(self, reason: RefusalReason) -> None:
        """A leaf was refused."""
        self._refused.labels(reason).inc()

    def stage(self, name: str, seconds: float) -> None:
        """A stage of issuance took this much CPU time: what the Issuer's `observe` takes."""
        self._stages.labels(name).observe(seconds)

    def stream_opened(self, service: Service) -> None:
        """See Observer."""
        self._streams.labels(service).inc()
        self.open_streams += 1

    def stream_closed(self, service: Service) -> None:
        """See Observer."""
        self._streams.labels(service).dec()
        self.open_streams -= 1

    def pushed(self, service: Service) -> None:
        """See Observer."""
        self._pushes.labels(service).inc()

    def acked(self, service: Service, seconds: float) -> None:
        """See Observer."""
        self._acks.labels(service).inc()
        self._delivery.labels(service).observe(seconds)

    def nacked(self, service: Service) -> None:
        """See Observer."""
        self._nacks.labels(service).inc()

    def denied(self, service: Service) -> None:
        """See Observer."""
        self._denials.labels(service).inc()

    def connection_shed(self) -> None:
        """A connection was closed at once, since a limit was reached."""
        self._shed.inc()
        self.connections_shed += 1

    def render(self, standing: Standing) -> bytes:
        """All metrics in Prometheus' text format, with how things stand now."""
        self._ready.set(standing.ready)
        self._holders.set(standing.holders)
        self._behind.set(standing.behind)
        self._alarms.set(standing.alarms)
        self._audit_head.set(standing.audit_head)
        self._connections.set(standing.connections)
        self._set_authorities(standing.slots)
        self._set_expiry("leaf", standing.earliest_leaf)
        return generate_latest(self.registry)

    def _set_authorities(self, slots: Slots) -> None:
        for kind in Kind:
            active = slots.active(kind)
            self._set_expiry(kind.value, active.not_after if active else None)
            for state in State:
                self._authorities.labels(kind.value, state.value).set(len(slots.of(kind, state)))

    def _set_expiry(self, credential: str, at: datetime | None) -> None:
        self._expiry.labels(credential).set(at.timestamp() if at else 0)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(name, text, labels, registry=self.registry, buckets=buckets)
