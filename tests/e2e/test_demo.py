"""`meshca demo`, as a newcomer runs it."""

import json

import pytest

from tests.support.command import meshca

pytestmark = pytest.mark.envoy

SECONDS = 5


async def test_the_demo_shows_all_that_it_says_and_no_request_fails():
    ended = await meshca("demo", "--seconds", SECONDS, "--json", within=90)
    assert ended.code == 0, ended.out + ended.err
    figures = json.loads(ended.out.splitlines()[-1])
    assert figures["failures"] == 0, figures["failure_reasons"]
    assert set(figures["split"]) == {"v1", "v2"}
    assert figures["split"]["v1"] + figures["split"]["v2"] == pytest.approx(100, abs=0.02)
    assert figures["split"]["v1"] > 80  # 95 are asked; how near it comes is held with many more requests elsewhere
    assert 0 < figures["fault"]["percent"] < 30
    assert 0 < figures["breaker"]["overflowed"] < figures["breaker"]["requests"]
    assert 0 < figures["refused"]["requests"] == figures["refused"]["refused"]
    assert figures["leaf_rotations"] > 0
    assert [each.rpartition("/")[2] for each in figures["peer_ids"]] == ["api-v1", "api-v2", "frontend"]
