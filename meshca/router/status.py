"""What the router knows of its proxies and of its configuration, as JSON over HTTP on a Unix socket of mode 0600.

Rules: it only tells; nothing can be changed here. Who may connect is the file's mode to say: root and the router's own user.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from aiohttp import web

from meshca.router.ads import Client, Router, target
from meshca.router.canary.ramping import Observed
from meshca.router.delivery.target import CLUSTERS, EMPTY, ENDPOINTS, LISTENERS, ROUTES, Standing, Waiting
from meshca.router.mesh.objects import Origin
from meshca.router.mesh.state import State
from meshca.router.resources.inbound import obstacles
from sds.unix_socket import SocketSpec, listen
from sds.xds.resource import Resource, combined_version, versions

Json = dict[str, Any]

SOCKET_MODE = 0o600
_DRAIN_SECONDS = 1.0
TYPES = {"CDS": CLUSTERS, "EDS": ENDPOINTS, "LDS": LISTENERS, "RDS": ROUTES}
"""What people call the types that are delivered."""


@asynccontextmanager
async def serve_status(path: Path, tell: Callable[[], Json]) -> AsyncIterator[None]:
    """Answer `GET /status` at this socket while the context is open. Raises SDSError when the path can not be taken."""

    async def show(_: web.Request) -> web.Response:
        return web.json_response(tell())

    application = web.Application()
    application.add_routes([web.get("/status", show)])
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=_DRAIN_SECONDS)
    await runner.setup()
    listener = listen(SocketSpec(name="router", path=path, mode=SOCKET_MODE))
    try:
        await web.SockSite(runner, listener.socket).start()
        yield
    finally:
        await runner.cleanup()
        listener.close()


def status(router: Router, state: State, ramps: Mapping[str, Observed]) -> Json:
    """All of it: each problem of the configuration, each proxy with how far it is, and each ramp with what was seen of it."""
    return {
        "objects": len(state.good),
        "problems": [str(problem) for problem in state.problems],
        "warnings": [str(problem) for problem in state.warnings],
        "proxies": [_proxy(client) for client in router.clients.values()],
        "canaries": [_canary(each) for each in ramps.values()],
    }


def _canary(observed: Observed) -> Json:
    """Weights and shares are percentages of the new version; `seen` is since the present weight was written, or the router started."""
    ramped, seen, canary = observed.ramped, observed.seen, observed.ramped.canary
    ramp, progress, total = canary.ramp, canary.progress, seen.total
    ended = bool(progress and not progress.phase.is_live)
    return {
        "object": ramped.origin.label,
        "file": ramped.origin.file,
        "hosts": list(ramped.hosts),
        "to": ramp.to,
        "step": ramp.step,
        "every_seconds": ramp.every.total_seconds(),
        "max_5xx": ramp.percent,
        "phase": progress.phase if progress else None,
        "start": progress.start if progress else None,
        "weight": canary.weight,
        "since": _time(progress.since if progress else None),
        "reason": progress.reason if progress else "",
        "waits_for": "" if ended else observed.decision.reason,
        "next_step": None if ended else _time(seen.since + ramp.every),
        "seen": {
            "since": _time(seen.since),
            "last_report": _time(seen.heard),
            "reporters": len(seen.tallies),
            "share": seen.share,
            "requests": total.finished,
            "errors": total.errors,
            "error_rate": 100 * total.errors / total.finished if total.finished else None,
        },
        "problem": observed.problem,
    }


def _proxy(client: Client) -> Json:
    standing, bodies = client.delivery.standing(), client.bodies
    wanted = target(client.view) if client.view else EMPTY
    return {
        "spiffe_id": str(client.peer.spiffe_id),
        "node": client.node,
        "address": client.proxy.address or None,
        "dials_from": client.peer.dials_from,
        "since": _time(client.since),
        "certificate_until": _time(client.peer.not_after),
        "config_bytes": sum(map(len, bodies)),
        "resources": len(bodies),
        "obstacles": list(obstacles(client.world, client.proxy)) if client.world and not client.proxy.is_grpc else [],
        "types": {name: _type(client, standing, type_url, wanted.of(type_url)) for name, type_url in TYPES.items()},
        **_standing(standing),
    }


def _type(client: Client, standing: Standing, type_url: str, resources: Mapping[str, Resource]) -> Json:
    """What it is to have of a type, under one version for all of it, and what it said to that."""
    return {
        "version": combined_version(versions(resources.values())) if resources else "",
        "resources": len(resources),
        "acked": client.delivery.accepted(type_url, resources),
        "nacked": sum(each.type_url == type_url for each in standing.refused),
    }


def _standing(standing: Standing) -> Json:
    return {
        "phase": standing.phase.value,
        "phase_since": _time(standing.since),
        "late": standing.is_late,
        "waits_for": [_waiting(each) for each in standing.waiting],
        "held_back": [_waiting(each) for each in standing.held_back],
        "refused": [
            {"resource": each.name, "text": each.text, "objects": _objects(each.proof)} for each in standing.refused
        ],
        "objection": standing.objection,
    }


def _waiting(waiting: Waiting) -> Json:
    return {"resource": waiting.name, "clusters": list(waiting.clusters)}


def _objects(proof: object) -> list[str]:
    """The objects that a resource came from, by label and place."""
    origins = [each for each in proof if isinstance(each, Origin)] if isinstance(proof, tuple) else []
    return [f"{each.label} ({each.file}:{each.line})" for each in origins]


def _time(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat(timespec="milliseconds")
