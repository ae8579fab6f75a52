"""Waiting for what must come true. The bound ends only a test that hangs: none passes or fails by a machine's speed."""

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

HANG = 60.0
"""Seconds after which a wait has failed."""
FLOW = 240.0
"""The same for what a platform does as a whole: import, train, evaluate, promote, load."""


async def until(true: Callable[..., Any]) -> None:
    """Wait until the function, or the coroutine that it returns, gives something true. Raises TimeoutError."""
    async with asyncio.timeout(HANG):
        while True:
            found = true()
            if await found if inspect.isawaitable(found) else found:
                return
            await asyncio.sleep(0.002)
