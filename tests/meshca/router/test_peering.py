from dataclasses import replace

import pytest

from meshca.router.mesh.endpoints import Instance
from meshca.router.mesh.objects import MTLSMode, PeerAuthentication
from meshca.router.security.peering import mode
from tests.support.routing import origin

CALLEE = Instance(address="10.0.0.1", ports={80: 80}, namespace="prod", labels={"app": "api"})
STRICT, PERMISSIVE, DISABLE = MTLSMode.STRICT, MTLSMode.PERMISSIVE, MTLSMode.DISABLE


def said(what: MTLSMode | None, namespace: str = "prod", *, line: int = 1, **changes: object) -> PeerAuthentication:
    made = PeerAuthentication(origin=origin("PeerAuthentication", "x", namespace=namespace, line=line), mode=what)
    return replace(made, **changes)  # type: ignore[arg-type]


SELECTED = {"selector": {"app": "api"}}


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ([], STRICT),
        ([said(PERMISSIVE, "istio-system")], PERMISSIVE),
        ([said(PERMISSIVE, "istio-system"), said(DISABLE)], DISABLE),
        ([said(PERMISSIVE, "istio-system"), said(DISABLE), said(STRICT, **SELECTED)], STRICT),
        ([said(PERMISSIVE, "other")], STRICT),
        ([said(PERMISSIVE, selector={"app": "web"})], STRICT),
        ([said(None, **SELECTED), said(PERMISSIVE)], PERMISSIVE),
        ([said(STRICT, **SELECTED, port_modes={80: DISABLE})], DISABLE),
        ([said(STRICT, **SELECTED, port_modes={81: DISABLE})], STRICT),
        ([said(PERMISSIVE, line=2), said(DISABLE, line=1)], DISABLE),
    ],
    ids=["nothing", "root", "namespace", "workload", "another's", "not selected", "unset", "port", "other port", "tie"],
)
def test_the_most_special_word_wins_and_silence_means_strict(written: list[PeerAuthentication], expected: MTLSMode):
    assert mode(written, CALLEE, 80) is expected
