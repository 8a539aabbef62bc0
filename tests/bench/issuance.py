"""Issuance: CSRs in; verified, linted, recorded and signed SVIDs out. One process, one core, CPU time, and its ratio to the bound.

The bound is what no CA can avoid: one P-256 verification (the CSR's) and one P-256 signature. It is measured between the batches, so that
whatever else the machine does weighs on both alike. The record is a real SQLite store that syncs at each commit.
"""

import asyncio
import gc
import math
import os
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from meshca.adapters.store_sql import SqlStore
from meshca.authority.issue import Issuer, Order
from meshca.authority.recorder import Recorder
from meshca.clock import SystemClock
from meshca.csr import make_csr
from meshca.heap import settle_heap
from meshca.model import Issued, Slot
from tests.support.kernel import Kernel
from tests.support.values import entry

BATCHES = (1, 16, 64, 256)
SVIDS = 1536
CSRS = 256
TO_BE_SIGNED = 460  # bytes of a leaf before its signature
TO_BE_VERIFIED = 110  # bytes of a CSR before its signature

_HASH = ec.ECDSA(hashes.SHA256())


async def measure(svids: int = SVIDS, batches: Sequence[int] = BATCHES) -> dict[str, Any]:
    """The rate for each size of batch (group commit), that many SVIDs each."""
    orders = [Order(entry=entry(f"w{n}", ttl=timedelta(hours=1)), csr=_csr(), holder=f"p{n}") for n in range(CSRS)]
    with _one_core():
        async with _issuer() as (issuer, slot, stages):
            await issuer.issue(orders, slot)  # what is made once is not a leaf's cost
            settle_heap()  # as the server does when it is ready
            return {f"batches_of_{n}": await _rate(issuer, slot, stages, orders, (n, svids)) for n in batches}


async def _rate(
    issuer: Issuer, slot: Slot, stages: Counter[str], orders: Sequence[Order], sizes: tuple[int, int]
) -> dict[str, Any]:
    """Batch and bound by turns, until all are signed."""
    batch, svids = sizes
    work, bound = _Stopwatch(), _Stopwatch()
    verify_and_sign = _bound()
    stages.clear()
    rounds = -(-svids // batch)
    for start in range(0, rounds * batch, batch):
        some = [orders[(start + n) % len(orders)] for n in range(batch)]
        with work:
            outcomes = await issuer.issue(some, slot)
        assert all(isinstance(outcome, Issued) for outcome in outcomes)
        with bound:
            for _ in range(batch):
                verify_and_sign()
    return _figures(work, bound, stages, rounds * batch)


def _figures(work: "_Stopwatch", bound: "_Stopwatch", stages: Counter[str], svids: int) -> dict[str, Any]:
    shares = stages | Counter({"loop": work.cpu - sum(stages.values())})
    return {
        "svids": svids,
        "per_cpu_second": round(svids / work.cpu),
        "bound_per_cpu_second": round(svids / bound.cpu),
        "ratio_to_bound": round(bound.cpu / work.cpu, 3),
        "ratio_of_the_fastest_rounds": round(
            bound.fastest / work.fastest, 3
        ),  # what neighbours on the machine disturbed least
        "per_second_of_the_wall_clock": round(svids / work.wall),
        "cpu_microseconds": {stage: round(seconds / svids * 1e6, 1) for stage, seconds in shares.items()},
        "share": {stage: round(seconds / work.cpu, 3) for stage, seconds in shares.items()},
    }


class _Stopwatch:
    """CPU time of the process, all threads, and time of the wall clock, summed over its contexts, and the CPU time of the fastest."""

    def __init__(self) -> None:
        self.cpu = self.wall = 0.0
        self.fastest = math.inf

    def __enter__(self) -> None:
        self._started = time.process_time(), time.perf_counter()

    def __exit__(self, *_: object) -> None:
        cpu = time.process_time() - self._started[0]
        self.cpu += cpu
        self.fastest = min(self.fastest, cpu)
        self.wall += time.perf_counter() - self._started[1]


@asynccontextmanager
async def _issuer() -> AsyncIterator[tuple[Issuer, Slot, Counter[str]]]:
    """The server's issuer over a store on disk, and what each stage took."""
    clock, stages = SystemClock(), Counter[str]()

    def observe(stage: str, seconds: float) -> None:
        stages[stage] += seconds  # type: ignore[assignment]  # seconds are not whole

    with tempfile.TemporaryDirectory() as directory:
        async with SqlStore.open(f"sqlite:///{Path(directory) / 'store.db'}") as store:
            kernel = await Kernel.started(clock=clock, journal=store.journal, audit=store.audit)
            await kernel.rotation.tick()
            recorder = Recorder(log=store.audit, clock=clock, writer="server")
            await recorder.load()
            issuer = Issuer(
                keys=kernel.keys, recorder=recorder, clock=clock, default_ttl=timedelta(hours=1), observe=observe
            )
            yield issuer, kernel.intermediate, stages


@contextmanager
def _one_core() -> Iterator[None]:
    """All that runs in this thread, and in threads it starts, runs on one core; the heap is as it was after."""
    allowed, collect_after = os.sched_getaffinity(0), gc.get_threshold()
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)
        gc.set_threshold(*collect_after)
        gc.unfreeze()


def _bound() -> Any:
    """One verification and one signature, of messages as long as the real ones."""
    key, theirs = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    request, leaf = os.urandom(TO_BE_VERIFIED), os.urandom(TO_BE_SIGNED)
    public, signature = theirs.public_key(), theirs.sign(request, _HASH)

    def verify_and_sign() -> None:
        public.verify(signature, request, _HASH)
        key.sign(leaf, _HASH)

    return verify_and_sign


def _csr() -> bytes:
    return make_csr(ec.generate_private_key(ec.SECP256R1()))


if __name__ == "__main__":
    print(asyncio.run(measure()))
