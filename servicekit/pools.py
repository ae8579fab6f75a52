"""Threads for blocking work, a pool for each purpose, so that work of one kind never waits for work of another.

asyncio.to_thread's pool is shared by all that a process does and is small, so it is for short work alone. What user data can
hold for minutes, and what others must not wait for, has a pool of its own.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Pool:
    """Threads for one purpose, started when needed. Work beyond them waits in order."""

    def __init__(self, name: str, threads: int) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)

    async def run(self, job: Callable[P, T], /, *arguments: P.args, **named: P.kwargs) -> T:
        """What the job returns or raises, in the caller's context. Blocking work goes on when the caller is cancelled."""
        call = partial(copy_context().run, job, *arguments, **named)
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)
