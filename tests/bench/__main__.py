"""Run the benchmarks and print one JSON object. `python -m tests.bench [NAME ...]` runs some of them."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from tests.bench import endpoints, envoy_memory, fanout, issuance, latency, memory, path, push

BENCHMARKS: dict[str, Callable[[], Awaitable[dict[str, Any]]]] = {
    "issuance": issuance.measure,
    "sds_fan_out": fanout.measure,
    "entry_to_envoy": latency.entry_to_envoy,
    "dial_to_svid": latency.dial_to_svid,
    "memory": memory.measure,
    "config_push": push.measure,
    "endpoint_to_proxies": endpoints.measure,
    "envoy_memory": envoy_memory.measure,
    "added_latency": path.measure,
}


async def run(names: list[str]) -> dict[str, Any]:
    """The figures by benchmark."""
    figures: dict[str, Any] = {}
    for name in names or BENCHMARKS:
        print(f"{name} ...", file=sys.stderr, flush=True)
        figures[name] = await BENCHMARKS[name]()
        print(json.dumps({name: figures[name]}, indent=1), file=sys.stderr, flush=True)
    return figures


if __name__ == "__main__":
    print(json.dumps(asyncio.run(run(sys.argv[1:]))))
