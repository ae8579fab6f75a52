"""Dead letters: kept whole, listed once, replayed or dropped once, by whichever replica."""

import asyncio
from collections.abc import Sequence

import pytest

from millstream.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable
from millstream.operations.v1.operations_service_pb2 import DeadLetter
from millstream.operations.v1.stored_pb2 import DeadLetterResolution
from servicekit.blobs.faulty import list_in_vain
from servicekit.blobs.memory import MemoryBlobs
from servicekit.bus.memory import MemoryBus
from servicekit.bus.port import MAX_VALUE, Message, Received, Subscription
from servicekit.work import deadletters
from servicekit.work.deadletters import DeadLetters
from tests.worlds.waiting import until
from tests.worlds.work import TOPIC, Thing, quick, snapshot, working

pytestmark = pytest.mark.usefixtures("quick")
__all__ = ["quick"]


def place(offset: int, value: bytes = b"\xff", partition: int = 0) -> Received:
    return Received(TOPIC, "words", value, {"ce_id": b"1", "odd": b"\x00\xff"}, partition, offset)


async def letters(group: DeadLetters, show_resolved: bool = False) -> list[DeadLetter]:
    """All pages."""
    found, token = await group.page(2, "", show_resolved)
    everything = list(found)
    while token:
        found, token = await group.page(2, token, show_resolved)
        everything += found
    return everything


async def test_a_letter_is_the_original_message_with_its_place_and_reason() -> None:
    group = DeadLetters(MemoryBlobs(), MemoryBus(), "group")
    await group.add(place(7, b"\xff\x00", partition=3), "it is broken")
    (letter,) = await letters(group)
    assert (letter.key, letter.value, letter.reason) == (b"words", b"\xff\x00", "it is broken")
    assert dict(letter.headers) == {"ce_id": b"1", "odd": b"\x00\xff"}
    assert (letter.original_topic, letter.original_partition, letter.original_offset) == (TOPIC, 3, 7)
    assert letter.HasField("time") and not letter.HasField("resolution")
    assert await group.find(letter.id) == letter


async def test_a_message_added_twice_is_one_letter_and_each_letter_is_on_one_page() -> None:
    group = DeadLetters(MemoryBlobs(), MemoryBus(), "group")
    for offset in (*range(9), 3, 8):
        await group.add(place(offset), "broken")
    listed = await letters(group)
    assert [letter.original_offset for letter in listed] == list(range(9)), "the oldest first, each once"
    assert len({letter.id for letter in listed}) == 9
    await group.add(place(3, b"other bytes at this place"), "broken")
    assert len(await letters(group)) == 10


async def test_a_page_is_bounded_in_bytes() -> None:
    group = DeadLetters(MemoryBlobs(), MemoryBus(), "group")
    for offset in range(9):
        await group.add(place(offset, b"\xff" * MAX_VALUE), "broken")
    first, token = await group.page(1000, "", False)
    assert len(first) == 4 and token
    rest, token = await group.page(1000, token, False)
    assert [letter.original_offset for letter in (*first, *rest)] == list(range(8))
    with pytest.raises(InvalidArgument, match="begin again"):
        await group.page(1, "nonsense", False)
    with pytest.raises(InvalidArgument, match="page_size"):
        await group.page(-1, "", False)


async def test_replayed_it_is_the_original_message_again_and_listed_no_more() -> None:
    blobs, bus = MemoryBlobs(), MemoryBus()
    group = DeadLetters(blobs, bus, "group")
    await group.add(place(7), "broken")
    (letter,) = await letters(group)
    done = await group.replay(letter.id, "ada", "fixed")
    assert (done.action, done.actor, done.note) == (DeadLetterResolution.ACTION_REPLAYED, "ada", "fixed")
    (replayed,) = [message for message in bus.log if message.topic == TOPIC]
    original = place(7)
    assert (replayed.key, replayed.value, replayed.headers) == (original.key, original.value, original.headers)
    assert await letters(group) == []
    (shown,) = await letters(group, show_resolved=True)
    assert shown.resolution == done

    another_replica = DeadLetters(blobs, bus, "group")
    assert await another_replica.replay(letter.id, "bob", "") == done, "asked again, the answer is the same"
    assert len([message for message in bus.log if message.topic == TOPIC]) == 1
    with pytest.raises(FailedPrecondition, match="was replayed by ada"):
        await group.drop(letter.id, "bob", "no")


async def test_two_operators_at_once_get_one_answer() -> None:
    blobs, bus = MemoryBlobs(), MemoryBus()
    group = DeadLetters(blobs, bus, "group")
    await group.add(place(7), "broken")
    (letter,) = await letters(group)
    answers = await asyncio.gather(*(group.replay(letter.id, actor, "") for actor in ("ada", "bob", "eve")))
    assert {answer.actor for answer in answers} == {answers[0].actor}


async def test_dropped_it_stays_dropped() -> None:
    bus = MemoryBus()
    group = DeadLetters(MemoryBlobs(), bus, "group")
    await group.add(place(7), "broken")
    (letter,) = await letters(group)
    done = await group.drop(letter.id, "ada", "a test message")
    assert await group.drop(letter.id, "bob", "again") == done
    assert await letters(group) == [] and [message.topic for message in bus.log] == ["group.dlq"]
    with pytest.raises(FailedPrecondition, match="was dropped by ada"):
        await group.replay(letter.id, "bob", "")


async def test_an_unknown_or_malformed_letter_id_is_refused() -> None:
    bus = MemoryBus()
    group = DeadLetters(MemoryBlobs(), bus, "group")
    for act in (group.find, lambda name: group.replay(name, "ada", ""), lambda name: group.drop(name, "ada", "x")):
        with pytest.raises(NotFound, match="millstream dlq list group"):
            await act("0" * 32)
        with pytest.raises(InvalidArgument, match="no letter's id"):
            await act("../secrets")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"dlq_topic": b"millstream.dataset.v1", "dlq_partition": b"0", "dlq_offset": b"many"},
        {"dlq_topic": b"millstream.dataset.v1", "dlq_partition": b"0", "dlq_offset": b"-1"},
        {"dlq_topic": b"trainer.dlq", "dlq_partition": b"0", "dlq_offset": b"1", "dlq_time": b"yesterday"},
    ],
)
async def test_a_letter_that_no_consumer_wrote_can_only_be_dropped(headers: dict[str, bytes]) -> None:
    bus = MemoryBus()
    group = DeadLetters(MemoryBlobs(), bus, "group")
    await bus.publish(Message("group.dlq", "k", b"\xff", headers))
    (letter,) = await letters(group)
    with pytest.raises(FailedPrecondition, match="names no topic of this platform"):
        await group.replay(letter.id, "ada", "")
    await group.drop(letter.id, "ada", "of unknown origin")
    assert await letters(group) == []


async def test_a_bus_that_does_not_answer_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent(MemoryBus):
        def tail(self, topics: Sequence[str], from_start: bool = False) -> Subscription:
            tail = super().tail(topics, from_start)

            async def hang() -> None:
                await asyncio.sleep(3600)

            tail.start = hang  # type: ignore[method-assign]
            return tail

    monkeypatch.setattr(deadletters, "BUS_SECONDS", 0.01)
    with pytest.raises(Unavailable, match="the bus has not answered"):
        await DeadLetters(MemoryBlobs(), Silent(), "group").page(10, "", False)


async def test_a_replayed_letter_that_still_cannot_be_parsed_is_a_new_letter() -> None:
    blobs, bus, thing = MemoryBlobs(), MemoryBus(), Thing()
    good = snapshot("a")
    async with working(thing, bus, blobs=blobs):
        group = DeadLetters(blobs, bus, "group")
        await bus.publish(Message(TOPIC, "a", b"\xff", good.headers))
        await until(lambda: [message for message in bus.log if message.topic == "group.dlq"])
        (letter,) = await letters(group)
        await group.replay(letter.id, "ada", "")
        await until(lambda: len([message for message in bus.log if message.topic == "group.dlq"]) == 2)
        (again,) = await letters(group)
    assert again.id != letter.id and again.original_offset == letter.original_offset + 1
    assert (again.value, again.headers) == (letter.value, letter.headers)


async def test_a_letter_that_this_version_can_parse_is_handled_when_it_is_replayed() -> None:
    blobs, bus, thing = MemoryBlobs(), MemoryBus(), Thing()
    group = DeadLetters(blobs, bus, "group")
    good = snapshot("a")
    await group.add(Received(TOPIC, good.key, good.value, good.headers, 0, 0), "an older version could not parse it")
    async with working(thing, bus, blobs=blobs):
        (letter,) = await letters(group)
        await group.replay(letter.id, "ada", "")
        await until(lambda: thing.done["a"])
        assert await letters(group) == []


async def test_after_a_restart_dropped_messages_are_skipped() -> None:
    """A process that died before its commit reads them again."""
    blobs, bus = MemoryBlobs(), MemoryBus()
    for number in range(12):
        await bus.publish(Message(TOPIC, "a", b"\xff%d" % number, snapshot("a").headers))
    await bus.publish(snapshot("good"))
    group = DeadLetters(blobs, bus, "group")
    for expected in (12, 0):
        bus.committed.clear()
        thing = Thing()
        async with working(thing, bus, blobs=blobs):
            await until(lambda thing=thing: thing.done["good"])  # type: ignore[misc]
        opened = await letters(group)
        assert len(opened) == expected
        for letter in opened:
            await group.drop(letter.id, "ada", "messages of another system")


async def test_a_resolution_that_is_listed_in_vain_hides_no_letter() -> None:
    bus = MemoryBus()
    await DeadLetters(MemoryBlobs(), bus, "group").add(place(7), "broken")
    (letter,) = await letters(DeadLetters(MemoryBlobs(), bus, "group"))
    phantom = list_in_vain(MemoryBlobs(), lambda: [f"dead-letters/group/{letter.id}"])
    assert await letters(DeadLetters(phantom, bus, "group")) == [letter]
