"""Waiting for what must come true. The bound ends only a test that hangs: none passes or fails by a machine's speed."""

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

HANG = 60.0
"""Seconds after which a wait has failed."""


async def until(true: Callable[..., Any]) -> None:
    """Wait until the function, or the coroutine that it returns, gives something true. Raises TimeoutError."""
    async with asyncio.timeout(HANG):
        while True:
            found = true()
            if await found if inspect.isawaitable(found) else found:
                return
            await asyncio.sleep(0.002)
