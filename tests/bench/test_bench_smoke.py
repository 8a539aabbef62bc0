"""The benchmarks run, at sizes too small to tell anything: no figure is judged here."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest

from tests.bench import endpoints, envoy_memory, fanout, issuance, latency, memory, path, push

SMALL: dict[str, Callable[[], Awaitable[dict[str, Any]]]] = {
    "issuance": partial(issuance.measure, svids=8, batches=(1, 4)),
    "sds_fan_out": partial(fanout.measure, connections=20),
    "dial_to_svid": partial(latency.dial_to_svid, cold_rounds=1, warm_rounds=3),
    "memory": partial(memory.measure, workloads=3),
}


@pytest.mark.parametrize("name", SMALL)
async def test_each_benchmark_runs_and_gives_figures(name: str):
    assert all(numbers(await SMALL[name]()))


WITH_ENVOY: dict[str, Callable[[], Awaitable[dict[str, Any]]]] = {
    "entry_to_envoy": partial(latency.entry_to_envoy, rounds=2),
    "config_push": partial(push.measure, services=(5,), proxies=3, real=1),
    "endpoint_to_proxies": partial(endpoints.measure, proxies=3, services=2, rounds=2, real=1),
    "envoy_memory": partial(envoy_memory.measure, services=(2,)),
    "added_latency": partial(path.measure, requests=20, lanes=(1,)),
}


@pytest.mark.envoy
@pytest.mark.parametrize("name", WITH_ENVOY)
async def test_each_benchmark_with_an_envoy_runs_and_gives_figures(name: str):
    assert all(numbers(await WITH_ENVOY[name]()))


def numbers(figures: dict[str, Any]) -> list[bool]:
    """Whether each leaf of the figures is a number."""
    leaves = [numbers(each) if isinstance(each, dict) else [isinstance(each, int | float)] for each in figures.values()]
    return [each for some in leaves for each in some]
