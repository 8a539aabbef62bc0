"""What the demo writes into its configuration directory: a service in two versions, and one object for each thing that is shown."""

from collections.abc import Mapping
from pathlib import Path

from meshca.bootstrap import SERVER_HEADER
from spiffe.id import SpiffeID

FRONTEND, STRANGER, V1, V2 = (
    SpiffeID.parse(f"spiffe://mesh.local/ns/default/sa/{name}") for name in ("frontend", "stranger", "api-v1", "api-v2")
)
HOST, FRESH, FAULTY, NARROW = "api-server", "new-connections.demo", "faults.demo", "narrow.demo"
"""The service, and names that lead to it otherwise: a connection for each request, with faults, and one request at a time."""

ASKED = {"v1": 95, "v2": 5}
FAULT_PERCENT, FAULT_STATUS = 10, 418

CANARY = """\
apiVersion: networking.istio.io/v1alpha3
kind: VirtualService
metadata:
  name: api-server
spec:
  hosts:
  - api-server
  http:
  - route:
    - destination:
        host: api-server
        subset: v1
      weight: 95
    - destination:
        host: api-server
        subset: v2
      weight: 5
"""

SERVICE = f"""\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: api-server}}
spec:
  hosts: [{HOST}]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{{number: 80, name: http, protocol: HTTP}}]
  workloadSelector: {{labels: {{app: api}}}}
"""
WORKLOAD = """\
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: api-{version}}}
spec:
  address: 127.0.0.1
  ports: {{http: {port}}}
  labels: {{app: api, version: {version}}}
  serviceAccount: api-{version}
"""

WAYS = f"""\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: ways}}
spec:
  host: {HOST}
  subsets:
  - name: fresh
    labels: {{app: api}}
    trafficPolicy: {{connectionPool: {{http: {{maxRequestsPerConnection: 1}}}}}}
  - name: narrow
    labels: {{version: v1}}
    trafficPolicy: {{connectionPool: {{tcp: {{maxConnections: 1}}, http: {{http1MaxPendingRequests: 1}}}}}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: new-connections}}
spec:
  hosts: [{FRESH}]
  http:
  - route: [{{destination: {{host: {HOST}, subset: fresh}}}}]
    headers: {{response: {{set: {{{SERVER_HEADER}: "%UPSTREAM_PEER_URI_SAN%"}}}}}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: narrow}}
spec:
  hosts: [{NARROW}]
  http:
  - route: [{{destination: {{host: {HOST}, subset: narrow}}}}]
    retries: {{attempts: 0}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: with-faults}}
spec:
  hosts: [{FAULTY}]
  http:
  - fault: {{abort: {{httpStatus: {FAULT_STATUS}, percentage: {{value: {FAULT_PERCENT}}}}}}}
    route: [{{destination: {{host: {HOST}}}}}]
"""

POLICY = """\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: api}
spec:
  selector: {matchLabels: {app: api}}
  rules:
  - from: [{source: {principals: [mesh.local/ns/default/sa/frontend]}}]
  - from: [{source: {principals: [mesh.local/ns/default/sa/stranger]}}]
    to: [{operation: {paths: [/health]}}]
"""


def write_scene(directory: Path, ports: Mapping[str, int]) -> None:
    """Write it. `ports` are those on which the versions are called."""
    workloads = "".join(WORKLOAD.format(version=version, port=port) for version, port in ports.items())
    texts = {"canary": CANARY, "services": SERVICE + workloads, "ways": WAYS, "policy": POLICY}
    directory.mkdir()
    for name, text in texts.items():
        (directory / f"{name}.yaml").write_text(text)
