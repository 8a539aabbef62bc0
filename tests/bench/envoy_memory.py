"""What one Envoy takes in memory when the mesh grows and what its identity may call does not: scope keeps it flat.

Beside it the same Envoy in a mesh where everybody may call everything, which is what most control planes send.
"""

import tempfile
from pathlib import Path
from typing import Any

from tests.bench.process import resident_bytes
from tests.support.fleet import Fleet, fleet, service
from tests.support.wait import until

SERVICES = (50, 200, 1000)
CALLED = 10
POLICY = """\
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: {name}}}
spec:
  selector: {{matchLabels: {{app: {name}}}}}
  action: ALLOW
  rules:
  - from: [{{source: {{principals: [mesh.local/ns/default/sa/{account}]}}}}]
"""


async def measure(services: tuple[int, ...] = SERVICES) -> dict[str, Any]:
    """By number of services: scoped to ten of them, and with all."""
    return {
        f"{count}_services": {"scoped": await _measure(count, CALLED), "all": await _measure(count, count)}
        for count in services
    }


async def _measure(services: int, called: int) -> dict[str, float]:
    """`called` of the services let this Envoy in, the others only somebody else."""
    with tempfile.TemporaryDirectory() as directory:
        async with fleet(Path(directory), simulated=0, real=1) as made:
            text = "".join(_guarded(number, called) for number in range(services))
            (made.config / "mesh.yaml").write_text(text)
            await until(lambda: len(made.running.state.value.table.services) == services)
            await made.settled()
            return await _figures(made)


def _guarded(number: int, called: int) -> str:
    account = "real-0" if number < called else "somebody"
    labelled = service(number).replace(
        "ports: {http: 8443}", f"ports: {{http: 8443}}, labels: {{app: service-{number}}}"
    )
    return labelled + POLICY.format(name=f"service-{number}", account=account)


async def _figures(made: Fleet) -> dict[str, float]:
    envoy, (client,) = made.envoys[0], made.running.router.clients.values()
    clusters = (await envoy.stats(r"cluster_manager\.active_clusters"))["cluster_manager.active_clusters"]
    return {
        "resident_mib": round(resident_bytes(envoy.process.pid) / 2**20, 1),
        "allocated_mib": round(int((await envoy.json("/memory"))["allocated"]) / 2**20, 2),
        "clusters": clusters,
        "config_kib": round(sum(map(len, client.bodies)) / 1024, 1),
    }
