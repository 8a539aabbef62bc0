"""Configuration push: so many services to so many proxies, the first three of them real; all of it at once, then one endpoint."""

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from meshca.heap import settle_heap
from tests.support.crowd import Crowd
from tests.support.fleet import REAL, Fleet, fleet, key
from tests.support.wait import until

SERVICES = (100, 500, 1000)
PROXIES = 200
CHANGES = 30


async def measure(services: tuple[int, ...] = SERVICES, proxies: int = PROXIES, real: int = REAL) -> dict[str, Any]:
    """By number of services."""
    return {f"{count}_services": await _measure(count, proxies, real) for count in services}


async def _measure(services: int, proxies: int, real: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as directory:
        async with fleet(Path(directory), simulated=proxies - real, real=real) as made:
            settle_heap()  # as the router does when it serves
            return {"all": await _everything(made, services), "one_endpoint": await _endpoints(made, services)}


async def _everything(made: Fleet, services: int) -> dict[str, float]:
    """All services at once, each in a file, by exchanging the directory."""
    meter = await Meter.start(made.crowd)
    made.exchange(services)
    await until(
        partial(_has_all, made, meter.before["resources"] + made.crowd.size * 2 * services), within=300, every=0.1
    )
    return await meter.read(made.crowd)


async def _has_all(made: Fleet, resources: int) -> bool:
    standings = [client.delivery.standing() for client in made.running.router.clients.values()]
    is_steady = made.running.is_settled and not any(each.is_late for each in standings)
    return is_steady and (await made.crowd.totals())["resources"] >= resources


async def _endpoints(made: Fleet, services: int) -> dict[str, float]:
    """One endpoint more or fewer, several times."""
    figures = [await _one_endpoint(made, services // 2, 5 - number % 2) for number in range(CHANGES)]
    return {name: round(median(each[name] for each in figures), 3) for name in figures[0]}


async def _one_endpoint(made: Fleet, number: int, endpoints: int) -> dict[str, float]:
    before, meter = made.version(number), await Meter.start(made.crowd)
    made.write(number, endpoints)
    await until(lambda: made.version(number) != before and made.running.is_settled, every=0.005)
    await made.crowd.have(key(number).name, made.version(number))
    return await meter.read(made.crowd)


@dataclass(frozen=True, slots=True, kw_only=True)
class Meter:
    """What something costs this process, in which the router is, and the crowd."""

    before: Mapping[str, float]
    cpu: float
    started: float

    @classmethod
    async def start(cls, crowd: Crowd) -> "Meter":
        """Begin."""
        return cls(before=await crowd.totals(), cpu=time.process_time(), started=time.monotonic())

    async def read(self, crowd: Crowd) -> dict[str, float]:
        """The figures, up to what came last."""
        spent, after = time.process_time() - self.cpu, await crowd.totals()
        return {
            "router_cpu_seconds": round(spent, 3),
            "mebibytes": round((after["received"] - self.before["received"]) / 2**20, 3),
            "resources": after["resources"] - self.before["resources"],
            "seconds_to_the_last": round(after["last"] - self.started, 3),
        }
