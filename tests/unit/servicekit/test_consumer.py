"""The consumer: events give keys, malformed messages become dead letters, positions are committed, outages are retried."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from millstream.dataset.v1.events_pb2 import DatasetEvent, SnapshotCreated
from millstream.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    Unavailable,
)
from millstream.registry.v1.events_pb2 import AliasMoved
from millstream.trace import continue_trace, traceparent
from servicekit.blobs.memory import MemoryBlobs
from servicekit.bus.memory import MemoryBus
from servicekit.bus.port import MAX_VALUE, Message, Received, Subscription
from servicekit.facts.events import to_message
from servicekit.metrics import EVENTS_DEAD, EVENTS_MALFORMED, EVENTS_UNKNOWN
from servicekit.work import consumer
from servicekit.work.deadletters import DeadLetters
from servicekit.work.queue import Work
from tests.worlds.waiting import until
from tests.worlds.work import TOPIC, Thing, ThingKey, quick, snapshot, working

pytestmark = pytest.mark.usefixtures("quick")
__all__ = ["quick"]


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
                queued.append(ThingKey("a") in work._states or bool(thing.done["a"]))
                await commit()

            made[-1].commit = committing  # type: ignore[method-assign]
            return made[-1]

        work.consumer._subscription = watched  # type: ignore[method-assign]
        await bus.publish(snapshot("a"))
        await until(lambda: bus.committed.get(("group", TOPIC)) == 1)
    assert queued == [True]


async def test_events_published_during_a_restart_are_handled_after_it() -> None:
    bus = MemoryBus()
    async with working(Thing(), bus):
        await bus.publish(snapshot("a"))
        await until(lambda: bus.committed.get(("group", TOPIC)) == 1)
    await bus.publish(snapshot("b"))
    again = Thing()
    async with working(again, bus):
        await until(lambda: again.done["b"])
    assert again.done["a"] == 0


async def test_a_broadcast_is_positioned_before_the_first_resync() -> None:
    """Events published after the resync began are delivered; what came before is found by it."""
    bus = MemoryBus()
    await bus.publish(snapshot("old"))

    class Publishing(Thing):
        async def pending(self) -> AsyncIterator[ThingKey]:
            self.resyncs += 1
            await bus.publish(snapshot(f"during-resync-{self.resyncs}"))
            yield ThingKey("found")

    thing = Publishing()
    async with working(thing, bus, broadcast=True):
        await until(lambda: thing.done["during-resync-1"] and thing.done["found"])
    assert thing.done["old"] == 0


class FailingBus(MemoryBus):
    """Reading raises each of `failures` once."""

    def __init__(self) -> None:
        super().__init__()
        self.failures: list[Exception] = []

    def _failing(self, subscription: Subscription) -> Subscription:
        batch = subscription.batch

        async def failing() -> Any:
            if self.failures:
                raise self.failures.pop()
            return await batch()

        subscription.batch = failing  # type: ignore[method-assign]
        return subscription

    def subscribe(self, *arguments: Any) -> Subscription:
        return self._failing(super().subscribe(*arguments))

    def tail(self, *arguments: Any, **more: Any) -> Subscription:
        return self._failing(super().tail(*arguments, **more))


@pytest.mark.parametrize("broadcast", [False, True])
async def test_reading_is_retried_when_the_bus_fails(broadcast: bool) -> None:
    bus = FailingBus()
    bus.failures = [Unavailable("away"), Unavailable("away"), DeadlineExceeded("slow")]
    thing = Thing()
    async with working(thing, bus, broadcast=broadcast):
        await until(lambda: not bus.failures)
        if broadcast:
            # What was published meanwhile can only be found by a resync.
            await until(lambda: thing.resyncs > 1)
        await asyncio.sleep(0.02)
        await bus.publish(snapshot("a"))
        await until(lambda: thing.done["a"])


def broken(value: bytes = b"\xff\xff\xff", **headers: bytes) -> Message:
    good = snapshot("a")
    return Message(TOPIC, "key", value, {**good.headers, **headers})


async def test_malformed_messages_become_dead_letters_whole() -> None:
    bus, thing, before = MemoryBus(), Thing(), EVENTS_DEAD._value.get()
    wrong = [
        broken(),
        broken(b"", ce_id=b""),
        Message(TOPIC, "key", snapshot("a").value, {}),
        broken(snapshot("a").value, ce_type=b"millstream.dataset.v1.Other"),
    ]
    async with working(thing, bus) as work:
        for message in wrong:
            await bus.publish(message)
        await bus.publish(snapshot("good"))
        await until(lambda: thing.done["good"])
        assert not work.consumer.flood
    dead = [message for message in bus.log if message.topic == "group.dlq"]
    assert [letter.value for letter in dead] == [message.value for message in wrong]
    assert [letter.headers["dlq_offset"] for letter in dead] == [b"0", b"1", b"2", b"3"]
    for letter, message in zip(dead, wrong, strict=True):
        assert letter.key == "key" and letter.headers.items() >= dict(message.headers).items()
        assert letter.headers["dlq_reason"] and letter.headers["dlq_topic"] == TOPIC.encode()
    assert EVENTS_DEAD._value.get() == before + 4


async def test_a_flood_of_malformed_messages_is_reported_and_reading_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer, "FLOOD_PAUSE_SECONDS", 0.0)
    bus, thing = MemoryBus(), Thing()
    async with working(thing, bus) as work:
        for _ in range(3 * consumer.FLOOD):
            await bus.publish(broken())
        await until(lambda: work.consumer.flood)
        assert "dlq list group" in work.consumer.flood, "it says what to do"
        await until(lambda: EVENTS_MALFORMED._value.get() == 3 * consumer.FLOOD)
        await bus.publish(snapshot("good"))
        await until(lambda: thing.done["good"])
        assert not work.consumer.flood and not EVENTS_MALFORMED._value.get(), "one good message ends it"
        await until(lambda: bus.committed[("group", TOPIC)] == 3 * consumer.FLOOD + 1)
    assert len([message for message in bus.log if message.topic == "group.dlq"]) == 3 * consumer.FLOOD


async def test_a_flood_is_read_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that it does not fill the topic of dead letters at once: beyond FLOOD messages each waits for a pause."""
    monkeypatch.setattr(consumer, "FLOOD_PAUSE_SECONDS", 3600.0)
    bus, thing = MemoryBus(), Thing()
    thing.open_keys = ["a"]
    async with working(thing, bus, full_resync_seconds=0.005) as work:
        for _ in range(consumer.FLOOD + 5):
            await bus.publish(broken())
        await until(lambda: work.consumer.flood)
        resyncs = thing.resyncs
        await until(lambda: thing.resyncs > resyncs + 2)
    assert len([message for message in bus.log if message.topic == "group.dlq"]) == consumer.FLOOD


@pytest.mark.parametrize(
    ("value", "headers"),
    [
        (b"\xff" * (MAX_VALUE + 1), {}),
        (b"\xff", {"big": b"h" * (MAX_VALUE - 1000)}),
        (b"\xff", {f"{number}": b"h" * 1000 for number in range(1000)}),
        (b"\xff" * MAX_VALUE, {"n" * 40_000: b""}),
    ],
    ids=["value", "header", "headers", "name"],
)
async def test_a_malformed_message_too_large_for_a_letter_is_buried_cut(
    value: bytes, headers: dict[str, bytes]
) -> None:
    """The bus of a user may carry more than ours publishes; no message stops the consumer."""
    bus, thing = MemoryBus(), Thing()
    foreign = Received(TOPIC, "key", value, {**headers}, 0, len(bus.log))
    async with working(thing, bus):
        bus.log.append(foreign)
        await bus.publish(snapshot("good"))
        await until(lambda: thing.done["good"])
    (dead,) = [message for message in bus.log if message.topic == "group.dlq"]
    assert len(dead.value) + sum(len(name) + len(text) for name, text in dead.headers.items()) < MAX_VALUE // 10
    assert value.startswith(dead.value) and dead.headers["dlq_size"] == b"%d" % len(value)
    assert dead.headers["dlq_sha256"].decode() == hashlib.sha256(value).hexdigest()
    letters = DeadLetters(MemoryBlobs(), bus, "group")
    ((letter,), _) = await letters.page(10, "", False)
    assert letter.original_size_bytes == len(value)
    with pytest.raises(FailedPrecondition, match=r"only the beginning.*drop it"):
        await letters.replay(letter.id, "ada", "")
    await letters.drop(letter.id, "ada", "garbage")
    assert await letters.is_resolved(foreign), "read again after a restart, it is not buried twice"


async def test_an_event_that_is_newer_is_counted_and_skipped() -> None:
    bus, thing, before = MemoryBus(), Thing(), EVENTS_UNKNOWN._value.get()
    newer_case = DatasetEvent().SerializeToString() + b"\xfa\x3e\x02\x0a\x00"  # field 1007 of a newer version
    async with working(thing, bus):
        await bus.publish(broken(newer_case, ce_type=b"millstream.dataset.v1.DatasetRenamed"))
        await bus.publish(broken(snapshot("a").value, ce_specversion=b"2.0"))
        await bus.publish(snapshot("good"))
        await until(lambda: thing.done["good"])
    assert EVENTS_UNKNOWN._value.get() == before + 2
    assert not [message for message in bus.log if message.topic == "group.dlq"]


async def test_an_event_without_a_handler_is_skipped() -> None:
    bus, thing = MemoryBus(), Thing()
    moved = to_message(AliasMoved(model="m"), "m", "id", "registry")
    async with working(thing, bus):
        await bus.publish(moved)
        await bus.publish(snapshot("good"))
        await until(lambda: thing.done["good"])


async def test_a_handler_with_a_bug_does_not_stop_the_consumer() -> None:
    def handler(event: SnapshotCreated) -> list[ThingKey]:
        if event.dataset == "bad":
            raise KeyError("bug")
        return [ThingKey(event.dataset)]

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
        work = Work(MemoryBlobs(), MemoryBus(), "group", {}, [], resync_seconds=1, broadcast=broadcast)
        task = asyncio.create_task(work.run())
        await asyncio.sleep(0.01)
        assert not task.done()
        await asyncio.wait_for(work.resync(), 1)
        task.cancel()
        await asyncio.wait([task])
