"""What a workload tells of its requests: whether it keeps a log, and where it sends how many spans with which tags. Pure.

Rules:
- As in Istio the more special Telemetry replaces what the more general one says, field by field: the root namespace's, then the
  namespace's, then that which selects the workload. Of several alike the first (by file and line) holds.
- Nothing written: nothing told. Spans without a place to go are not made.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from meshca.router.mesh.objects import MILLION, Origin
from meshca.router.mesh.table import ClusterKey, Reporting
from meshca.router.security.policy import ROOT_NAMESPACE

_T = TypeVar("_T")

DEFAULT_SAMPLING = MILLION // 100
"""Istio's 1 %, in millionths."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Telling:
    """What one workload tells, from the objects `origins`. No spans without a `collector`; `sampling` is in millionths."""

    client_log: bool = False
    server_log: bool = False
    metrics: bool = False
    collector: ClusterKey | None = None
    sampling: int = DEFAULT_SAMPLING
    tags: tuple[tuple[str, str], ...] = ()
    origins: tuple[Origin, ...] = ()

    @property
    def needs(self) -> frozenset[str]:
        """The names of the clusters that a listener refers to if it tells this."""
        return frozenset({self.collector.name} if self.collector else ())


def telling(reporting: Sequence[Reporting], namespace: str, labels: Mapping[str, str]) -> Telling:
    """What a workload of this namespace with these labels tells."""
    layers = tuple(_layers(reporting, namespace, labels))
    written = [each.written for each in layers]
    spans = _last(each.tracing for each in written)
    collector = _last(each.collector for each in layers)
    sampling = _last(each.sampling for each in written)
    return Telling(
        client_log=bool(_last(each.client_log for each in written)),
        server_log=bool(_last(each.server_log for each in written)),
        metrics=bool(_last(each.metrics for each in written)),
        collector=None if spans is False else collector,
        sampling=DEFAULT_SAMPLING if sampling is None else sampling,
        tags=_last(each.tags or None for each in written) or (),
        origins=tuple(each.origin for each in written),
    )


def _layers(reporting: Sequence[Reporting], namespace: str, labels: Mapping[str, str]) -> Iterator[Reporting]:
    """Those that hold for the workload, the most general first."""
    for home, selects in ((ROOT_NAMESPACE, False), (namespace, False), (namespace, True)):
        for each in reporting:
            selector = each.written.selector
            if (
                each.written.origin.namespace == home
                and bool(selector) is selects
                and selector.items() <= labels.items()
            ):
                yield each
                break


def _last(values: Iterable[_T | None]) -> _T | None:
    """The last that is said."""
    return next(iter([each for each in values if each is not None][::-1]), None)
