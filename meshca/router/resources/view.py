"""What one proxy gets: what its identity may call, and its own inbound ports. Pure.

Rules: each resource carries the objects that it came from, so that a NACK can be told in their terms.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from meshca.router.mesh.endpoints import Instance
from meshca.router.mesh.objects import Origin
from meshca.router.resources import listeners, transparent
from meshca.router.resources.homes import home
from meshca.router.resources.inbound import inbound_of
from meshca.router.resources.listeners import OUTBOUND, Inbound
from meshca.router.resources.outbound import Outbound, Outbounds
from meshca.router.resources.proxy import Proxy
from meshca.router.resources.reporting import of_client, of_server
from meshca.router.resources.telemetry import Telling
from meshca.router.resources.transparent import PASSTHROUGH
from meshca.router.resources.ways import Way, ways_in, ways_out
from meshca.router.resources.world import World, visible
from meshca.router.security.rbac import Sorts
from sds.xds.resource import Resource
from sds.xds.wire import pack


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """The resources of one proxy by type and name; `needs` says which clusters a listener or route configuration refers to."""

    clusters: Mapping[str, Resource]
    endpoints: Mapping[str, Resource]
    listeners: Mapping[str, Resource]
    routes: Mapping[str, Resource]
    needs: Mapping[str, frozenset[str]]
    basis: object = field(default=None, compare=False, repr=False)
    """What it was made of, but for endpoints where calls go out: if that is the same, so is all else."""


def view(world: World, proxy: Proxy, outbounds: Outbounds | None = None, before: View | None = None) -> View:
    """All that a proxy gets. With `outbounds` what it has in common with others is made once for all of them.

    With the view `before` nothing is made again where nothing but endpoints changed.
    """
    out = (outbounds or Outbounds()).of(world, proxy.identity)
    basis = _basis(world, proxy, out)
    if before and before.basis == basis:
        return replace(before, endpoints=out.endpoints)
    inbound = tuple(inbound_of(world, proxy))
    apps = {spec.name: pack(spec.name, listeners.inbound_cluster(spec)) for spec, _ in inbound}
    judged = {spec.name: _routes_in(world, spec, callees) for spec, callees in inbound if spec.protocol.is_http}
    tells = _heard(world, proxy, world.rules.tells(home(world, proxy)))
    answers = [_heard(world, proxy, world.rules.tells(callees[0])) for _, callees in inbound]
    spans = _collectors(world, out, (tells, *answers))
    main, *tcp = ways_out(proxy, out, of_client(tells, proxy.identity, proxy.log_path))
    main = replace(main, needs=main.needs | tells.needs, origins=tells.origins)
    made = [
        (spec, _way(world, proxy, spec, callees, answer))
        for (spec, callees), answer in zip(inbound, answers, strict=True)
    ]
    ways = {way.listener.name: way for way in (main, *tcp, *ways_in(proxy, made))}
    passes = proxy.transparent is not None and proxy.transparent.passes_unknown
    beyond = {PASSTHROUGH: pack(PASSTHROUGH, transparent.passthrough())} if passes else {}
    own = apps | {cluster.name: cluster for cluster, _ in spans} | beyond
    return View(
        clusters=out.clusters | own if own else out.clusters,
        endpoints=out.endpoints | {each.name: each for _, each in spans if each} if spans else out.endpoints,
        listeners={name: way.resource for name, way in ways.items()},
        routes={
            OUTBOUND: out.config_with(transparent.unclaimed()) if passes else out.config,
            **{each.name: each for each in judged.values()},
        },
        needs={
            **{name: way.needs for name, way in ways.items()},
            **{each.name: frozenset({app}) for app, each in judged.items()},
        },
        basis=None if spans else basis,
    )


def _basis(world: World, proxy: Proxy, out: Outbound) -> tuple[object, ...]:
    """All that a view is made of, but for the endpoints. What says most, and costs least to compare, comes first."""
    called = world.places_of(proxy.identity)
    return out.clusters, out.services, world.rules, world.own, proxy, called, out.offers


def _collectors(
    world: World, out: Outbound, tellings: Iterable[Telling]
) -> tuple[tuple[Resource, Resource | None], ...]:
    """Where spans go, if no route goes there: mostly it is a service like others, and all that is common stays common."""
    keys = {each.collector for each in tellings if each.collector and each.collector.name not in out.clusters}
    return tuple(world.resources(key) for key in keys)


def _heard(world: World, proxy: Proxy, told: Telling) -> Telling:
    """What of it there is somebody for: spans go where this identity may call, and a collector sends none of its own."""
    if told.collector is None:
        return told
    service = world.table.services[told.collector.host]
    is_collector = any(each.identity == proxy.identity for each in service.endpoints)
    if visible(world, service, proxy.identity) and not is_collector:
        return told
    return replace(told, collector=None)


def _way(world: World, proxy: Proxy, spec: Inbound, callees: Sequence[Instance], answers: Telling) -> Way:
    sorts = world.rules.sorts(callees)
    reports = of_server(answers, proxy.identity, proxy.log_path)
    listener = listeners.inbound(spec, world.own, sorts, reports)
    origins = answers.origins if spec.protocol.is_http else (*answers.origins, *_origins(sorts))
    return Way(listener=listener, needs=frozenset({spec.name}) | answers.needs, origins=origins)


def _routes_in(world: World, spec: Inbound, callees: Sequence[Instance]) -> Resource:
    """The route configuration of an HTTP port, which has its policies."""
    sorts = world.rules.sorts(callees)
    made = listeners.inbound_routes(spec, sorts)
    return pack(made.name, made, _origins(sorts))


def _origins(sorts: Sorts) -> tuple[Origin, ...]:
    return tuple(dict.fromkeys(policy.origin for policies in sorts for policy in policies))
