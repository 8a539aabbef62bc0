"""What must hold with many proxies: the first three are real Envoys, the others simulated incremental clients."""

import time
from pathlib import Path
from typing import Any

import pytest

from meshca.model import router_names
from meshca.router.admission import MOST_STREAMS
from spiffe.id import TrustDomain
from tests.bench.endpoints import spread
from tests.support.crowd import crowd
from tests.support.fleet import Fleet, fleet
from tests.support.routed import TRUST_DOMAIN
from tests.support.wait import until

pytestmark = [pytest.mark.envoy, pytest.mark.slow]


async def configuration(made: Fleet) -> list[Any]:
    """All that the real ones have, with the time at which they took each of it."""
    dumps = [await envoy.json("/config_dump") for envoy in made.envoys]
    kinds = ("ClustersConfigDump", "ListenersConfigDump", "RoutesConfigDump")
    return [each for dump in dumps for each in dump["configs"] if each["@type"].endswith(kinds)]


async def test_a_router_that_comes_back_to_two_hundred_proxies_resends_nothing(tmp_path: Path):
    async with fleet(tmp_path, simulated=197) as made:
        await made.take(20)
        before, had = await made.crowd.totals(), await configuration(made)
        started = time.monotonic()
        await made.restart_router()
        after = await made.crowd.totals()
        print(f"200 proxies were back after {time.monotonic() - started:.1f} s: {before} -> {after}")
        assert after["resources"] == before["resources"]
        assert await configuration(made) == had


async def test_a_certificate_is_good_for_so_many_streams_and_no_more(tmp_path: Path):
    async with fleet(tmp_path, simulated=1, real=0) as made:
        name, _ = router_names(TrustDomain(TRUST_DOMAIN))
        clients = made.running.router.clients
        async with crowd(made.running.port, name, [tmp_path / "crowd-1.sock"], MOST_STREAMS + 6):
            await until(lambda: len(clients) == 1 + MOST_STREAMS)
            made.exchange(1)
            await made.crowd.have_all(1)  # the others have been trying meanwhile
            assert len(clients) == 1 + MOST_STREAMS
        await until(lambda: len(clients) == 1)


async def test_an_endpoint_that_comes_or_goes_is_known_to_a_hundred_proxies(tmp_path: Path):
    async with fleet(tmp_path, simulated=97) as made:
        await made.take(20)
        print(await spread(made, rounds=10))
