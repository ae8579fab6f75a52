"""No message on a topic stops a service that reads it, whoever published it: too large to bury, or not decodable at all."""

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest
from kafka import KafkaProducer

from servicekit.blobs.memory import MemoryBlobs
from servicekit.bus.kafka.bus import KafkaBus
from servicekit.runtime.backends import open_bus
from servicekit.work.deadletters import DeadLetters
from servicekit.work.queue import Work
from tests.suites.bus import fresh
from tests.worlds.servers import Broker, settings_of
from tests.worlds.waiting import HANG, until
from tests.worlds.work import HANDLERS, TOPIC, Thing, snapshot

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


class NotUtf8(str):
    """A header name whose bytes on the wire are no UTF-8, as a client in another language may send it."""

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        return b"\xff\xfe"


@pytest.mark.parametrize("kind", ["large", "undecodable"])
async def test_a_poisonous_message_is_buried_and_the_next_event_is_handled(
    kafka: Broker, kind: str, tmp_path: Path
) -> None:
    prefix, group = fresh("p"), fresh("group")
    bus = open_bus(settings_of({**kafka.settings(), "kafka_prefix": prefix}))
    assert isinstance(bus, KafkaBus)
    thing, blobs = Thing(), MemoryBlobs()
    work = Work(blobs, bus, group, HANDLERS, [thing], resync_seconds=3600)
    await bus.publish(snapshot("first"))
    running = asyncio.create_task(work.run())
    try:
        async with asyncio.timeout(HANG):
            await until(lambda: thing.done["first"])
        await asyncio.to_thread(_publish_poison, kafka.address, prefix + TOPIC, kind)
        await bus.publish(snapshot("first", 2))  # behind it, in the same partition
        async with asyncio.timeout(HANG):
            await until(lambda: thing.done["first"] == 2)
            letters = DeadLetters(blobs, bus, group)
            while not (found := (await letters.page(10, "", False))[0]):
                await asyncio.sleep(0.1)
        (letter,) = found
        if kind == "large":
            assert letter.original_size_bytes == 1_040_000 and len(letter.value) < 100_000
        else:
            assert b"UnicodeDecodeError" in letter.headers["undecodable"] and letter.value == b""
        assert letter.original_topic == TOPIC and letter.original_offset == 1
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        await bus.close()


def _publish_poison(address: str, topic: str, kind: str) -> None:
    producer = KafkaProducer(bootstrap_servers=address, max_request_size=2_000_000)
    key = snapshot("first").key.encode()
    if kind == "large":
        producer.send(topic, b"\xff" * 1_040_000, key=key).get(timeout=HANG)
    else:
        producer.send(topic, b"\xff", key=key, headers=[(NotUtf8("name"), b"value")]).get(timeout=HANG)
    producer.close()
