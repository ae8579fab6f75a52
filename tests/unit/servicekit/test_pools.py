"""A pool bounds the threads of its purpose, and keeps the caller's context."""

import asyncio
from contextvars import ContextVar
from threading import Event

import pytest

from servicekit.pools import Pool

NAME: ContextVar[str] = ContextVar("name", default="")


async def test_work_beyond_the_threads_waits_in_order_and_other_pools_do_not() -> None:
    pool, other, release = Pool("one", 1), Pool("other", 1), Event()
    order: list[int] = []
    first = asyncio.create_task(pool.run(release.wait))
    later = [asyncio.create_task(pool.run(order.append, number)) for number in range(5)]
    assert await other.run(lambda a, b: a + b, 1, b=2) == 3
    assert not first.done() and order == []
    release.set()
    await asyncio.gather(first, *later)
    assert order == [0, 1, 2, 3, 4]


async def test_a_job_has_the_callers_context_and_its_error_is_the_callers() -> None:
    NAME.set("caller")
    assert await Pool("one", 1).run(NAME.get) == "caller"
    with pytest.raises(ZeroDivisionError):
        await Pool("one", 1).run(lambda: 1 // 0)
