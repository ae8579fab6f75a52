"""The messages that a Reader has polled ahead of its subscription, and the offsets to commit for those taken."""

import threading
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from kafka import TopicPartition

from servicekit.bus.port import Received

MESSAGES_AHEAD = 2000
BYTES_AHEAD = 8 << 20
MESSAGES_AT_ONCE = 500

Polled = Mapping[TopicPartition, Sequence[Any]]
"""What poll() returns: the client's records by partition."""


class Buffer:
    """A bounded queue of polls between the reader's thread, which adds, and the event loop, which takes.

    `prefix` is removed from the topics' names. A partition that was revoked is dropped: its new owner reads it again.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._changed = threading.Condition()
        self._chunks: deque[_Chunk] = deque()
        self._taken: dict[TopicPartition, int] = {}
        """By partition the offset that follows the last message taken."""
        self._committed: dict[TopicPartition, int] = {}
        self._unread = 0

    def add(self, polled: Polled, unread: int) -> bool:
        """Append a poll; `unread` messages are left at the broker. True: there are messages in it."""
        chunk = _Chunk(polled, self._prefix)
        with self._changed:
            self._unread = unread
            if chunk.messages:
                self._chunks.append(chunk)
        return bool(chunk.messages)

    def take(self) -> Sequence[Received]:
        """The oldest messages, MESSAGES_AT_ONCE at most, in whole polls; empty if there are none."""
        found: list[Received] = []
        with self._changed:
            while self._chunks and len(found) + len(self._chunks[0].messages) <= MESSAGES_AT_ONCE:
                chunk = self._chunks.popleft()
                found += chunk.messages
                self._taken |= chunk.next_offsets
            self._changed.notify_all()
        return found

    def lag(self) -> int:
        """Messages not yet taken, here and at the broker, as of the last poll."""
        with self._changed:
            return self._unread + sum(len(chunk.messages) for chunk in self._chunks)

    def drop(self, partitions: Collection[TopicPartition] | None = None) -> None:
        """Forget the messages and offsets of these partitions; None: of all."""
        with self._changed:
            for chunk in self._chunks:
                chunk.drop(partitions)
            self._chunks = deque(chunk for chunk in self._chunks if chunk.messages)
            for offsets in (self._taken, self._committed):
                for partition in [p for p in offsets if partitions is None or p in partitions]:
                    del offsets[partition]
            self._changed.notify_all()

    def uncommitted(self) -> Mapping[TopicPartition, int]:
        """The offsets to commit: of what was taken since, in partitions that were not dropped."""
        with self._changed:
            return {place: offset for place, offset in self._taken.items() if self._committed.get(place) != offset}

    def mark_committed(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Record offsets that the broker has accepted."""
        with self._changed:
            self._committed |= {place: offset for place, offset in offsets.items() if place in self._taken}

    def wait_for_room(self, seconds: float) -> bool:
        """Wait at most this many seconds while the buffer is full; False: it still is, and nothing was taken."""
        with self._changed:
            return not self._is_full() or self._changed.wait(seconds) or not self._is_full()

    def interrupt(self) -> None:
        """End a wait_for_room()."""
        with self._changed:
            self._changed.notify_all()

    def _is_full(self) -> bool:
        messages = sum(len(chunk.messages) for chunk in self._chunks)
        return messages >= MESSAGES_AHEAD or sum(chunk.size for chunk in self._chunks) >= BYTES_AHEAD


class _Chunk:
    """The messages of one poll, and by partition the offset that follows them."""

    def __init__(self, polled: Polled, prefix: str) -> None:
        cut = len(prefix)
        self.messages = [
            Received(
                record.topic[cut:],
                (record.key or b"").decode(errors="replace"),
                record.value or b"",
                {name: value or b"" for name, value in record.headers},
                record.partition,
                record.offset,
            )
            for records in polled.values()
            for record in records
        ]
        self.next_offsets = {place: records[-1].offset + 1 for place, records in polled.items() if records}
        self.size = sum(len(message.value) for message in self.messages)
        self._prefix = prefix

    def drop(self, partitions: Collection[TopicPartition] | None) -> None:
        def is_kept(partition: TopicPartition) -> bool:
            return partitions is not None and partition not in partitions

        self.messages = [m for m in self.messages if is_kept(TopicPartition(self._prefix + m.topic, m.partition))]
        self.next_offsets = {place: offset for place, offset in self.next_offsets.items() if is_kept(place)}
