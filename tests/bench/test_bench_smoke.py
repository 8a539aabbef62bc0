"""The benchmarks run, at sizes too small to tell anything: no figure is judged here."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest

from tests.bench import fanout, issuance, latency, memory

SMALL: dict[str, Callable[[], Awaitable[dict[str, Any]]]] = {
    "issuance": partial(issuance.measure, svids=8, batches=(1, 4)),
    "sds_fan_out": partial(fanout.measure, connections=20),
    "dial_to_svid": partial(latency.dial_to_svid, cold_rounds=1, warm_rounds=3),
    "memory": partial(memory.measure, workloads=3),
}


@pytest.mark.parametrize("name", SMALL)
async def test_each_benchmark_runs_and_gives_figures(name: str):
    assert all(numbers(await SMALL[name]()))


@pytest.mark.envoy
async def test_the_benchmark_with_an_envoy_runs_and_gives_figures():
    assert all(numbers(await latency.entry_to_envoy(rounds=2)))


def numbers(figures: dict[str, Any]) -> list[bool]:
    """Whether each leaf of the figures is a number."""
    leaves = [numbers(each) if isinstance(each, dict) else [isinstance(each, int | float)] for each in figures.values()]
    return [each for some in leaves for each in some]
