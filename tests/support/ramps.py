"""Ramps for tests: a VirtualService as a person writes it, and the values that stand for it."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from meshca.router.canary.ramp import Canary, Phase, Place, Progress, Ramp

NOW = datetime(2026, 11, 27, 6, 40, tzinfo=UTC)
RAMP = Ramp(to="v2", step=5, every=timedelta(minutes=1), max_5xx=10_000)

RAMPS = st.builds(
    Ramp,
    to=st.sampled_from(["v2", "next-1"]),
    step=st.integers(1, 100),
    every=st.integers(1, 86400).map(lambda seconds: timedelta(seconds=seconds)),
    max_5xx=st.integers(0, 999_999),
)
WEIGHTS = st.integers(0, 100)
PROGRESSES = st.builds(
    Progress,
    phase=st.sampled_from(Phase),
    start=WEIGHTS,
    weight=WEIGHTS,
    since=st.integers(0, 4 * 10**12).map(lambda ms: datetime(2000, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)),
    reason=st.text(max_size=20).filter(str.isprintable),
)

SERVICES = """\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: api-server}
spec:
  hosts: [api-server]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}]
  endpoints:
  - {address: 10.0.0.1, labels: {version: v1}, serviceAccount: api}
  - {address: 10.0.0.2, labels: {version: v2}, serviceAccount: api}
"""
ROUTE = """\
# How requests come to the API.
apiVersion: networking.istio.io/v1alpha3
kind: VirtualService
metadata:
  # ours
  name: api-server  # and nobody else's
spec:
  hosts:
  - api-server
  http:
  - route:
    - destination:
        host: api-server
        subset: v1
      weight: 100   # the old one
    - destination:
        host: api-server
        subset: v2
      weight: 0
"""


def canary(weight: int = 5, *, start: int = 0, phase: Phase = Phase.RUNNING, **changes: Any) -> Canary:
    """A ramp under way, by `RAMP` unless said otherwise; `written` is the weight that it wrote last."""
    written = changes.pop("written", weight)
    progress = Progress(phase=phase, start=start, weight=written, since=NOW)
    return Canary(ramp=replace(RAMP, **changes), place=Place(rule=0, to=1), weight=weight, progress=progress)


def annotated(line: str, route: str = ROUTE) -> str:
    """The route with an annotation that asks for a ramp."""
    return route.replace("metadata:\n", f"metadata:\n  annotations: {{meshca.dev/canary: {line}}}\n")
