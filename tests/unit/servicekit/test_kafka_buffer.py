"""The Kafka reader's buffer: bounded, emptied in whole polls, and without anything of a revoked partition."""

from dataclasses import dataclass

from kafka import TopicPartition

from servicekit.bus.kafka.buffer import BYTES_AHEAD, MESSAGES_AHEAD, MESSAGES_AT_ONCE, Buffer

PREFIX = "shared."
ZERO, ONE = TopicPartition("shared.facts", 0), TopicPartition("shared.facts", 1)


@dataclass
class Record:
    """The fields of the client's ConsumerRecord that matter."""

    topic: str
    partition: int
    offset: int
    key: bytes | None = b"key"
    value: bytes | None = b"value"
    headers: tuple[tuple[str, bytes | None], ...] = ()


def polled(partition: TopicPartition, *offsets: int, value: bytes = b"value") -> dict[TopicPartition, list[Record]]:
    return {partition: [Record(partition.topic, partition.partition, offset, value=value) for offset in offsets]}


def test_messages_come_out_as_the_port_has_them_without_the_prefix() -> None:
    buffer = Buffer(PREFIX)
    assert buffer.add({ZERO: [Record(ZERO.topic, 0, 7, key=None, value=None, headers=(("name", None),))]}, unread=0)
    (message,) = buffer.take()
    assert (message.topic, message.partition, message.offset) == ("facts", 0, 7)
    assert (message.key, message.value, message.headers) == ("", b"", {"name": b""})
    assert buffer.take() == []


def test_lag_counts_what_is_buffered_and_what_the_broker_still_has() -> None:
    buffer = Buffer(PREFIX)
    buffer.add(polled(ZERO, 0, 1), unread=5)
    assert buffer.lag() == 7
    buffer.take()
    assert buffer.lag() == 5
    assert not buffer.add({}, unread=0), "an empty poll brings no messages"
    assert buffer.lag() == 0


def test_only_what_was_taken_is_committed_and_only_once() -> None:
    buffer = Buffer(PREFIX)
    buffer.add(polled(ZERO, 3, 4), unread=0)
    assert buffer.uncommitted() == {}
    buffer.take()
    offsets = buffer.uncommitted()
    assert offsets == {ZERO: 5}, "the offset after the last message"
    buffer.mark_committed(offsets)
    assert buffer.uncommitted() == {}
    buffer.add(polled(ZERO, 5), unread=0)
    buffer.take()
    assert buffer.uncommitted() == {ZERO: 6}


def test_a_revoked_partition_is_neither_returned_nor_committed() -> None:
    buffer = Buffer(PREFIX)
    buffer.add(polled(ZERO, 0) | polled(ONE, 0), unread=0)
    buffer.take()
    buffer.add(polled(ZERO, 1) | polled(ONE, 1), unread=0)
    buffer.drop({ZERO})
    assert [(message.partition, message.offset) for message in buffer.take()] == [(1, 1)]
    assert buffer.uncommitted() == {ONE: 2}
    buffer.mark_committed({ZERO: 1, ONE: 2})
    buffer.add(polled(ZERO, 0), unread=0)
    buffer.take()
    assert buffer.uncommitted() == {ZERO: 1}, "a commit of the previous owner is no commit of ours"


def test_closing_the_consumer_drops_everything() -> None:
    buffer = Buffer(PREFIX)
    buffer.add(polled(ZERO, 0), unread=0)
    buffer.take()
    buffer.add(polled(ONE, 0), unread=0)
    buffer.drop()
    assert buffer.take() == [] and buffer.uncommitted() == {}


def test_it_has_no_room_once_it_holds_too_many_messages_or_bytes() -> None:
    for full in (polled(ZERO, *range(MESSAGES_AHEAD)), polled(ZERO, 0, value=bytes(BYTES_AHEAD))):
        buffer = Buffer(PREFIX)
        assert buffer.wait_for_room(0)
        buffer.add(full, unread=0)
        assert not buffer.wait_for_room(0)
        buffer.drop({ZERO})
        assert buffer.wait_for_room(0)


def test_one_take_returns_whole_polls_up_to_a_limit() -> None:
    buffer = Buffer(PREFIX)
    for start in range(0, 3 * MESSAGES_AT_ONCE, MESSAGES_AT_ONCE // 2):
        buffer.add(polled(ZERO, *range(start, start + MESSAGES_AT_ONCE // 2)), unread=0)
    assert [len(buffer.take()) for _ in range(4)] == [MESSAGES_AT_ONCE] * 3 + [0]
