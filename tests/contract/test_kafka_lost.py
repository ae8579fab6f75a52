"""Publishers around a broker that dies and loses its data: every acknowledged message is there."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from uuid import uuid4

import pytest
from kafka.errors import KafkaError, KafkaTimeoutError

from deploy.servers.kafka import Kafka
from millstream.errors import Unavailable
from servicekit.bus.kafka import writer as writer_module
from servicekit.bus.kafka.bus import KafkaBus
from servicekit.bus.kafka.connection import link
from servicekit.bus.kafka.options import KafkaOptions
from servicekit.bus.kafka.topics import ensure
from servicekit.bus.kafka.writer import Acknowledgements, Writer
from servicekit.bus.port import Message
from tests.worlds.servers import Broker
from tests.worlds.waiting import HANG

TOPIC = "millstream.registry.v1"
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
"""kafka-python leaves the sockets of tries that failed to the garbage collector."""


def bus_of(broker: Kafka) -> KafkaBus:
    return KafkaBus([broker.address], KafkaOptions())


async def publish(bus: KafkaBus, text: str) -> None:
    """All with one key, so into one partition; again while it is refused, as an outbox does."""
    while True:
        with suppress(Unavailable):
            await bus.publish(Message(TOPIC, "key", text.encode()))
            return
        await asyncio.sleep(0.2)


async def published(broker: Kafka) -> Sequence[str]:
    bus = bus_of(broker)
    tail = bus.tail([TOPIC], from_start=True)
    await tail.start()
    found: list[str] = []
    while await tail.lag():
        found += [message.value.decode() for message in await tail.batch()]
    await bus.close()
    return found


async def test_old_and_new_publishers_of_a_broker_that_lost_its_data_are_all_read(
    own_kafka: Callable[..., Kafka],
) -> None:
    broker = own_kafka()
    old = [bus_of(broker) for _ in range(3)]
    for bus in old:
        await publish(bus, "before")
    await asyncio.to_thread(broker.kill)
    broker.wipe()
    await asyncio.to_thread(broker.start)
    # The producer ids of the old ones are given out again, to the new ones.
    new = [bus_of(broker) for _ in range(3)]
    texts = [f"{number} {turn}" for turn in range(4) for number in range(6)]
    async with asyncio.timeout(HANG):
        for text in texts:
            await publish([*new, *old][int(text[0])], text)
        assert set(texts) <= set(await published(broker))
    for bus in [*old, *new]:
        await bus.close()


async def test_a_broker_killed_under_many_messages_leaves_none_open_and_loses_none(
    own_kafka: Callable[..., Kafka],
) -> None:
    broker = own_kafka()
    bus = bus_of(broker)
    await publish(bus, "first")
    for turn in range(3):
        texts = [f"{turn} {number}" for number in range(200)]
        publishing: list[asyncio.Task[None]] = []
        for text in texts[:100]:
            publishing.append(asyncio.create_task(publish(bus, text)))
            await asyncio.sleep(0.002)
        killing = asyncio.create_task(asyncio.to_thread(broker.kill))
        for text in texts[100:]:
            publishing.append(asyncio.create_task(publish(bus, text)))
            await asyncio.sleep(0.002)
        await killing
        await asyncio.to_thread(broker.start)
        async with asyncio.timeout(HANG):
            await asyncio.gather(*publishing)
            assert set(texts) <= set(await published(broker))
    await bus.close()


async def test_a_delivery_that_the_library_never_reports_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "DELIVERY_SECONDS", 0.05)
    monkeypatch.setattr(writer_module, "GRACE_SECONDS", 0.0)
    acknowledgements = Acknowledgements(asyncio.get_running_loop())
    kept, *never = [acknowledgements.expect() for _ in range(3)]
    await asyncio.to_thread(acknowledgements.report, kept, "metadata of the record")
    async with asyncio.timeout(HANG):
        await kept
        for done in never:
            with pytest.raises(KafkaTimeoutError, match="not acknowledged"):
                await done
        with pytest.raises(KafkaTimeoutError):  # the timer of those before has ended
            await acknowledgements.expect()


async def test_a_producer_that_has_lost_its_connection_fails_as_the_outbox_expects(kafka: Broker) -> None:
    """Its own thread closes it, while other threads are about to use it."""
    options = KafkaOptions(prefix=f"{uuid4().hex}.")
    ensure(link([kafka.address], options), [options.prefix + TOPIC])
    writer = Writer(link([kafka.address], options))
    writer._abort(None)
    writer._producer._sender.join(HANG)
    with pytest.raises(KafkaError):
        writer.learn(options.prefix + TOPIC)
    with pytest.raises(KafkaError):
        await writer.send(options.prefix + TOPIC, b"key", b"value", {})
    writer.close(1)
