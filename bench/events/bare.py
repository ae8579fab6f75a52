"""The peer: kafka-python alone, configured as the platform configures it, doing what must be done and no more.

`python -m bench.events.bare say|hear ADDRESS`; each prints `ready` first.
"""

import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from kafka import KafkaConsumer, KafkaProducer, OffsetAndMetadata

from bench.events.said import Heard, a_pause, facts, message, orders, report
from deploy.local.child import end_with
from millstream.dataset.v1.events_pb2 import DatasetEvent
from millstream.defaults import topic_of
from servicekit.bus.kafka.buffer import BYTES_AHEAD, MESSAGES_AT_ONCE
from servicekit.bus.kafka.writer import BATCH_BYTES, MAX_REQUEST
from servicekit.bus.port import Message

TOPIC = "bare." + topic_of("millstream.dataset.v1.SnapshotCreated").name
GROUP = "bare.bench"
SECONDS = 10.0


def say(address: str) -> None:
    producer = KafkaProducer(
        bootstrap_servers=address,
        enable_idempotence=True,
        acks="all",
        batch_size=BATCH_BYTES,
        max_request_size=MAX_REQUEST,
        metrics_enabled=False,
    )
    producer.partitions_for(TOPIC)

    def send(said: Message) -> Any:
        return producer.send(TOPIC, key=said.key.encode(), value=said.value, headers=list(said.headers.items()))

    def one_by_one(messages: Sequence[Message]) -> tuple[list[int], list[int]]:
        sent, returned = [], []
        for each in messages:
            time.sleep(a_pause())
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
    for order in orders():
        messages = [message(key, fact) for key, fact in facts(order.name, order.count).items()]
        report(*(one_by_one if order.pause else all_at_once)(messages))
    producer.close()


def hear(address: str) -> None:
    """Handle what each poll brings, then commit it."""
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
    heard = Heard()
    while not consumer.assignment():
        consumer.poll(timeout_ms=100)
    print("ready", flush=True)
    while True:
        polled = consumer.poll(timeout_ms=1000)
        for records in polled.values():
            for record in records:
                fact = DatasetEvent.FromString(record.value).snapshot_created
                heard.note(fact.snapshot_id, fact.number)
        if polled:
            ends = {place: records[-1].offset + 1 for place, records in polled.items()}
            consumer.commit({place: OffsetAndMetadata(end, "", -1) for place, end in ends.items()})


if __name__ == "__main__":
    end_with(os.getppid())
    {"say": say, "hear": hear}[sys.argv[1]](sys.argv[2])
