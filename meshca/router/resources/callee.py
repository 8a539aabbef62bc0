"""What holds where one listener stands for several places of a workload: those that have its port, as far as its proxy does not say more.

Rules: nobody knows which of them is called, so what the policies of any of them refuse is refused, and the strictest takes no plaintext.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

from envoy.config.listener.v3.listener_components_pb2 import Filter
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import HttpFilter

from meshca.router.mesh.endpoints import Instance
from meshca.router.mesh.objects import MTLSMode

_STRICTEST = (MTLSMode.STRICT, MTLSMode.PERMISSIVE, MTLSMode.DISABLE)


def strictest(modes: Iterable[MTLSMode]) -> MTLSMode:
    """The mode that lets in least."""
    return min(modes, key=_STRICTEST.index)


def http_filters(callees: Sequence[Instance], of: Callable[[Instance], Iterable[HttpFilter]]) -> tuple[HttpFilter, ...]:
    """The filters of all of these, each once, under names of their own: gRPC refuses two of one name."""
    made: dict[bytes, HttpFilter] = {}
    names: set[str] = set()
    for each in (each for callee in distinct(callees) for each in of(callee)):
        content = each.SerializeToString(deterministic=True)
        if content not in made:
            name = each.name if each.name not in names else f"{each.name}.{len(made)}"
            made[content] = HttpFilter(name=name, typed_config=each.typed_config)
            names.add(name)
    return tuple(made.values())


def network_filters(callees: Sequence[Instance], of: Callable[[Instance], Iterable[Filter]]) -> tuple[Filter, ...]:
    """The same for TCP, where names do not matter."""
    every = (each for callee in distinct(callees) for each in of(callee))
    return tuple({each.SerializeToString(deterministic=True): each for each in every}.values())


def distinct(callees: Iterable[Instance]) -> Iterator[Instance]:
    """One of each sort to which the same policies apply."""
    yield from {(each.namespace, frozenset(each.labels.items())): each for each in callees}.values()
