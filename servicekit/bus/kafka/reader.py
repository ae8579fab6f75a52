"""A thread that polls one consumer, so that a slow event loop never costs the membership of its group.

It reads ahead a little and keeps what it has read until batch() takes it. What it has read of a partition that the group
has given to another member is thrown away. It goes on by itself when brokers come back, and when they come back empty:
a topic whose id is another one is another log, and is read from its start.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from kafka import ConsumerRebalanceListener, KafkaConsumer, OffsetAndMetadata, TopicPartition
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.errors import KafkaError
from kafka.structs import MemberState

from millstream.errors import Unavailable
from servicekit.bus.kafka.connection import REQUEST_SECONDS, Client, Link
from servicekit.bus.kafka.topics import ensure
from servicekit.bus.port import Received

log = logging.getLogger(__name__)

JOIN_SECONDS = 15.0  # a member that was killed holds up the others until its session is over
SESSION_SECONDS = 6.0
POLL_SECONDS = 0.1
AGAIN_SECONDS = 1.0
SILENT_SECONDS = 10.0
CLOSE_SECONDS = 2.0
MESSAGES_AHEAD = 2000
BYTES_AHEAD = 8 << 20
MESSAGES_AT_ONCE = 500

Ends = Mapping[TopicPartition, int]


class Reader(threading.Thread):
    """One member of `group`, or without one a tail. `wake` is called, in this thread, when there is news for batch()."""

    def __init__(
        self,
        link: Link,
        topics: Sequence[str],
        group: str | None,
        from_start: bool,
        wake: Callable[[], None],
        heard: Callable[[], None],
    ) -> None:
        super().__init__(name=f"kafka-reader-{group or 'tail'}", daemon=True)
        self.link, self.topics, self.group, self.from_start = link, tuple(topics), group, from_start
        self.error: Unavailable | None = None
        self.positioned = False
        self._wake, self._tell = wake, heard
        self._ended = threading.Event()
        self._changed = threading.Condition()
        self._chunks: deque[_Chunk] = deque()
        self._returned: dict[TopicPartition, int] = {}
        self._committed: dict[TopicPartition, int] = {}
        self._positions: dict[TopicPartition, int] = {}
        self._ids: dict[str, object] = {}
        self._ends: Ends = {}
        self._behind = 0
        self._heard = time.monotonic()
        self._consumer: KafkaConsumer | None = None
        self._client: Client | None = None

    def run(self) -> None:
        """One consumer after the other, until end(): the first must succeed, later ones are tried for ever."""
        while not self._ended.is_set():
            try:
                self._live()
            except Exception as error:
                incident = error if isinstance(error, Unavailable) else self._explained(error)
                if not self.positioned:
                    self.error = incident
                    break
                log.warning("reader starts anew", extra={"error": str(incident), "topics": self.topics})
                self._ended.wait(AGAIN_SECONDS)
        self._wake()

    def _explained(self, error: Exception) -> Unavailable:
        if not isinstance(error, KafkaError):
            log.exception("reader broke")
        try:
            return self.link.explain(error)
        except Unavailable as explained:
            return explained

    def _live(self) -> None:
        self.link.probe()
        ensure(self.link, self.topics)
        consumer = self._open()
        try:
            self._position(consumer)
            self.positioned = True
            self._wake()
            while not self._ended.is_set() and self._same_log() and self._lively():
                self._turn(consumer)
        finally:
            self._close(consumer)

    def _open(self) -> KafkaConsumer:
        def client(**configs: Any) -> Client:
            self._client = Client(**configs)
            return self._client

        try:
            self._consumer = KafkaConsumer(
                **self.link.configuration(),
                kafka_client=client,
                group_id=self.group,
                group_instance_id=(self.group and self.link.options.member) or None,
                auto_offset_reset="earliest",
                enable_auto_commit=False,
                partition_assignment_strategy=(CooperativeStickyAssignor,),
                session_timeout_ms=int(SESSION_SECONDS * 1000),
                heartbeat_interval_ms=int(SESSION_SECONDS * 1000 / 4),
                max_poll_interval_ms=30_000,
                max_poll_records=MESSAGES_AT_ONCE,
                fetch_max_bytes=BYTES_AHEAD,
                metrics_enabled=False,
            )
        except KafkaError:
            if self._client:
                self._client.close()
            raise
        self._heard = time.monotonic()
        self._cluster.add_listener(self._note)
        return self._consumer

    @property
    def _cluster(self) -> Any:
        assert self._client
        return self._client.cluster

    def _note(self, _: object) -> None:
        self._heard = time.monotonic()
        self._tell()

    def _close(self, consumer: KafkaConsumer) -> None:
        with self._changed:
            self._forget(lambda _: True)
            self._consumer = None
        with suppress(KafkaError, RuntimeError):
            if self._ended.is_set() and self.group:
                # The library lets a member with a name stay in its group when it closes, as if it came back at once.
                consumer._coordinator.is_dynamic_member = lambda: True
            consumer.close(autocommit=False, timeout_ms=int(CLOSE_SECONDS * 1000))

    def _position(self, consumer: KafkaConsumer) -> None:
        until = time.monotonic() + JOIN_SECONDS
        if self.group:
            consumer.subscribe(topics=list(self.topics), listener=_Listener(self))
        else:
            self._cluster.set_topics(self.topics)
        # Who joins a group without knowing the partitions is given none, and must join again.
        while any(self._cluster.partitions_for_topic(topic) is None for topic in self.topics):
            self._pause_until(until, f"no news of topics {', '.join(self.topics)}")
        if not self.group:
            self._assign(consumer, first=not self._positions)
            return
        while consumer.group_metadata().state != MemberState.STABLE:
            self._keep(consumer, consumer.poll(timeout_ms=int(POLL_SECONDS * 1000)))
            self._pause_until(until, f"group {self.group} did not let us in", 0)
        self._ends = self._bounds(consumer.end_offsets, list(consumer.assignment()))
        self._keep(consumer, consumer.poll(0))

    def _pause_until(self, until: float, incident: str, seconds: float = 0.01) -> None:
        if self._ended.wait(seconds) or time.monotonic() > until:
            raise self.link.unavailable(f"{incident} within {JOIN_SECONDS:.0f} s")

    def _assign(self, consumer: KafkaConsumer, first: bool) -> None:
        """Read all partitions that there are: from the position of before, else from the end if this is the first time."""
        cluster = self._cluster
        found = {TopicPartition(t, p) for t in self.topics for p in cluster.partitions_for_topic(t) or ()}
        new = list(found - consumer.assignment())
        if not new:
            return
        consumer.assign(sorted(found))
        ends = self._bounds(consumer.end_offsets, new)
        starts = ends if first and not self.from_start else self._bounds(consumer.beginning_offsets, new)
        for place in new:
            consumer.seek(place, self._positions.get(place, starts[place]))
        self._positions |= {place: self._positions.get(place, starts[place]) for place in new}
        self._ends = {**self._ends, **ends}
        self._keep(consumer, {})

    def _bounds(self, ask: Callable[..., Ends], places: Sequence[TopicPartition]) -> Ends:
        return ask(places, timeout_ms=int(REQUEST_SECONDS * 1000)) if places else {}

    def _same_log(self) -> bool:
        """Make topics that have vanished anew; False once a topic is another one than before."""
        cluster = self._cluster
        if any(cluster.partitions_for_topic(topic) is None for topic in self.topics):
            ensure(self.link, self.topics)
            self._ended.wait(POLL_SECONDS)
            return True
        ids = {topic: cluster.topic_id(topic) for topic in self.topics}
        if {**ids, **self._ids} == ids:
            self._ids = {topic: known for topic, known in ids.items() if known}
            return True
        log.warning("the log was replaced: reading it from its start", extra={"topics": self.topics})
        self._ids, self._positions, self.from_start = {}, {}, True
        return False

    def _lively(self) -> bool:
        """False if brokers that answer others have not answered this client for long: a password may have changed."""
        if time.monotonic() - self._heard < SILENT_SECONDS:
            return True
        with suppress(Unavailable):
            self.link.probe()
            self._ended.wait(AGAIN_SECONDS)
            return time.monotonic() - self._heard < SILENT_SECONDS
        self._ended.wait(AGAIN_SECONDS)
        return True

    def _turn(self, consumer: KafkaConsumer) -> None:
        with self._changed:
            if self._full() and not self._changed.wait(AGAIN_SECONDS / 2) and self._full():
                consumer.pause(*consumer.assignment())
        self._keep(consumer, consumer.poll(timeout_ms=0 if consumer.paused() else int(POLL_SECONDS * 1000)))
        consumer.resume(*consumer.paused())
        if not self.group:
            self._assign(consumer, first=False)

    def _full(self) -> bool:
        messages = sum(len(chunk.messages) for chunk in self._chunks)
        return messages >= MESSAGES_AHEAD or sum(chunk.size for chunk in self._chunks) >= BYTES_AHEAD

    def _keep(self, consumer: KafkaConsumer, polled: Mapping[TopicPartition, Sequence[Any]]) -> None:
        assigned = consumer.assignment()
        # consumer.position() would look again, by place, at what poll() has just seen to.
        consumed = consumer._subscription.all_consumed_offsets()
        positions = {place: consumed[place].offset for place in assigned if place in consumed}
        chunk = _Chunk(
            {place: records for place, records in polled.items() if place in assigned}, self.link.options.prefix
        )
        with self._changed:
            if chunk.messages:
                self._chunks.append(chunk)
            if not self.group:
                self._positions |= positions
            self._behind = sum(
                max(0, (consumer.highwater(place) or self._ends.get(place, 0)) - positions.get(place, 0))
                for place in assigned & consumer.assignment()
            )
        if chunk.messages:
            self._wake()

    def lose(self, places: Iterable[TopicPartition]) -> None:
        """Another member owns these now."""
        lost = set(places)
        with self._changed:
            self._forget(lost.__contains__)

    def _forget(self, lost: Callable[[TopicPartition], bool]) -> None:
        for chunk in self._chunks:
            chunk.drop(lost)
        self._chunks = deque(chunk for chunk in self._chunks if chunk.messages)
        for offsets in (self._returned, self._committed):
            for place in [place for place in offsets if lost(place)]:
                del offsets[place]
        self._changed.notify_all()

    def take(self) -> Sequence[Received]:
        """What was read next, or nothing."""
        found: list[Received] = []
        with self._changed:
            while self._chunks and len(found) + len(self._chunks[0].messages) <= MESSAGES_AT_ONCE:
                chunk = self._chunks.popleft()
                found += chunk.messages
                self._returned |= chunk.next
            self._changed.notify_all()
        return found

    def lag(self) -> int:
        with self._changed:
            return self._behind + sum(len(chunk.messages) for chunk in self._chunks)

    def commit(self) -> None:
        """Commit what take() has returned, in partitions that are still ours. Blocks.

        That it fails is no trouble: the messages are delivered again to whoever owns the partition then.
        """
        with self._changed:
            consumer = self._consumer
            new = {place: offset for place, offset in self._returned.items() if self._committed.get(place) != offset}
        if not (new and consumer):
            return
        offsets = {place: OffsetAndMetadata(offset, "", -1) for place, offset in new.items()}
        try:
            consumer.commit(offsets, timeout_ms=int(REQUEST_SECONDS * 1000))
        except (KafkaError, RuntimeError) as error:
            log.warning("commit failed", extra={"error": f"{type(error).__name__}: {error}", "group": self.group})
            return
        with self._changed:
            self._committed |= {place: offset for place, offset in new.items() if place in self._returned}

    def end(self) -> None:
        """Leave soon; join() waits for it."""
        self._ended.set()
        with self._changed:
            self._changed.notify_all()


class _Chunk:
    """What one poll has brought: messages, and by partition the offset that follows them."""

    def __init__(self, polled: Mapping[TopicPartition, Sequence[Any]], prefix: str) -> None:
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
        self.next = {place: records[-1].offset + 1 for place, records in polled.items() if records}
        self.size = sum(len(message.value) for message in self.messages)
        self._prefix = prefix

    def drop(self, lost: Callable[[TopicPartition], bool]) -> None:
        self.messages = [m for m in self.messages if not lost(TopicPartition(self._prefix + m.topic, m.partition))]
        self.next = {place: offset for place, offset in self.next.items() if not lost(place)}


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    """Called in the library's own thread, where nothing may block."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        pass

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        self._reader.lose(revoked)

    def on_partitions_lost(self, lost: Iterable[TopicPartition]) -> None:
        self._reader.lose(lost)
