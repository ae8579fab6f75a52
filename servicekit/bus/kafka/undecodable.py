"""Messages that the client library cannot decode: a header name that is not UTF-8, an unknown compression.

The library fails once and then returns nothing more of that partition, or fails at the same place in every poll: whoever
reads the topic would stop there for ever. After a few tries the message is passed over, and an empty one stands in for it.
"""

import logging

from kafka import KafkaConsumer, TopicPartition
from kafka.consumer.fetcher import ConsumerRecord
from kafka.errors import CorruptRecordError, KafkaError, UnsupportedCodecError

from servicekit.bus.kafka.buffer import Polled

log = logging.getLogger(__name__)

TRIES = 3
LONGEST_REASON = 500


class Undecodable:
    """Counts the failures of one reader's polls, by the place of the message."""

    def __init__(self) -> None:
        self._place: tuple[TopicPartition, int] | None = None
        self._tries = 0

    def pass_over(self, consumer: KafkaConsumer, error: Exception) -> Polled:
        """After a poll that failed: nothing while the same poll may still succeed, then the stand-in, and the next position.

        The stand-in is no event, so it becomes a dead letter, which says where the message was and what is wrong with it.
        Raises the error if it is not one of decoding.
        """
        unread = consumer._fetcher._next_partition_records
        if unread is None or (isinstance(error, KafkaError) and not isinstance(error, _ERRORS_OF_DECODING)):
            raise error
        partition, offset = unread.topic_partition, unread.next_fetch_offset
        self._tries = self._tries + 1 if self._place == (partition, offset) else 1
        self._place = partition, offset
        unread.drain()  # the library keeps the broken rest otherwise, and fetches nothing more of the partition
        if self._tries < TRIES:
            return {}
        reason = f"{type(error).__name__}: {error}"
        log.error("message not decoded", extra={"topic": partition.topic, "offset": offset, "error": reason})
        consumer.seek(partition, offset + 1)
        headers = [("undecodable", reason[:LONGEST_REASON].encode(errors="replace"))]
        topic, number = partition.topic, partition.partition
        return {partition: [ConsumerRecord(topic, number, -1, offset, 0, 0, None, b"", headers, None, -1, 0, -1)]}


_ERRORS_OF_DECODING = (CorruptRecordError, UnsupportedCodecError)
