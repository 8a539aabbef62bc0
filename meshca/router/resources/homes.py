"""Which workload a proxy is: what is said of workloads by namespace and labels holds for the proxies of callers, too. Pure.

Rules: only what the objects say of its identity counts. Its own address may choose between several places of that.
"""

from collections.abc import Iterable, Iterator
from itertools import chain

from meshca.router.mesh.endpoints import Instance, namespace_of
from meshca.router.mesh.objects import Object, WorkloadEntry
from meshca.router.mesh.table import Table
from meshca.router.resources.proxy import Proxy
from meshca.router.resources.world import World
from spiffe.id import SpiffeID


def home(world: World, proxy: Proxy) -> Instance:
    """The first place of its identity, in a service or not; else its namespace if it names that in the ns/sa scheme, without labels."""
    called = (instance for _, instance in world.places_of(proxy.identity))
    others = (each for each in world.rules.loose if each.identity == proxy.identity)
    mine = (each for each in chain(called, others) if proxy.is_at(each.address))
    return next(mine, None) or _nowhere(proxy.identity)


def loose(table: Table, objects: Iterable[Object]) -> Iterator[Instance]:
    """The workloads whose identity no service has: they only call."""
    called = {None}.union(*(service.by_identity for service in table.services.values()))
    for each in objects:
        if isinstance(each, WorkloadEntry) and each.endpoint.spiffe_id not in called:
            yield _instance(each)


def _instance(entry: WorkloadEntry) -> Instance:
    endpoint = entry.endpoint
    return Instance(
        address=endpoint.address,
        ports={},
        namespace=entry.origin.namespace,
        labels=endpoint.labels,
        identity=endpoint.spiffe_id,
    )


def _nowhere(identity: SpiffeID) -> Instance:
    return Instance(address="", ports={}, namespace=namespace_of(identity), identity=identity)
