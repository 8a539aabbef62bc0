import pytest

from meshca.router.mesh.state import State, following
from meshca.router.parsing.kinds import Parser
from meshca.router.resources.world import visible
from meshca.router.resources.worlds import world_of
from tests.support.routing import OURS, account

SERVICE = """\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: api, namespace: shop}
spec:
  hosts: [api]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}]
  endpoints: [{address: 10.0.0.1, serviceAccount: api}]
---
"""
POLICY = """\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: METADATA
spec: {rules: [{from: [{source: {principals: ["mesh.local/ns/default/sa/friend"]}}]}]}
"""


def is_open(metadata: str) -> bool:
    """Whether a stranger may call the service under a policy with this metadata."""
    texts = {"mesh.yaml": SERVICE + POLICY.replace("METADATA", metadata)}
    world = world_of(following(State(), Parser(OURS).parse(texts)), OURS)
    return visible(world, world.table.services["api"], account("stranger"))


@pytest.mark.parametrize(
    "metadata",
    [
        "{namespace: shop}",
        "{name: [guard], namespace: shop}",
        "{name: guard, namespace: Shop_1}",
        "[guard]",
        "{name: guard, namespace: shop, labels: 5}",
    ],
)
def test_a_policy_of_which_nobody_knows_where_it_belongs_opens_nothing(metadata: str):
    assert not is_open(metadata)


def test_a_policy_that_is_broken_closes_its_own_namespace_only():
    assert is_open("{name: guard, namespace: elsewhere, labels: 5}")
