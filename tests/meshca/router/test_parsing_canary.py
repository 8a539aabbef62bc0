import pytest

from meshca.router.canary.ramp import Phase, ramp_text
from meshca.router.mesh.objects import VirtualService
from tests.support.documents import read
from tests.support.ramps import ROUTE, annotated

LINE = "to=v2 step=5 every=1m max-5xx=1%"


def test_a_ramp_is_read_with_the_weight_that_is_written():
    (found,) = read(annotated(LINE)).objects
    assert isinstance(found, VirtualService)
    assert found.canary
    assert ramp_text(found.canary.ramp) == LINE
    assert (found.canary.place.rule, found.canary.place.to, found.canary.weight) == (0, 1, 0)
    assert found.canary.progress is None


def test_progress_is_read_with_its_reason():
    state = "phase=stepped-back start=0 weight=0 since=2026-11-27T06:40:00Z"
    more = f'  annotations:\n    meshca.dev/canary-state: {state}\n    meshca.dev/canary-reason: "all: failed"\n'
    text = ROUTE.replace("metadata:\n", f"metadata:\n{more}    meshca.dev/canary: {LINE}\n")
    (found,) = read(text).objects
    assert isinstance(found, VirtualService)
    assert found.canary
    assert found.canary.progress
    assert (found.canary.progress.phase, found.canary.progress.reason) == (Phase.STEPPED_BACK, "all: failed")


def test_an_annotation_that_can_not_be_read_is_told_by_line_and_field():
    (problem,) = read(annotated("to=v2 step=0 every=1m max-5xx=1%")).problems
    assert str(problem).endswith(
        ".yaml:5: VirtualService default/api-server: metadata.annotations[meshca.dev/canary]: step 0 is not between 1 and 100"
    )


@pytest.mark.parametrize(
    ("was", "becomes", "said"),
    [
        ("subset: v2", "subset: v3", "no rule routes to subset 'v2'"),
        ("weight: 100", "weight: 99", "add up to 99, not to 100"),
        ("subset: v1", "subset: v2", "must have two destinations, and one of them subset 'v2'"),
        ("  http:\n", "  http:\n  - {match: [{uri: {prefix: /x}}], route: [{destination: {host: a, subset: v2}}]}\n", "say it once"),
    ],
)  # fmt: skip
def test_rules_that_do_not_fit_end_the_ramp_and_not_the_route(was: str, becomes: str, said: str):
    parsed = read(annotated(LINE, ROUTE.replace(was, becomes)))
    (found,) = parsed.objects
    assert isinstance(found, VirtualService)
    assert found.canary is None
    assert parsed.problems == ()
    assert [str(each) for each in parsed.warnings if said in each.text and "takes no part" in each.text]


def test_routes_of_gateway_api_have_no_ramp():
    text = """\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: api, annotations: {meshca.dev/canary: to=v2 step=5 every=1m max-5xx=1%}}
spec:
  parentRefs: [{kind: Service, group: "", name: api}]
  rules: [{backendRefs: [{name: api, port: 80}]}]
"""
    assert any("meshca.dev/canary" in str(problem) for problem in read(text).problems)
