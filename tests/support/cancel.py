"""Cancelling an operation at every step it has."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

_TURNS = (*range(12), 20, 40, 80)


async def cancelled_at_each_step(
    operation: Callable[[int], Coroutine[Any, Any, Any]], check: Callable[[int], Awaitable[None]]
) -> None:
    """Start `operation(n)`, cancel it after a while that grows with n, and `check(n)` what it left."""
    for number, turns in enumerate(_TURNS):
        task = asyncio.create_task(operation(number))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        await check(number)
