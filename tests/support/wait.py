"""Waiting on conditions: what tests do instead of sleeping."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any


async def until(
    condition: Callable[[], Any] | Callable[[], Awaitable[Any]], *, within: float = 20.0, every: float = 0.02
) -> Any:
    """Poll until the condition is truthy and return what it gave. Raises AssertionError with its last word after `within` seconds."""
    deadline = time.monotonic() + within
    while True:
        outcome = condition()
        value = await outcome if inspect.isawaitable(outcome) else outcome
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within} s: {inspect.getsource(condition).strip()} (last: {value!r})")
        await asyncio.sleep(every)
