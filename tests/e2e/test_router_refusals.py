"""What a real Envoy refuses, put past our own checks by the test: one thing among many, and the others are live."""

import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment

from meshca.router.mesh.state import State, following
from meshca.router.parsing.kinds import Parser
from meshca.router.resources.world import Made, World, origins
from meshca.router.resources.worlds import world_of
from meshca.router.status import status
from sds.xds.resource import Resource
from sds.xds.wire import pack
from tests.support.fleet import Fleet, fleet, key, service
from tests.support.routing import OURS
from tests.support.wait import until

pytestmark = pytest.mark.envoy

BAD = 7


def bad_cluster(name: str, proof: object) -> Resource:
    """Endpoints by EDS, and nobody says from whom: Envoy names the cluster when it refuses it."""
    return pack(name, Cluster(name=name, type=Cluster.EDS), proof)


def bad_assignment(name: str, proof: object) -> Resource:
    """An address that is none: Envoy refuses the whole response, and says of whom it is not."""
    made = ClusterLoadAssignment(cluster_name=name)
    address = made.endpoints.add().lb_endpoints.add().endpoint.address.socket_address
    address.address, address.port_value = "not-an-address", 80
    return pack(name, made, proof)


def with_bad(world: World, **changes: Resource) -> World:
    """A world with another cluster or assignment of the bad service."""
    service, where = world.table.services[key(BAD).host], key(BAD)
    cluster, assignment = world.resources(where)
    wrong = {"cluster": cluster, "assignment": assignment, **changes}
    identities = frozenset([*world.identities[where.host]])  # another object: so something of this host has changed
    entry = Made(service, identities, frozenset(), wrong["cluster"], wrong["assignment"])
    return replace(world, made={**world.made, where: entry}, identities={**world.identities, where.host: identities})


def new_world(services: int) -> World:
    """What that many services are, all at once."""
    texts = {f"service-{number}.yaml": service(number) for number in range(services)}
    world = world_of(following(State(), Parser(OURS).parse(texts)), OURS)
    return world.following(world)


def refusals(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [each for each in caplog.records if each.message == "configuration refused by a proxy"]


def told(made: Fleet) -> Any:
    """What status tells of the real proxy."""
    proxies = status(made.running.router, made.running.state.value, {})["proxies"]
    return next(each for each in proxies if each["node"] == "real-0")


async def refused(made: Fleet) -> list[Any]:
    """Its refusals, once there is any."""
    return list(await until(lambda: told(made)["refused"]))


@pytest.mark.slow
async def test_one_bad_cluster_of_five_hundred_is_named_refused_once_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    async with fleet(tmp_path, simulated=1, real=1) as made:
        await made.take(500)
        name, proof = key(BAD).name, origins(made.running.state.value.table.services[key(BAD).host])
        world = made.running.worlds.value
        assert world is not None
        made.running.wanted.set(with_bad(world, cluster=bad_cluster(name, proof)))
        (refusal,) = await refused(made)
        assert refusal["resource"] == name
        assert refusal["objects"] == [f"ServiceEntry default/service-{BAD} (service-{BAD}.yaml:2)"]
        made.write(8, 5)
        await until(lambda: made.running.is_settled)
        assert len(refusals(caplog)) == 1
        clusters = told(made)["types"]["CDS"]
        assert (clusters["resources"], clusters["acked"], clusters["nacked"]) == (500, 499, 1)
        stats = await made.envoys[0].stats(r"cluster\.outbound.*membership_total")
        assert len(stats) == 500


async def test_one_bad_assignment_that_envoy_does_not_name_is_found_by_halves(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    services, name = 64, key(BAD).name
    async with fleet(tmp_path, simulated=1, real=1) as made:
        world = new_world(services)
        proof = origins(world.table.services[key(BAD).host])
        made.running.wanted.set(with_bad(world, assignment=bad_assignment(name, proof)))
        (refusal,) = await refused(made)
        assert refusal["resource"] == name
        print(f"{len(refusals(caplog))} refusals for one bad assignment of {services}")
        assert 1 < len(refusals(caplog)) <= math.ceil(math.log2(services)) + 1

        async def all_others() -> bool:
            stats = await made.envoys[0].stats(r"cluster\.outbound.*membership_total")
            return sum(each == 4 for each in stats.values()) == services - 1

        await until(all_others)
