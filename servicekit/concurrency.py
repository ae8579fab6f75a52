"""Many calls, a few of them at a time: a listing of thousands neither waits for each in turn nor floods the store."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
AT_ONCE = 16
"""Calls in flight."""


async def in_order(call: Callable[[T], Awaitable[R]], items: Sequence[T]) -> AsyncIterator[R]:
    """What the call returns for each item, in their order. Raises what a call raises.

    Later calls begin once earlier results were taken, so who stops early has made at most AT_ONCE in vain.
    """
    for start in range(0, len(items), AT_ONCE):
        for result in await asyncio.gather(*map(call, items[start : start + AT_ONCE])):
            yield result
