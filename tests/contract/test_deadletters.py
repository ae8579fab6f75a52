"""Dead letters on every bus: whatever its partitions, each letter is on one page, the oldest first."""

from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest

from millstream.operations.v1.operations_service_pb2 import DeadLetter
from servicekit.blobs.memory import MemoryBlobs
from servicekit.bus.port import Bus, Received
from servicekit.runtime.backends import open_bus
from servicekit.work.deadletters import DeadLetters
from tests.suites.bus import collect
from tests.worlds.servers import settings_of

TOPIC = "millstream.dataset.v1"


@pytest.fixture(params=["memory", "sqlite", "kafka"])
async def bus(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bus]:
    if request.param == "kafka":
        named = {**request.getfixturevalue("kafka").settings(), "kafka_prefix": f"{uuid4().hex}."}
    else:
        named = {"bus": {"memory": "memory:", "sqlite": f"sqlite:{tmp_path / 'bus.sqlite'}"}[request.param]}
    opened = open_bus(settings_of(named))
    yield opened
    await opened.close()


async def every(group: DeadLetters) -> list[DeadLetter]:
    found, token = await group.page(7, "", False)
    letters = list(found)
    while token:
        found, token = await group.page(7, token, False)
        letters += found
    return letters


async def test_letters_are_listed_once_in_order_replayed_and_gone(bus: Bus) -> None:
    group = DeadLetters(MemoryBlobs(), bus, "group")
    assert await every(group) == [], "a topic that is not there yet holds no letters"
    for number in (*range(30), 3, 17, 29):
        key, partition = f"key-{number % 5}", number % 4
        await group.add(
            Received(TOPIC, key, b"\xff%d" % number, {"ce_id": b"%d" % number}, partition, number), "broken"
        )
    letters = await every(group)
    assert [letter.original_offset for letter in letters] == list(range(30))

    tail = bus.tail([TOPIC])
    await tail.start()
    await group.replay(letters[17].id, "ada", "")
    (replayed,) = await collect(tail, 1)
    assert (replayed.key, replayed.value, dict(replayed.headers)) == ("key-2", b"\xff17", {"ce_id": b"17"})
    await tail.close()
    await group.drop(letters[0].id, "ada", "a test")
    left = [letter.original_offset for letter in await every(group)]
    assert left == [number for number in range(30) if number not in (0, 17)]
