"""The calls for operators: dead letters by page, dropped with a reason, and events as they are published."""

import asyncio

import pytest

from millstream.errors import InvalidArgument
from millstream.operations.v1.operations_service_pb2 import (
    DropDeadLetterRequest,
    GetDeadLetterRequest,
    ListDeadLettersRequest,
    TailEventsRequest,
    TailEventsResponse,
)
from servicekit.blobs.memory import MemoryBlobs
from servicekit.bus.memory import MemoryBus
from servicekit.bus.port import Message, Received
from servicekit.rpc.health import Health
from servicekit.runtime.operations import Operations
from servicekit.runtime.probes import DependencyProbe
from servicekit.runtime.status import Status
from servicekit.work.deadletters import DeadLetters
from tests.worlds.work import TOPIC, snapshot


def operations(bus: MemoryBus) -> Operations:
    blobs, health = MemoryBlobs(), Health()
    probe = DependencyProbe("blobs", blobs.check, health.set, pause=1.0, pause_in_incident=1.0)
    return Operations(bus, DeadLetters(blobs, bus, "group"), Status("dataprep", health, probe, probe))


async def test_dead_letters_are_listed_found_and_dropped_for_a_reason() -> None:
    service = operations(MemoryBus())
    for offset in range(3):
        await service.dead_letters.add(Received(TOPIC, "a", b"\xff", {}, 0, offset), "broken")
    first = await service.ListDeadLetters(ListDeadLettersRequest(page_size=2))
    assert len(first.dead_letters) == 2 and first.next_page_token
    letter = first.dead_letters[0]
    assert (await service.GetDeadLetter(GetDeadLetterRequest(id=letter.id))).dead_letter == letter
    with pytest.raises(InvalidArgument, match="reason is empty"):
        await service.DropDeadLetter(DropDeadLetterRequest(id=letter.id))
    dropped = await service.DropDeadLetter(DropDeadLetterRequest(id=letter.id, reason="a test"))
    assert dropped.resolution.note == "a test"
    left = await service.ListDeadLetters(ListDeadLettersRequest())
    assert [found.original_offset for found in left.dead_letters] == [1, 2]
    everything = await service.ListDeadLetters(ListDeadLettersRequest(show_resolved=True))
    assert len(everything.dead_letters) == 3


async def test_events_are_shown_as_json_and_malformed_ones_are_skipped() -> None:
    bus = MemoryBus()
    tail = operations(bus).TailEvents(TailEventsRequest(topics=[TOPIC]))
    reading: asyncio.Task[TailEventsResponse] = asyncio.create_task(anext(tail))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    while not reading.done():
        await bus.publish(Message(TOPIC, "a", b"\xff"))
        await bus.publish(snapshot("words", 7))
        await asyncio.sleep(0)
    shown = await reading
    assert (shown.topic, shown.key, shown.event_id) == (TOPIC, "words", "id-words-7")
    assert shown.event_type == "millstream.dataset.v1.SnapshotCreated" and shown.time.seconds > 0
    assert '"dataset": "words"' in shown.json
    await tail.aclose()  # type: ignore[attr-defined]


async def test_an_unknown_topic_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(InvalidArgument, match=f"no topic other: .*{TOPIC}"):
        await anext(operations(MemoryBus()).TailEvents(TailEventsRequest(topics=["other"])))  # type: ignore[call-overload]
