"""A thread that polls one consumer, so that a slow event loop never costs the membership of its group.

It polls ahead into a bounded buffer (buffer.py). After an outage it resumes by itself. A topic whose id has changed is a new
log, because the brokers lost their data: it is read from its start.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from kafka import ConsumerRebalanceListener, KafkaConsumer, OffsetAndMetadata, TopicPartition
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.errors import KafkaError
from kafka.structs import MemberState
from typing_extensions import override

from millstream.errors import Unavailable
from servicekit.bus.kafka.buffer import BYTES_AHEAD, MESSAGES_AT_ONCE, Buffer, Polled
from servicekit.bus.kafka.connection import REQUEST_SECONDS, Client, Link
from servicekit.bus.kafka.topics import ensure
from servicekit.bus.kafka.undecodable import Undecodable
from servicekit.bus.port import Received

log = logging.getLogger(__name__)

JOIN_SECONDS = 15.0  # a member that was killed delays the rebalance until its session times out
SESSION_SECONDS = 6.0
POLL_SECONDS = 0.1
RETRY_SECONDS = 1.0
SILENT_SECONDS = 10.0
CLOSE_SECONDS = 2.0

Offsets = Mapping[TopicPartition, int]


class Reader(threading.Thread):
    """One member of `group`, or a tail without one. Both callbacks are called in this thread or the client's.

    `on_change` is called when there are messages, when the position is fixed, and at the end; `on_answer` for each metadata
    answer of a broker.
    """

    def __init__(
        self,
        link: Link,
        topics: Sequence[str],
        group: str | None,
        from_start: bool,
        on_change: Callable[[], None],
        on_answer: Callable[[], None],
    ) -> None:
        super().__init__(name=f"kafka-reader-{group or 'tail'}", daemon=True)
        self.link, self.topics, self.group, self.from_start = link, tuple(topics), group, from_start
        self.error: Unavailable | None = None
        """Why the first consumer failed, which ends the thread."""
        self.positioned = False
        self._on_change, self._on_answer = on_change, on_answer
        self._ended = threading.Event()
        self._buffer = Buffer(link.options.prefix)
        self._positions: dict[TopicPartition, int] = {}
        self._topic_ids: dict[str, object] = {}
        self._ends: Offsets = {}
        self._undecodable = Undecodable()
        self._last_answer = time.monotonic()
        self._consumer: KafkaConsumer | None = None
        self._client: Client | None = None

    @override
    def run(self) -> None:
        """Run one consumer after another until end(). The first must succeed; later ones are retried without limit."""
        while not self._ended.is_set():
            try:
                self._run_consumer()
            except Exception as error:
                explained = error if isinstance(error, Unavailable) else self._explain(error)
                if not self.positioned:
                    self.error = explained
                    break
                log.warning("consumer restarts", extra={"error": str(explained), "topics": self.topics})
                self._ended.wait(RETRY_SECONDS)
        self._on_change()

    def take(self) -> Sequence[Received]:
        """The next messages; empty if none have been read ahead."""
        return self._buffer.take()

    def lag(self) -> int:
        """Messages published and not yet taken, as of the last poll."""
        return self._buffer.lag()

    def commit(self) -> None:
        """Commit what take() has returned, in partitions that are still assigned. Blocks.

        A failure is only logged: the partition's next owner gets the messages again.
        """
        consumer = self._consumer  # first: offsets of an older consumer must not be committed through a newer one
        offsets = self._buffer.uncommitted()
        if not (offsets and consumer):
            return
        committed = {place: OffsetAndMetadata(offset, "", -1) for place, offset in offsets.items()}
        try:
            consumer.commit(committed, timeout_ms=int(REQUEST_SECONDS * 1000))
        except (KafkaError, RuntimeError) as error:
            log.warning("commit failed", extra={"error": f"{type(error).__name__}: {error}", "group": self.group})
        else:
            self._buffer.mark_committed(offsets)

    def end(self) -> None:
        """Ask the thread to leave its group and end; join() waits for that."""
        self._ended.set()
        self._buffer.interrupt()

    def _explain(self, error: Exception) -> Unavailable:
        if not isinstance(error, KafkaError):
            log.exception("consumer failed by a bug")
        try:
            return self.link.explain(error)
        except Unavailable as explained:
            return explained

    def _run_consumer(self) -> None:
        """Read until end(), or until this consumer is of no more use."""
        self.link.probe()
        ensure(self.link, self.topics)
        consumer = self._open()
        try:
            self._position(consumer)
            self.positioned = True
            self._on_change()
            while not self._ended.is_set() and self._is_same_log() and self._is_answered():
                self._poll_once(consumer)
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
        self._last_answer = time.monotonic()
        self._cluster.add_listener(self._record_answer)
        return self._consumer

    @property
    def _cluster(self) -> Any:
        assert self._client
        return self._client.cluster

    def _record_answer(self, _: object) -> None:
        self._last_answer = time.monotonic()
        self._on_answer()

    def _close(self, consumer: KafkaConsumer) -> None:
        self._consumer = None
        self._buffer.drop()
        with suppress(KafkaError, RuntimeError):
            if self._ended.is_set() and self.group:
                # A static member does not leave its group when the library closes it, as if it came back at once.
                consumer._coordinator.is_dynamic_member = lambda: True
            consumer.close(autocommit=False, timeout_ms=int(CLOSE_SECONDS * 1000))

    def _position(self, consumer: KafkaConsumer) -> None:
        """Return once partitions are assigned and their positions fixed. Raises Unavailable after JOIN_SECONDS."""
        deadline = time.monotonic() + JOIN_SECONDS
        if self.group:
            consumer.subscribe(topics=list(self.topics), listener=_RebalanceListener(self._buffer))
        else:
            self._cluster.set_topics(self.topics)
        # A member that joins before it knows the partitions is assigned none, and would have to join again.
        while any(self._cluster.partitions_for_topic(topic) is None for topic in self.topics):
            self._wait(deadline, f"no metadata of topics {', '.join(self.topics)}")
        if not self.group:
            self._assign(consumer, first=not self._positions)
            return
        while consumer.group_metadata().state != MemberState.STABLE:
            self._store(consumer, consumer.poll(timeout_ms=int(POLL_SECONDS * 1000)))
            self._wait(deadline, f"no assignment in group {self.group}", 0)
        self._ends = _offsets(consumer.end_offsets, list(consumer.assignment()))
        self._store(consumer, consumer.poll(0))

    def _wait(self, deadline: float, problem: str, seconds: float = 0.01) -> None:
        if self._ended.wait(seconds) or time.monotonic() > deadline:
            raise self.link.unavailable(f"{problem} within {JOIN_SECONDS:.0f} s")

    def _assign(self, consumer: KafkaConsumer, first: bool) -> None:
        """Have a tail read every partition: from its known position, else from the end (`first`) or from the start."""
        cluster = self._cluster
        found = {TopicPartition(t, p) for t in self.topics for p in cluster.partitions_for_topic(t) or ()}
        new = list(found - consumer.assignment())
        if not new:
            return
        consumer.assign(sorted(found))
        ends = _offsets(consumer.end_offsets, new)
        starts = ends if first and not self.from_start else _offsets(consumer.beginning_offsets, new)
        for place in new:
            consumer.seek(place, self._positions.get(place, starts[place]))
        self._positions |= {place: self._positions.get(place, starts[place]) for place in new}
        self._ends = {**self._ends, **ends}
        self._store(consumer, {})

    def _is_same_log(self) -> bool:
        """Create topics that have vanished; False: a topic was created anew, so that positions in it are void."""
        cluster = self._cluster
        if any(cluster.partitions_for_topic(topic) is None for topic in self.topics):
            ensure(self.link, self.topics)
            self._ended.wait(POLL_SECONDS)
            return True
        ids = {topic: cluster.topic_id(topic) for topic in self.topics}
        if {**ids, **self._topic_ids} == ids:
            self._topic_ids = {topic: known for topic, known in ids.items() if known}
            return True
        log.warning("topic was replaced: reading from its start", extra={"topics": self.topics})
        self._topic_ids, self._positions, self.from_start = {}, {}, True
        return False

    def _is_answered(self) -> bool:
        """False: brokers answer a new connection but not this consumer's, for example after a change of password."""
        if time.monotonic() - self._last_answer < SILENT_SECONDS:
            return True
        with suppress(Unavailable):
            self.link.probe()
            self._ended.wait(RETRY_SECONDS)
            return time.monotonic() - self._last_answer < SILENT_SECONDS
        self._ended.wait(RETRY_SECONDS)
        return True

    def _poll_once(self, consumer: KafkaConsumer) -> None:
        """Poll; backpressure pauses the partitions while the buffer is full, so that polling continues, as a heartbeat."""
        if not self._buffer.wait_for_room(RETRY_SECONDS / 2):
            consumer.pause(*consumer.assignment())
        try:
            polled = consumer.poll(timeout_ms=0 if consumer.paused() else int(POLL_SECONDS * 1000))
        except Exception as error:
            polled = self._undecodable.pass_over(consumer, error)
            self._ended.wait(POLL_SECONDS)
        self._store(consumer, polled)
        consumer.resume(*consumer.paused())
        if not self.group:
            self._assign(consumer, first=False)

    def _store(self, consumer: KafkaConsumer, polled: Polled) -> None:
        """Buffer the records of partitions that are still assigned."""
        assigned = consumer.assignment()
        # consumer.position() would look up each partition's leader again, which poll() has just done.
        consumed = consumer._subscription.all_consumed_offsets()
        positions = {place: consumed[place].offset for place in assigned if place in consumed}
        if not self.group:
            self._positions |= positions
        unread = sum(
            max(0, (consumer.highwater(place) or self._ends.get(place, 0)) - positions.get(place, 0))
            for place in assigned & consumer.assignment()
        )
        if self._buffer.add({place: records for place, records in polled.items() if place in assigned}, unread):
            self._on_change()


def _offsets(request: Callable[..., Offsets], partitions: Sequence[TopicPartition]) -> Offsets:
    return request(partitions, timeout_ms=int(REQUEST_SECONDS * 1000)) if partitions else {}


class _RebalanceListener(ConsumerRebalanceListener):  # type: ignore[misc]
    """Drops what was read of revoked partitions. Called in the library's own thread, which nothing may block."""

    def __init__(self, buffer: Buffer) -> None:
        self._buffer = buffer

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        pass

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        self._buffer.drop(set(revoked))

    def on_partitions_lost(self, lost: Iterable[TopicPartition]) -> None:
        self._buffer.drop(set(lost))
