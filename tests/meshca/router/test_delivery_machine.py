"""Any order of targets, answers, refusals, silence and reconnects, against real sessions and a model Envoy.

At every moment each cluster to which the Envoy's listeners and routes send requests is there and has its endpoints, and nothing that it
refused is sent again in the same company; once it answers, it has all of the target that it does not refuse.
"""

from typing import NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from meshca.router.delivery.delivery import Delivery
from meshca.router.delivery.target import Phase, Target
from sds.xds.resource import Resource, versions
from tests.support.clock import FakeClock
from tests.support.envoy_model import CDS, EDS, LDS, RDS, Envoy, Stream, made, read

STATIC = "static"
CLUSTERS = ("a", "b", "c", STATIC)
CONTENT = st.integers(0, 2)
USES = st.frozensets(st.sampled_from(CLUSTERS), max_size=2)


class Wanted(NamedTuple):
    """A small configuration by contents: two listeners with routes by RDS, one that sends to its clusters itself."""

    clusters: dict[str, tuple[int, int]]
    """Of each cluster and of its endpoints."""
    routes: dict[str, tuple[int, int, frozenset[str]]]
    """Of each route configuration and of its listener."""
    tcp: dict[str, tuple[int, frozenset[str]]]

    @property
    def target(self) -> Target:
        uses = {name: uses for name, (_, _, uses) in self.routes.items()} | {
            name: uses for name, (_, uses) in self.tcp.items()
        }
        tcp = {name: made(name, content, uses=uses[name]) for name, (content, _) in self.tcp.items()}
        http = {name: made(name, f"http {content}", routes=[name]) for name, (_, content, _) in self.routes.items()}
        return Target(
            clusters={name: made(name, content, eds=name != STATIC) for name, (content, _) in self.clusters.items()},
            endpoints={name: made(name, content) for name, (_, content) in self.clusters.items() if name != STATIC},
            listeners=http | tcp,
            routes={name: made(name, content, uses=uses[name]) for name, (content, _, _) in self.routes.items()},
            needs=uses,
        )


@st.composite
def wanted_(draw: st.DrawFn) -> Wanted:
    routes = draw(st.dictionaries(st.sampled_from(("r", "s")), st.tuples(CONTENT, CONTENT, USES), max_size=2))
    tcp = draw(st.dictionaries(st.just("tcp"), st.tuples(CONTENT, USES)))
    used = frozenset[str]().union(*(each[-1] for each in (*routes.values(), *tcp.values())))
    idle = draw(st.frozensets(st.sampled_from(CLUSTERS), max_size=1))
    return Wanted({name: (draw(CONTENT), draw(CONTENT)) for name in sorted(used | idle)}, routes, tcp)


BAD = st.frozensets(
    st.tuples(st.sampled_from((*CLUSTERS, "r", "s", "tcp")), st.sampled_from((1, 2, "http 1", "http 2"))), max_size=3
)


class DeliveryMachine(RuleBasedStateMachine):
    """An incremental client; what it has is known when it comes back."""

    delta = True

    @initialize(bad=BAD, named=st.booleans(), partial=st.booleans(), eager=st.booleans(), wanted=wanted_())
    def start(
        self, bad: frozenset[tuple[str, object]], *, named: bool, partial: bool, eager: bool, wanted: Wanted
    ) -> None:
        self.clock, self.eager, self.wanted, self.guarded = FakeClock(), eager, wanted.target, True
        self.envoy = Envoy(delta=self.delta, bad=set(bad), names_culprits=named, partial=partial)
        self.before = [self.wanted]
        self.connect()

    def connect(self) -> None:
        self.envoy.nacks.clear()
        self.delivery = Delivery()
        self.delivery.set_target(self.wanted, self.clock.now())
        self.stream = Stream(envoy=self.envoy, delivery=self.delivery, clock=self.clock, eager=self.eager)

    @rule(wanted=wanted_())
    def change(self, wanted: Wanted) -> None:
        self.aim(wanted.target)

    @rule(back=st.integers(1, 3))
    def revert(self, back: int) -> None:
        self.aim(self.before[-min(back, len(self.before))])

    def aim(self, target: Target) -> None:
        self.wanted = target
        self.before.append(target)
        self.stream.target(target)

    @rule()
    def answer(self) -> None:
        self.stream.read()

    @rule()
    def give(self) -> None:
        self.stream.give()

    @rule(seconds=st.sampled_from((1, 6)))
    def wait(self, seconds: int) -> None:
        self.stream.wait(seconds)

    @rule()
    def come_back(self) -> None:
        self.connect()

    @rule()
    def converge(self) -> None:
        for _ in range(20):
            self.stream.give()
            while self.stream.read() is not None:
                self.holds()
                self.stream.give()
            if self.delivery.next_deadline() is None:
                break
            self.stream.wait(1)
        assert not self.stream.unread
        self.check_end()

    def check_end(self) -> None:
        standing = self.delivery.standing()
        have = {type_url: versions(kept.values()) for type_url, kept in self.envoy.have.items()}
        refused = {(each.type_url, each.name) for each in standing.refused}
        for type_url in (CDS, EDS, LDS, RDS):
            for name, resource in self.wanted.of(type_url).items():
                if self.is_good(type_url, name):
                    assert have[type_url].get(name) == resource.version, name
                if (type_url, name) in refused:
                    assert self.is_bad(resource)
                    assert have[type_url].get(name) != resource.version
        if not refused and not standing.held_back:
            assert standing.phase is Phase.STEADY, standing
            assert have[CDS] == versions(self.wanted.clusters.values())
            assert have[LDS] == versions(self.wanted.listeners.values())
            assert not standing.waiting
            assert self.delivery.next_deadline() is None

    def is_bad(self, resource: Resource | None) -> bool:
        return resource is not None and (resource.name, read(resource)["content"]) in self.envoy.bad

    def is_good(self, type_url: str, name: str) -> bool:
        """Whether nothing keeps the Envoy from having a resource of the target as it is there."""
        wanted = self.wanted
        if type_url in {CDS, EDS}:
            return not self.is_bad(wanted.clusters[name]) and not self.is_bad(wanted.of(type_url)[name])
        needs = wanted.needs.get(name, frozenset())
        if type_url == RDS and name not in self.envoy.have[LDS]:
            return False
        below = [*(wanted.clusters[each] for each in needs), *(wanted.endpoints.get(each) for each in needs)]
        routes = [wanted.routes[each] for each in read(wanted.of(type_url)[name])["routes"]]
        ready = all(self.is_good(RDS, route.name) or route.name in self.envoy.have[RDS] for route in routes)
        return ready and not any(map(self.is_bad, [wanted.of(type_url)[name], *below]))

    @invariant()
    def holds(self) -> None:
        if not hasattr(self, "envoy"):
            return
        nacks = [nack for nack in self.envoy.nacks if nack]
        assert len(set(nacks)) == len(nacks), "the same bytes twice"
        if self.guarded:
            for cluster, users in self.envoy.in_use().items():
                assert self.envoy.is_served(cluster), f"{users} send to {cluster}"


class SotwDeliveryMachine(DeliveryMachine):
    """A state-of-the-world client: when it comes back with something old, its old routes may miss old clusters until all is settled."""

    delta = False

    @rule()
    def come_back(self) -> None:
        self.guarded = False
        super().come_back()

    def check_end(self) -> None:
        super().check_end()
        standing = self.delivery.standing()
        self.guarded = self.guarded or not (standing.refused or standing.held_back)
        self.holds()


TestDeliveryMachine = DeliveryMachine.TestCase
TestSotwDeliveryMachine = SotwDeliveryMachine.TestCase
TestDeliveryMachine.settings = TestSotwDeliveryMachine.settings = settings(
    max_examples=int(__import__("os").environ.get("N", 60)), stateful_step_count=30
)
