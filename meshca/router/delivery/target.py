"""What a proxy is to have, and how far it is on its way there, as values.

Rules: they know nothing of how it gets there; that is `meshca.router.delivery.delivery`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from meshca.errors import InvalidInput
from sds.xds.resource import CLUSTER, ENDPOINT, LISTENER, ROUTE, Resource

CLUSTERS, ENDPOINTS, LISTENERS, ROUTES = (rules.type_url for rules in (CLUSTER, ENDPOINT, LISTENER, ROUTE))
ORDER = (CLUSTERS, ENDPOINTS, ROUTES, LISTENERS)
"""The types that are delivered, in the order in which they are sent (P14): no listener goes by rules that are older than itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a proxy is to have, by name. An endpoint resource has the name of its cluster; a cluster without one needs none.

    `needs` says to which clusters a listener or route configuration refers; the two share it where they share a name.
    """

    clusters: Mapping[str, Resource]
    endpoints: Mapping[str, Resource]
    listeners: Mapping[str, Resource]
    routes: Mapping[str, Resource]
    needs: Mapping[str, frozenset[str]]

    def check(self) -> None:
        """Raises InvalidInput if a cluster that something needs is not here."""
        for name, needs in self.needs.items():
            if missing := needs.difference(self.clusters):
                raise InvalidInput(f"{name} needs clusters that are not there: {', '.join(sorted(missing))}")

    @property
    def others(self) -> tuple[Mapping[str, object], ...]:
        """All but the endpoints."""
        return self.clusters, self.listeners, self.routes, self.needs

    def of(self, type_url: str) -> Mapping[str, Resource]:
        """The resources of a type."""
        return (self.clusters, self.endpoints, self.routes, self.listeners)[ORDER.index(type_url)]


EMPTY = Target(clusters={}, endpoints={}, listeners={}, routes={}, needs={})


class Phase(StrEnum):
    """What is waited for: clusters and endpoints; listeners and routes; the end of old clusters; nothing."""

    WIDEN = "widen"
    SWITCH = "switch"
    NARROW = "narrow"
    STEADY = "steady"


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A listener or route that is not as the target wants it. Without `clusters` it waits for the proxy's answer, else for these."""

    type_url: str
    name: str
    clusters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A resource of the target that the proxy refused, in its words. `proof` is what its builder put there: where it came from."""

    type_url: str
    name: str
    version: str
    text: str
    proof: object


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How far a proxy is.

    `held_back` needs what was refused, so it waits for another target. `objection` is the text of a refusal of nothing new.
    """

    phase: Phase
    since: datetime | None
    is_late: bool
    waiting: tuple[Waiting, ...]
    held_back: tuple[Waiting, ...]
    refused: tuple[Refusal, ...]
    objection: str
