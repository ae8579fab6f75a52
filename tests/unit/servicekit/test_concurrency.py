"""Many calls side by side: results in order, never too many in flight, and none begun in vain for long."""

import asyncio

import pytest

from millstream.errors import Unavailable
from servicekit.concurrency import AT_ONCE, in_order


@pytest.mark.parametrize("count", [0, 1, AT_ONCE, AT_ONCE + 1, 5 * AT_ONCE])
async def test_results_are_in_the_order_of_the_items_whichever_comes_first(count: int) -> None:
    flying = most = 0

    async def call(number: int) -> int:
        nonlocal flying, most
        flying += 1
        most = max(most, flying)
        await asyncio.sleep(0.001 * (number % 3))
        flying -= 1
        return -number

    assert [result async for result in in_order(call, range(count))] == [-number for number in range(count)]
    assert most <= AT_ONCE and flying == 0


async def test_who_stops_early_has_begun_few_calls_in_vain() -> None:
    begun = 0

    async def call(number: int) -> int:
        nonlocal begun
        begun += 1
        return number

    async for result in in_order(call, range(10 * AT_ONCE)):
        if result == AT_ONCE:
            break
    assert begun == 2 * AT_ONCE


async def test_an_error_of_a_call_is_raised() -> None:
    async def call(number: int) -> int:
        if number == 3:
            raise Unavailable("away")
        return number

    with pytest.raises(Unavailable):
        [result async for result in in_order(call, range(10))]
