"""Resyncs: at start, periodically, again after a failure, and in full while events are missed."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from millstream.errors import DataLoss, Unavailable
from servicekit.bus.memory import MemoryBus
from servicekit.bus.port import Message
from tests.worlds.waiting import until
from tests.worlds.work import TOPIC, Thing, ThingKey, quick, working

pytestmark = pytest.mark.usefixtures("quick")
__all__ = ["quick"]


async def test_it_resyncs_at_start_and_periodically() -> None:
    thing = Thing()
    thing.open_keys = ["a"]
    async with working(thing, full_resync_seconds=0.01):
        await until(lambda: thing.done["a"] >= 3)


async def test_a_broadcast_reader_compares_in_full_while_the_bus_does_not_answer() -> None:
    thing = Thing()
    async with working(thing, resync_seconds=0.01, broadcast=True) as work:
        await until(lambda: thing.resyncs)
        before = thing.resyncs
        work.bus_answers(False)
        await until(lambda: thing.resyncs > before + 5)
        work.bus_answers(True)
        await until(lambda: work._pause_of_full(2) == 3600)


async def test_a_broadcast_reader_compares_in_full_after_a_message_that_it_cannot_use() -> None:
    bus, thing = MemoryBus(), Thing()
    async with working(thing, bus, broadcast=True) as work:
        await until(lambda: work.consumer.positioned.is_set() and thing.resyncs)
        before = thing.resyncs
        await bus.publish(Message(TOPIC, "key", b"\xff", {}))
        await until(lambda: thing.resyncs > before)


async def test_all_is_compared_at_the_pace_of_what_is_open_while_something_is_damaged() -> None:
    class Damaged(Thing):
        is_damaged = True

        async def pending(self) -> AsyncIterator[ThingKey | DataLoss]:
            async for key in super().pending():
                yield key
            if self.is_damaged:
                yield DataLoss("the stored object x is damaged", key="x")

    thing = Damaged()
    async with working(thing, resync_seconds=0.01) as work:
        await until(lambda: thing.resyncs > 3)
        thing.is_damaged = False
        await until(lambda: work._pause_of_full(2) == 3600)


async def test_a_second_comparison_follows_some_minutes_after_the_start() -> None:
    """By then the replicas of an older version, whose facts have no markers, are gone."""
    async with working(Thing()) as work:
        assert [work._pause_of_full(looks) for looks in (1, 2, 3)] == [300, 3600, 3600]


async def test_readers_of_a_group_do_not_for_what_is_published_is_open() -> None:
    thing = Thing()
    async with working(thing, resync_seconds=0.01) as work:
        await until(lambda: thing.resyncs)
        work.bus_answers(False)
        assert not any(each._now.is_set() for each in work._resyncs), "it compares in full for what a marker shows"
        assert work._pause_of_full(2) == 3600


async def test_a_resync_that_fails_is_retried_and_keeps_what_it_found() -> None:
    thing = Thing()
    thing.open_keys = ["a"]
    thing.resync_errors = [Unavailable("away"), ValueError("bug"), Unavailable("away")]
    async with working(thing):
        await until(lambda: thing.resyncs == 4)
        await until(lambda: thing.done["a"])


async def test_resync_waits_for_one_that_began_after_the_call() -> None:
    gates, looks = [asyncio.Event(), asyncio.Event()], 0

    class Slow(Thing):
        async def pending(self) -> AsyncIterator[ThingKey]:
            nonlocal looks
            looks += 1
            for name in list(self.open_keys):
                yield ThingKey(name)
            await gates[looks - 1].wait()

    thing = Slow()
    async with working(thing) as work:
        await until(lambda: looks == 1)
        thing.open_keys.append("new")
        asked = asyncio.create_task(work.resync())
        await asyncio.sleep(0)
        gates[0].set()
        await until(lambda: looks == 2)
        assert not asked.done(), "the look that had begun before the call did not see the new key"
        gates[1].set()
        await asked
        await until(lambda: thing.done["new"])
