"""The peer: bare kafka-python, configured as the platform configures it, doing the least that is needed.

`python -m bench.events.bare publish|handle ADDRESS`; each prints `ready` first.
"""

import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from kafka import KafkaConsumer, KafkaProducer, OffsetAndMetadata

from bench.events.workload import HandledTimes, facts, jitter, message, report, rounds
from millstream.dataset.v1.events_pb2 import DatasetEvent
from millstream.defaults import topic_of
from servicekit.bus.kafka.buffer import BYTES_AHEAD, MESSAGES_AT_ONCE
from servicekit.bus.kafka.writer import BATCH_BYTES, MAX_REQUEST
from servicekit.bus.port import Message
from servicekit.children import end_with

TOPIC = "bare." + topic_of("millstream.dataset.v1.SnapshotCreated").name
GROUP = "bare.bench"
SECONDS = 10.0


def publish(address: str) -> None:
    """Publish the rounds of stdin."""
    producer = KafkaProducer(
        bootstrap_servers=address,
        enable_idempotence=True,
        acks="all",
        batch_size=BATCH_BYTES,
        max_request_size=MAX_REQUEST,
        metrics_enabled=False,
    )
    producer.partitions_for(TOPIC)

    def send(each: Message) -> Any:
        return producer.send(TOPIC, key=each.key.encode(), value=each.value, headers=list(each.headers.items()))

    def one_by_one(messages: Sequence[Message]) -> tuple[list[int], list[int]]:
        sent, returned = [], []
        for each in messages:
            time.sleep(jitter())
            sent.append(time.monotonic_ns())
            send(each).get(SECONDS)
            returned.append(time.monotonic_ns())
        return sent, returned

    def all_at_once(messages: Sequence[Message]) -> tuple[list[int], list[int]]:
        sent = time.monotonic_ns()
        for future in [send(each) for each in messages]:
            future.get(SECONDS)
        return [sent], [time.monotonic_ns()]

    print("ready", flush=True)
    for each in rounds():
        messages = [message(key, fact) for key, fact in facts(each.name, each.count).items()]
        report(*(one_by_one if each.pause else all_at_once)(messages))
    producer.close()


def handle(address: str) -> None:
    """Handle the messages of each poll, then commit their offsets."""
    consumer = KafkaConsumer(
        TOPIC,
        bootstrap_servers=address,
        group_id=GROUP,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        max_poll_records=MESSAGES_AT_ONCE,
        fetch_max_bytes=BYTES_AHEAD,
        metrics_enabled=False,
    )
    handled = HandledTimes()
    while not consumer.assignment():
        consumer.poll(timeout_ms=100)
    print("ready", flush=True)
    while True:
        polled = consumer.poll(timeout_ms=1000)
        for records in polled.values():
            for record in records:
                fact = DatasetEvent.FromString(record.value).snapshot_created
                handled.record(fact.snapshot_id, fact.number)
        if polled:
            ends = {place: records[-1].offset + 1 for place, records in polled.items()}
            consumer.commit({place: OffsetAndMetadata(end, "", -1) for place, end in ends.items()})


if __name__ == "__main__":
    end_with(os.getppid())
    {"publish": publish, "handle": handle}[sys.argv[1]](sys.argv[2])
