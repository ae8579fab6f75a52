"""The one path for work: every key once at a time, every error its fate, and no event lost."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from millrace.dataset.v1.events_pb2 import DatasetEvent, SnapshotCreated
from millrace.errors import (
    AlreadyExists,
    Conflict,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    MillraceError,
    NotFound,
    Overloaded,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
)
from millrace.registry.v1.events_pb2 import AliasMoved
from millrace.trace import continue_trace, traceparent
from servicekit import backoff, consumer
from servicekit.bus import MemoryBus, Message, Subscription
from servicekit.events import to_message
from servicekit.metrics import EVENTS_DEAD, EVENTS_UNKNOWN
from servicekit.work import Handlers, Key, Work

TOPIC = "millrace.dataset.v1"
HANDLERS: Handlers = {SnapshotCreated: lambda event: [Key("thing", event.dataset)]}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "FIRST_SECONDS", 0.0001)
    monkeypatch.setattr(backoff, "LONGEST_SECONDS", 0.002)


async def until(true: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.001)


class Thing:
    """A reconciler that notes what is asked of it."""

    kind = "thing"

    def __init__(self, do: Callable[[str], Awaitable[float | None]] | None = None) -> None:
        self.owes: list[str] = []
        self.look_errors: list[Exception] = []
        self.looks = 0
        self.done: Counter[str] = Counter()
        self.ended: dict[str, MillraceError] = {}
        self.end_errors: list[Exception] = []
        self.running: set[str] = set()
        self._do = do

    async def owed(self) -> AsyncIterator[str]:
        self.looks += 1
        for name in list(self.owes):
            yield name
        if self.look_errors:
            raise self.look_errors.pop(0)

    async def reconcile(self, name: str) -> float | None:
        assert name not in self.running, "two workers on one key"
        self.running.add(name)
        try:
            self.done[name] += 1
            return await self._do(name) if self._do else None
        finally:
            self.running.discard(name)

    async def end(self, name: str, error: MillraceError) -> None:
        if self.end_errors:
            raise self.end_errors.pop(0)
        self.ended[name] = error


@asynccontextmanager
async def working(
    thing: Thing, bus: MemoryBus | None = None, look_seconds: float = 3600, **more: Any
) -> AsyncIterator[Work]:
    handlers = more.pop("handlers", HANDLERS)
    work = Work(bus or MemoryBus(), "group", handlers, [thing], look_seconds=look_seconds, **more)
    task = asyncio.create_task(work.run())
    try:
        yield work
        assert not task.done(), "Work stopped by itself"
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


def snapshot(dataset: str, number: int = 1) -> Message:
    return to_message(SnapshotCreated(dataset=dataset, number=number), dataset, f"id-{dataset}-{number}", "dataprep")


async def test_a_key_is_worked_on_once_however_often_it_is_named() -> None:
    thing = Thing()
    work = Work(MemoryBus(), "group", HANDLERS, [thing], look_seconds=3600)
    for _ in range(50):
        work.add("thing", "a")
        work.add("thing", "b", 5.0)
    work.add("thing", "b")
    task = asyncio.create_task(work.run())
    await until(lambda: thing.done.total() >= 2)
    await asyncio.sleep(0.02)
    assert thing.done == {"a": 1, "b": 1}
    assert work._states == {}
    task.cancel()
    await asyncio.wait([task])


async def test_a_key_named_while_it_runs_runs_once_more_and_never_twice_at_a_time() -> None:
    gate = asyncio.Event()

    async def do(name: str) -> None:
        await gate.wait()

    thing = Thing(do)
    async with working(thing) as work:
        work.add("thing", "a")
        await until(lambda: thing.running)
        for _ in range(20):
            work.add("thing", "a")
        await asyncio.sleep(0.01)
        assert thing.done["a"] == 1
        gate.set()
        await until(lambda: thing.done["a"] == 2 and not thing.running)
        await asyncio.sleep(0.01)
        assert thing.done["a"] == 2


async def test_many_keys_run_side_by_side_on_so_many_workers() -> None:
    gate = asyncio.Event()

    async def do(name: str) -> None:
        await gate.wait()

    thing = Thing(do)
    async with working(thing, workers=3) as work:
        for number in range(10):
            work.add("thing", str(number))
        await until(lambda: len(thing.running) == 3)
        gate.set()
        await until(lambda: thing.done.total() == 10)


async def test_a_delay_is_kept_and_the_sooner_one_wins() -> None:
    thing = Thing()
    async with working(thing) as work:
        work.add("thing", "later", 3600)
        work.add("thing", "soon", 3600)
        work.add("thing", "soon", 0.01)
        await until(lambda: thing.done["soon"])
        assert thing.done["later"] == 0


async def test_a_reconcile_may_ask_to_be_called_again() -> None:
    async def do(name: str) -> float | None:
        return 0.001 if thing.done[name] < 5 else None

    thing = Thing(do)
    async with working(thing) as work:
        work.add("thing", "a")
        await until(lambda: thing.done["a"] == 5)
        await until(lambda: work._states == {})


async def test_timers_do_not_pile_up_for_a_key_that_is_delayed_and_looked_at() -> None:
    async def do(name: str) -> float:
        return 3600.0

    thing = Thing(do)
    thing.owes = ["a"]
    async with working(thing) as work:
        for count in range(100):
            await work.look()
            await until(lambda least=count: thing.done["a"] > least and not thing.running and not work._ready.qsize())  # type: ignore[misc]
        assert len(work._later) <= 20
        assert work._states.keys() == {Key("thing", "a")}


RETRIED_FOR_EVER = [Conflict("c"), Overloaded("o"), Unavailable("u"), DeadlineExceeded("d")]
FINAL_AT_ONCE = [InvalidArgument("i"), Unauthenticated("u"), PermissionDenied("p")]
WITH_PATIENCE = [NotFound("n"), FailedPrecondition("f")]
THREE_TRIES = [Internal("i"), AlreadyExists("a"), ValueError("v"), asyncio.CancelledError("c")]


async def fate(error: BaseException) -> tuple[int, MillraceError | None]:
    async def do(name: str) -> None:
        if thing.done[name] <= 40:
            raise error

    thing = Thing(do)
    async with working(thing) as work:
        work.add("thing", "a")
        await until(lambda: thing.ended or thing.done["a"] > 40)
        await until(lambda: work._states == {})
    return thing.done["a"], thing.ended.get("a")


@pytest.mark.parametrize("error", RETRIED_FOR_EVER, ids=lambda e: type(e).__name__)
async def test_what_passes_is_retried_for_ever(error: MillraceError) -> None:
    assert await fate(error) == (41, None)


@pytest.mark.parametrize("error", FINAL_AT_ONCE, ids=lambda e: type(e).__name__)
async def test_what_cannot_get_better_ends_at_once(error: MillraceError) -> None:
    assert await fate(error) == (1, error)


@pytest.mark.parametrize("error", WITH_PATIENCE, ids=lambda e: type(e).__name__)
async def test_what_may_be_early_is_waited_for(error: MillraceError) -> None:
    assert await fate(error) == (10, error)


@pytest.mark.parametrize("error", THREE_TRIES, ids=lambda e: type(e).__name__)
async def test_a_bug_has_three_tries(error: BaseException) -> None:
    tries, ended = await fate(error)
    assert tries == 3
    assert ended is not None and type(error).__name__ in f"{type(ended).__name__}: {ended.text}"


async def test_an_outage_uses_up_nobodys_patience() -> None:
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
        work.add("thing", "a")
        await until(lambda: thing.done["a"] == 39)
        await until(lambda: work._states == {})
    assert thing.ended == {}


async def test_an_end_that_fails_is_tried_again() -> None:
    async def do(name: str) -> None:
        raise InvalidArgument("no")

    thing = Thing(do)
    thing.end_errors = [Unavailable("store away"), RuntimeError("bug")]
    async with working(thing) as work:
        work.add("thing", "a")
        await until(lambda: thing.ended)
        await until(lambda: work._states == {})


def test_backoff_grows_to_its_limit_with_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    for failures in range(1, 200):
        full = min(5.0, 0.05 * 2 ** (failures - 1))
        assert 0.5 * full <= backoff.backoff(failures) <= full
    assert len({backoff.backoff(3) for _ in range(10)}) > 1


async def test_it_looks_at_start_and_again_and_again() -> None:
    thing = Thing()
    thing.owes = ["a"]
    async with working(thing, look_seconds=0.01):
        await until(lambda: thing.done["a"] >= 3)


async def test_a_look_that_fails_is_tried_again_and_keeps_what_it_found() -> None:
    thing = Thing()
    thing.owes = ["a"]
    thing.look_errors = [Unavailable("away"), ValueError("bug"), Unavailable("away")]
    async with working(thing):
        await until(lambda: thing.looks == 4)
        await until(lambda: thing.done["a"])


async def test_look_waits_for_a_look_that_began_after_it_was_asked_for() -> None:
    gate, inside = asyncio.Event(), asyncio.Event()

    class Slow(Thing):
        async def owed(self) -> AsyncIterator[str]:
            for name in list(self.owes):
                yield name
            inside.set()
            await gate.wait()

    thing = Slow()
    async with working(thing) as work:
        await inside.wait()
        thing.owes.append("new")
        asked = asyncio.create_task(work.look())
        await asyncio.sleep(0.01)
        gate.set()
        await asked
        await until(lambda: thing.done["new"])


async def test_an_event_gives_keys_which_run_in_its_trace() -> None:
    traces: list[str] = []

    async def do(name: str) -> None:
        traces.append(traceparent())

    bus = MemoryBus()
    thing = Thing(do)
    continue_trace("")
    mine = traceparent()
    async with working(thing, bus):
        await bus.publish(snapshot("a"))
        await until(lambda: thing.done["a"])
    assert traces[0][:36] == mine[:36] and traces[0] != mine


async def test_positions_are_committed_once_the_keys_are_queued() -> None:
    bus = MemoryBus()
    thing = Thing()
    queued: list[bool] = []
    async with working(thing, bus) as work:
        subscription = work.consumer._subscription
        made: list[Subscription] = []

        def watched() -> Subscription:
            made.append(subscription())
            commit = made[-1].commit

            async def committing() -> None:
                queued.append(Key("thing", "a") in work._states or bool(thing.done["a"]))
                await commit()

            made[-1].commit = committing  # type: ignore[method-assign]
            return made[-1]

        work.consumer._subscription = watched  # type: ignore[method-assign]
        await bus.publish(snapshot("a"))
        await until(lambda: bus.committed.get(("group", TOPIC)) == 1)
    assert queued == [True]


async def test_what_was_said_before_a_restart_is_heard_after_it() -> None:
    bus = MemoryBus()
    async with working(Thing(), bus):
        await bus.publish(snapshot("a"))
        await until(lambda: bus.committed.get(("group", TOPIC)) == 1)
    await bus.publish(snapshot("b"))
    again = Thing()
    async with working(again, bus):
        await until(lambda: again.done["b"])
    assert again.done["a"] == 0


async def test_a_broadcast_stands_at_the_end_before_the_first_look() -> None:
    """What is said after the look began is heard; what was said before is found by it."""
    bus = MemoryBus()
    await bus.publish(snapshot("old"))

    class Looks(Thing):
        async def owed(self) -> AsyncIterator[str]:
            self.looks += 1
            await bus.publish(snapshot(f"said-during-look-{self.looks}"))
            yield "found"

    thing = Looks()
    async with working(thing, bus, broadcast=True):
        await until(lambda: thing.done["said-during-look-1"] and thing.done["found"])
    assert thing.done["old"] == 0


class TiredBus(MemoryBus):
    """Reading fails some times, whenever it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.failures: list[Exception] = []

    def _tire(self, subscription: Subscription) -> Subscription:
        batch = subscription.batch

        async def tired() -> Any:
            if self.failures:
                raise self.failures.pop()
            return await batch()

        subscription.batch = tired  # type: ignore[method-assign]
        return subscription

    def subscribe(self, *arguments: Any) -> Subscription:
        return self._tire(super().subscribe(*arguments))

    def tail(self, *arguments: Any, **more: Any) -> Subscription:
        return self._tire(super().tail(*arguments, **more))


@pytest.mark.parametrize("broadcast", [False, True])
async def test_a_bus_that_fails_is_asked_again(broadcast: bool) -> None:
    bus = TiredBus()
    bus.failures = [Unavailable("away"), Unavailable("away"), DeadlineExceeded("slow")]
    thing = Thing()
    async with working(thing, bus, broadcast=broadcast):
        await until(lambda: not bus.failures)
        if broadcast:
            # What was said while nobody listened can only be found by looking.
            await until(lambda: thing.looks > 1)
        await asyncio.sleep(0.02)
        await bus.publish(snapshot("a"))
        await until(lambda: thing.done["a"])


def broken(value: bytes = b"\xff\xff\xff", **headers: bytes) -> Message:
    good = snapshot("a")
    return Message(TOPIC, "key", value, {**good.headers, **headers})


async def test_what_cannot_be_parsed_goes_to_the_dead_letters_whole() -> None:
    bus, thing, before = MemoryBus(), Thing(), EVENTS_DEAD._value.get()
    wrong = [
        broken(),
        broken(b"", ce_id=b""),
        Message(TOPIC, "key", snapshot("a").value, {}),
        broken(snapshot("a").value, ce_type=b"millrace.dataset.v1.Other"),
    ]
    async with working(thing, bus) as work:
        for message in wrong:
            await bus.publish(message)
        await bus.publish(snapshot("good"))
        await until(lambda: thing.done["good"])
        assert not work.flooded
    dead = [message for message in bus.log if message.topic == "group.dlq"]
    assert [letter.value for letter in dead] == [message.value for message in wrong]
    assert [letter.headers["dlq_offset"] for letter in dead] == [b"0", b"1", b"2", b"3"]
    for letter, message in zip(dead, wrong, strict=True):
        assert letter.key == "key" and letter.headers.items() >= dict(message.headers).items()
        assert letter.headers["dlq_reason"] and letter.headers["dlq_topic"] == TOPIC.encode()
    assert EVENTS_DEAD._value.get() == before + 4


async def test_a_flood_of_dead_letters_stops_the_consumer_but_not_the_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer, "FLOOD", 5)
    bus, thing = MemoryBus(), Thing()
    thing.owes = ["a"]
    async with working(thing, bus, look_seconds=0.005) as work:
        for _ in range(4):
            await bus.publish(broken())
        await bus.publish(snapshot("good"))
        await until(lambda: thing.done["good"])
        assert not work.flooded
        for _ in range(9):
            await bus.publish(broken())
        await until(lambda: work.flooded)
        assert "5 messages in a row could not be parsed" in work.flooded
        looks = thing.looks
        await until(lambda: thing.looks > looks + 2)
        await bus.publish(snapshot("unheard"))
        await asyncio.sleep(0.02)
    assert thing.done["unheard"] == 0
    # Uncommitted, so after the mending they are read again.
    assert bus.committed[("group", TOPIC)] < 10


async def test_an_event_that_is_newer_is_counted_and_skipped() -> None:
    bus, thing, before = MemoryBus(), Thing(), EVENTS_UNKNOWN._value.get()
    newer_case = DatasetEvent().SerializeToString() + b"\xfa\x3e\x02\x0a\x00"  # field 1007 of a newer version
    async with working(thing, bus):
        await bus.publish(broken(newer_case, ce_type=b"millrace.dataset.v1.DatasetRenamed"))
        await bus.publish(broken(snapshot("a").value, ce_specversion=b"2.0"))
        await bus.publish(snapshot("good"))
        await until(lambda: thing.done["good"])
    assert EVENTS_UNKNOWN._value.get() == before + 2
    assert not [message for message in bus.log if message.topic == "group.dlq"]


async def test_an_event_nobody_here_cares_for_is_passed_over() -> None:
    bus, thing = MemoryBus(), Thing()
    moved = to_message(AliasMoved(model="m"), "m", "id", "registry")
    async with working(thing, bus):
        await bus.publish(moved)
        await bus.publish(snapshot("good"))
        await until(lambda: thing.done["good"])


async def test_a_handler_with_a_bug_stops_nobody() -> None:
    def handler(event: SnapshotCreated) -> list[Key]:
        if event.dataset == "bad":
            raise KeyError("bug")
        return [Key("thing", event.dataset)]

    bus, thing = MemoryBus(), Thing()
    async with working(thing, bus, handlers={SnapshotCreated: handler}):
        await bus.publish(snapshot("bad"))
        await bus.publish(snapshot("good"))
        await until(lambda: thing.done["good"])


async def test_a_dead_letter_that_cannot_be_kept_is_not_lost() -> None:
    class Full(MemoryBus):
        refusals = 3

        async def publish(self, message: Message) -> None:
            if message.topic == "group.dlq" and self.refusals:
                self.refusals -= 1
                raise Unavailable("full")
            await super().publish(message)

    bus, thing = Full(), Thing()
    async with working(thing, bus):
        await bus.publish(broken())
        await until(lambda: [message for message in bus.log if message.topic == "group.dlq"])


async def test_without_handlers_or_reconcilers_it_just_waits() -> None:
    for broadcast in (False, True):
        work = Work(MemoryBus(), "group", {}, [], look_seconds=1, broadcast=broadcast)
        task = asyncio.create_task(work.run())
        await asyncio.sleep(0.01)
        assert not task.done()
        await asyncio.wait_for(work.look(), 1)
        task.cancel()
        await asyncio.wait([task])


async def test_it_stops_at_once_whatever_it_is_waiting_for() -> None:
    """A stop may meet a timer or a wake-up in the very same turn of the loop."""
    for turns in range(60):

        async def do(name: str) -> float:
            return 3600.0

        thing = Thing(do)
        thing.owes = ["a"]
        work = Work(MemoryBus(), "group", HANDLERS, [thing], look_seconds=3600)
        task = asyncio.create_task(work.run())
        for _ in range(turns):
            await asyncio.sleep(0)
        work.add("thing", "a", 1800.0 - turns)
        work._look_again()
        task.cancel()
        async with asyncio.timeout(10):
            await asyncio.wait([task])
