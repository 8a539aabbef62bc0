"""From an endpoint written to the directory until it is in each of a hundred proxies: in Envoy as its own statistics tell."""

import asyncio
import tempfile
import time
from pathlib import Path
from typing import Any

from meshca.demo.envoys import Envoy
from tests.bench.quantiles import SHARES, quantiles
from tests.support.fleet import REAL, Fleet, fleet, key
from tests.support.wait import until

PROXIES, SERVICES, ROUNDS = 100, 50, 50


async def measure(
    proxies: int = PROXIES, services: int = SERVICES, rounds: int = ROUNDS, real: int = REAL
) -> dict[str, Any]:
    """An endpoint added and one removed, in turn."""
    with tempfile.TemporaryDirectory() as directory:
        async with fleet(Path(directory), simulated=proxies - real, real=real) as made:
            await made.take(services)
            return await spread(made, rounds=rounds)


async def spread(made: Fleet, *, rounds: int) -> dict[str, Any]:
    """The quantiles over all proxies and changes. Raises AssertionError when one does not get there."""
    simulated: list[float] = []
    envoys: list[float] = []
    for number in range(rounds):
        endpoints, before = 5 - number % 2, made.version(1)
        started = time.monotonic()
        made.write(1, endpoints)
        envoys += await asyncio.gather(*(_has(envoy, endpoints, started) for envoy in made.envoys))
        await until(lambda before=before: made.version(1) != before and made.running.is_settled, every=0.005)
        simulated += [at - started for at in await made.crowd.have(key(1).name, made.version(1))]
    return {
        name: {"samples": len(times), **quantiles(times, SHARES | {"longest_ms": 1.0}, digits=1)}
        for name, times in (("simulated", simulated), ("envoy", envoys))
    }


async def _has(envoy: Envoy, endpoints: int, started: float) -> float:
    name = f"cluster.{key(1).name}.membership_total"
    pattern = name.replace("|", r"\|").replace(".", r"\.")

    async def has() -> bool:
        return (await envoy.stats(pattern)).get(name) == endpoints

    await until(has, every=0.005)
    return time.monotonic() - started
