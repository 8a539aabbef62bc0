"""The dashboard in deploy/grafana asks for nothing that real proxies, the real router and the real server do not tell."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from prometheus_client import generate_latest

from meshca.model import Slots
from meshca.router.metrics import registry
from meshca.telemetry import Standing, Telemetry
from spiffe.id import TrustDomain
from tests.support.routed import routed_mesh

DASHBOARD = json.loads((Path(__file__).parents[2] / "deploy/grafana/meshca.json").read_text())
CONFIGURATION = """\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: api-server}
spec:
  host: api-server
  trafficPolicy: {outlierDetection: {consecutive5xxErrors: 5}}
---
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: mesh, namespace: istio-system}
spec:
  accessLogging: [{}]
  metrics: [{providers: [{name: prometheus}]}]
  tracing: [{providers: [{name: otel}]}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: otel}
spec:
  hosts: [otel]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{number: 4317, name: grpc, protocol: GRPC}]
  endpoints: [{address: 127.0.0.1, ports: {grpc: 1}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: callers}
spec: {rules: [{to: [{operation: {methods: [GET]}}]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: fewer, annotations: {istio.io/dry-run: "true"}}
spec: {rules: [{to: [{operation: {paths: [/public]}}]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: not-these, annotations: {istio.io/dry-run: "true"}}
spec: {action: DENY, rules: [{to: [{operation: {paths: [/private]}}]}]}
"""
_SELECTOR = re.compile(r"([a-z_]+)\{([^}]*)\}")
_MATCHER = re.compile(r'(\w+)(=~?)"([^"]*)"')
_SAMPLE = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? \S+$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')
_GROUPING = re.compile(r"by \(([^)]*)\)")
_FUNCTIONS = {"by", "sum", "min", "max", "rate", "increase", "histogram_quantile", "time"}


class Selector(NamedTuple):
    """What an expression asks for: a metric, values of its labels, and the labels that it is grouped by."""

    metric: str
    matchers: tuple[tuple[str, str, str], ...]
    labels: frozenset[str]

    def picks(self, labels: Mapping[str, str]) -> bool:
        return all(_fits(how, value, labels.get(name, "")) for name, how, value in self.matchers)


def _fits(how: str, wanted: str, value: str) -> bool:
    return wanted == value if how == "=" else re.fullmatch(wanted.replace("$service", "outbound.*"), value) is not None


def panels() -> list[dict[str, Any]]:
    return [each for each in DASHBOARD["panels"] if each["type"] != "row"]


def expressions() -> list[str]:
    return [target["expr"] for panel in panels() for target in panel["targets"]]


def selectors(expression: str) -> Iterator[Selector]:
    labels = frozenset(name.strip() for names in _GROUPING.findall(expression) for name in names.split(","))
    for metric, matchers in _SELECTOR.findall(expression):
        yield Selector(metric, tuple(_MATCHER.findall(matchers)), labels - {"instance"})


def samples(*pages: str) -> dict[str, list[dict[str, str]]]:
    """The label sets of each metric. Prometheus adds `instance`. The client's own parser would add `_total` to Envoy's counters."""
    found: dict[str, list[dict[str, str]]] = {}
    for name, labels in _SAMPLE.findall("\n".join(pages)):
        found.setdefault(name, []).append(dict(_LABEL.findall(labels)))
    return found


def missing(known: Mapping[str, list[dict[str, str]]], asked: Iterable[Selector]) -> list[Selector]:
    return [
        each
        for each in asked
        if not any(each.picks(labels) and each.labels <= labels.keys() for labels in known.get(each.metric, ()))
    ]


def test_it_is_a_dashboard_that_grafana_can_import():
    ids = Counter(panel["id"] for panel in DASHBOARD["panels"])
    assert set(ids.values()) == {1}
    assert DASHBOARD["schemaVersion"] >= 39
    assert "id" not in DASHBOARD  # Grafana gives one
    assert [each["name"] for each in DASHBOARD["templating"]["list"]] == ["datasource", "service"]
    for panel in panels():
        assert panel["description"]
        assert {each["datasource"]["uid"] for each in [panel, *panel["targets"]]} == {"${datasource}"}
        assert len({each["refId"] for each in panel["targets"]}) == len(panel["targets"])


def test_no_two_panels_overlap():
    cells = Counter(
        (x, y)
        for panel in DASHBOARD["panels"]
        for place in [panel["gridPos"]]
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    )
    assert set(cells.values()) == {1}
    assert max(x for x, _ in cells) < 24


@pytest.mark.parametrize("expression", expressions())
def test_an_expression_holds_nothing_but_metrics_with_their_labels_and_known_functions(expression: str):
    rest = _GROUPING.sub("", _SELECTOR.sub("", expression)).replace("[$__rate_interval]", "")
    assert set(re.findall(r"[a-z_]+", rest)) <= _FUNCTIONS | {"le"}
    assert rest.count("(") == rest.count(")")
    assert list(selectors(expression))


@pytest.mark.envoy
async def test_each_panel_asks_for_metrics_and_labels_that_are_there(tmp_path: Path):
    async with routed_mesh(tmp_path, {"api-v1": "v1"}, ("mesh.yaml", CONFIGURATION)) as mesh:
        assert mesh.running.state.value.problems == ()
        assert (await mesh.ask(4)).bad == {}
        behaviour = mesh.replicas["api-v1"].behaviour
        behaviour.status = 500
        await mesh.ask(4)
        proxies = [await envoy.get("/stats/prometheus") for envoy in mesh.envoys.values()]
        router = generate_latest(registry(mesh.running, "0")).decode()
    standing = Standing(ready=True, slots=Slots(trust_domain=TrustDomain("mesh.local")))
    known = samples(*proxies, router, Telemetry(version="0").render(standing).decode())
    assert missing(known, (each for expression in expressions() for each in selectors(expression))) == []
