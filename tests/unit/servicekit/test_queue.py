"""The queue of work: every key once at a time, the class of an error decides its fate, no key is lost."""

import asyncio
from dataclasses import dataclass

import pytest

from millstream.errors import (
    AlreadyExists,
    Conflict,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    MillstreamError,
    NotFound,
    Overloaded,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
)
from servicekit import backoff
from servicekit.blobs.memory import MemoryBlobs
from servicekit.bus.memory import MemoryBus
from servicekit.work.keys import Key
from servicekit.work.queue import Work
from tests.worlds.waiting import HANG, until
from tests.worlds.work import HANDLERS, Thing, ThingKey, quick, working

pytestmark = pytest.mark.usefixtures("quick")
__all__ = ["quick"]


async def test_a_key_is_worked_on_once_however_often_it_is_named() -> None:
    thing = Thing()
    work = Work(MemoryBlobs(), MemoryBus(), "group", HANDLERS, [thing], resync_seconds=3600)
    for _ in range(50):
        work.add(ThingKey("a"))
        work.add(ThingKey("b"), 5.0)
    work.add(ThingKey("b"))
    task = asyncio.create_task(work.run())
    await until(lambda: thing.done.total() >= 2)
    await asyncio.sleep(0.02)
    assert thing.done == {"a": 1, "b": 1}
    assert work._states == {}
    task.cancel()
    await asyncio.wait([task])


async def test_keys_of_two_kinds_can_be_due_at_the_same_time() -> None:
    @dataclass(frozen=True)
    class OtherKey(Key):
        kind = "other"
        name: str

    work = Work(MemoryBlobs(), MemoryBus(), "group", HANDLERS, resync_seconds=3600)
    # So long a delay that the present time is lost in rounding.
    for key in (ThingKey("a"), OtherKey("a"), ThingKey("b")):
        work.add(key, 1e30)
    assert [entry[0] for entry in work._delayed] == [1e30] * 3


async def test_a_key_named_while_it_runs_runs_once_more_and_never_twice_at_a_time() -> None:
    gate = asyncio.Event()

    async def do(name: str) -> None:
        await gate.wait()

    thing = Thing(do)
    async with working(thing) as work:
        work.add(ThingKey("a"))
        await until(lambda: thing.running)
        for _ in range(20):
            work.add(ThingKey("a"))
        await asyncio.sleep(0.01)
        assert thing.done["a"] == 1
        gate.set()
        await until(lambda: thing.done["a"] == 2 and not thing.running)
        await asyncio.sleep(0.01)
        assert thing.done["a"] == 2


async def test_keys_run_concurrently_on_the_given_number_of_workers() -> None:
    gate = asyncio.Event()

    async def do(name: str) -> None:
        await gate.wait()

    thing = Thing(do)
    async with working(thing, workers=3) as work:
        for number in range(10):
            work.add(ThingKey(str(number)))
        await until(lambda: len(thing.running) == 3)
        gate.set()
        await until(lambda: thing.done.total() == 10)


async def test_a_delay_is_kept_and_the_sooner_one_wins() -> None:
    thing = Thing()
    async with working(thing) as work:
        work.add(ThingKey("later"), 3600)
        work.add(ThingKey("soon"), 3600)
        work.add(ThingKey("soon"), 0.01)
        await until(lambda: thing.done["soon"])
        assert thing.done["later"] == 0


async def test_a_longer_delay_puts_off_nothing_that_is_due_earlier() -> None:
    """Such as a change of a model while another reason has it wait for its interval."""
    thing = Thing()
    async with working(thing) as work:
        work.add(ThingKey("soon"), 0.01)
        work.add(ThingKey("soon"), 3600)
        await until(lambda: thing.done["soon"])


async def test_a_reconcile_may_return_the_delay_to_its_next_call() -> None:
    async def do(name: str) -> float | None:
        return 0.001 if thing.done[name] < 5 else None

    thing = Thing(do)
    async with working(thing) as work:
        work.add(ThingKey("a"))
        await until(lambda: thing.done["a"] == 5)
        await until(lambda: work._states == {})


async def test_timers_do_not_pile_up_for_a_key_that_is_delayed_and_resynced() -> None:
    async def do(name: str) -> float:
        return 3600.0

    thing = Thing(do)
    thing.open_keys = ["a"]
    async with working(thing) as work:
        for count in range(100):
            await work.resync()
            await until(lambda least=count: thing.done["a"] > least and not thing.running and not work._ready.qsize())  # type: ignore[misc]
        assert len(work._delayed) <= 20
        assert work._states.keys() == {ThingKey("a")}


TRANSIENT = [
    Conflict("c"), Overloaded("o"), Unavailable("u"), DeadlineExceeded("d"), Unauthenticated("u"), PermissionDenied("p"),
]  # fmt: skip
FINAL = [InvalidArgument("i")]
TEN_TRIES = [NotFound("n"), FailedPrecondition("f")]
THREE_TRIES = [Internal("i"), AlreadyExists("a"), ValueError("v"), asyncio.CancelledError("c")]


async def fate(error: BaseException) -> tuple[int, MillstreamError | None]:
    async def do(name: str) -> None:
        if thing.done[name] <= 40:
            raise error

    thing = Thing(do)
    async with working(thing) as work:
        work.add(ThingKey("a"))
        await until(lambda: thing.ended or thing.done["a"] > 40)
        await until(lambda: work._states == {})
    return thing.done["a"], thing.ended.get("a")


@pytest.mark.parametrize("error", TRANSIENT, ids=lambda e: type(e).__name__)
async def test_transient_errors_are_retried_without_limit(error: MillstreamError) -> None:
    assert await fate(error) == (41, None)


@pytest.mark.parametrize("error", FINAL, ids=lambda e: type(e).__name__)
async def test_final_errors_end_at_once(error: MillstreamError) -> None:
    assert await fate(error) == (1, error)


@pytest.mark.parametrize("error", TEN_TRIES, ids=lambda e: type(e).__name__)
async def test_errors_that_may_pass_have_ten_tries(error: MillstreamError) -> None:
    assert await fate(error) == (10, error)


@pytest.mark.parametrize("error", THREE_TRIES, ids=lambda e: type(e).__name__)
async def test_a_bug_has_three_tries(error: BaseException) -> None:
    tries, ended = await fate(error)
    assert tries == 3
    assert ended is not None and type(error).__name__ in f"{type(ended).__name__}: {ended.text}"


async def test_an_outage_does_not_count_towards_the_tries_of_another_error() -> None:
    async def do(name: str) -> None:
        number = thing.done[name]
        if number <= 30:
            raise Unavailable("away")
        if number <= 32:
            raise ValueError("a bug, twice")
        if number <= 38:
            raise NotFound("early")

    thing = Thing(do)
    async with working(thing) as work:
        work.add(ThingKey("a"))
        await until(lambda: thing.done["a"] == 39)
        await until(lambda: work._states == {})
    assert thing.ended == {}


async def test_an_end_that_fails_is_retried() -> None:
    async def do(name: str) -> None:
        raise InvalidArgument("no")

    thing = Thing(do)
    thing.end_errors = [Unavailable("store away"), RuntimeError("bug")]
    async with working(thing) as work:
        work.add(ThingKey("a"))
        await until(lambda: thing.ended)
        await until(lambda: work._states == {})


@pytest.mark.parametrize("failure", [InvalidArgument("no such key"), RuntimeError("a bug")], ids=["invalid", "bug"])
async def test_an_end_that_cannot_succeed_gives_the_key_up(failure: Exception) -> None:
    """Such as the end of a run whose id, in an event, is none: nothing can be recorded, so nothing is tried for ever."""

    async def do(name: str) -> None:
        raise InvalidArgument("no")

    thing = Thing(do)
    thing.end_errors = [failure] * 1000
    async with working(thing) as work:
        work.add(ThingKey("a"))
        await until(lambda: work._states == {})
    assert thing.ended == {} and len(thing.end_errors) >= 997


async def test_an_end_has_all_its_tries_again_when_the_key_comes_back(caplog: pytest.LogCaptureFixture) -> None:
    """A broadcast reader asks again after a while."""

    async def do(name: str) -> None:
        raise InvalidArgument("no")

    thing = Thing(do)
    thing.end_errors = [RuntimeError("a bug")] * 5
    async with working(thing, resync_seconds=0.01, broadcast=True) as work:
        work.add(ThingKey("a"))
        await until(lambda: thing.ended)
    assert caplog.text.count("work given up without an end") == 1, "three tries end the first round alone"


def test_backoff_grows_to_its_limit_with_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    for failures in range(1, 200):
        full = min(5.0, 0.05 * 2 ** (failures - 1))
        assert 0.5 * full <= backoff.backoff(failures) <= full
    assert len({backoff.backoff(3) for _ in range(10)}) > 1


async def test_it_stops_at_once_whatever_it_is_waiting_for() -> None:
    """A stop may meet a timer or a wake-up in the very same turn of the loop."""
    for turns in range(60):

        async def do(name: str) -> float:
            return 3600.0

        thing = Thing(do)
        thing.open_keys = ["a"]
        work = Work(MemoryBlobs(), MemoryBus(), "group", HANDLERS, [thing], resync_seconds=3600)
        task = asyncio.create_task(work.run())
        for _ in range(turns):
            await asyncio.sleep(0)
        work.add(ThingKey("a"), 1800.0 - turns)
        work.resync_soon()
        task.cancel()
        async with asyncio.timeout(HANG):
            await asyncio.wait([task])
