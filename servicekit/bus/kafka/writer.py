"""The one producer of a bus: idempotent, acknowledged by all in-sync replicas, with bounded waits."""

import asyncio
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any
from weakref import WeakSet

from kafka import KafkaProducer
from kafka.errors import KafkaConnectionError, KafkaError, KafkaTimeoutError

from servicekit.bus.kafka.connection import Client, Link

DELIVERY_SECONDS = 6.0
GRACE_SECONDS = 1.0
"""After a broker was killed, the library's producer may wait for a producer id without end, and report no timeout."""
METADATA_SECONDS = 3.0
MAX_REQUEST = 1_048_576  # a broker's default limit
BATCH_BYTES = 131_072


class Writer:
    """Wraps the library's producer, whose own thread sends. Opening it connects, and so blocks.

    It must not outlive its connections: a broker that has lost its data gives out the same producer ids again, and of two
    producers with one id it acknowledges and drops each other's messages as duplicates.
    """

    def __init__(self, link: Link) -> None:
        self.lost = False
        """A connection was lost: the producer is closed."""
        self._clients: list[Client] = []
        self._acknowledgements: Acknowledgements | None = None
        try:
            self._producer = KafkaProducer(
                **link.configuration(),
                kafka_client=self._client,
                enable_idempotence=True,
                acks="all",
                max_block_ms=int(METADATA_SECONDS * 1000),
                delivery_timeout_ms=int(DELIVERY_SECONDS * 1000),
                max_request_size=MAX_REQUEST,
                batch_size=BATCH_BYTES,
                metrics_enabled=False,
            )
        except KafkaError:
            for client in self._clients:
                client.close()
            raise

    def _client(self, **configs: Any) -> Client:
        client = Client(**configs)
        self._clients.append(client)
        connect, seen = client._manager.get_connection, WeakSet[Any]()

        def watched(*args: Any, **kwargs: Any) -> Any:
            connection = connect(*args, **kwargs)
            if connection not in seen:
                seen.add(connection)
                connection.init_future.add_callback(lambda _: connection.close_future.add_errback(self._abort))
            return connection

        client._manager.get_connection = watched
        return client

    def _abort(self, _: object) -> None:
        """Called in the library's thread before it can reconnect: messages in flight fail, and can be sent again."""
        self.lost = True
        self._producer._sender.force_close()

    def knows(self, topic: str) -> bool:
        """Whether send() has the topic's metadata and so does not block."""
        return not self.lost and self._clients[0].cluster.partitions_for_topic(topic) is not None

    def learn(self, topic: str) -> None:
        """Fetch the topic's metadata. Blocks. Raises KafkaError."""
        try:
            self._producer.partitions_for(topic)
        except RuntimeError as error:  # the library's error for a producer that was closed meanwhile
            raise KafkaConnectionError(str(error)) from error

    def send(self, topic: str, key: bytes, value: bytes, headers: Mapping[str, bytes]) -> "asyncio.Future[None]":
        """A future that is done once the message is acknowledged, or fails with a KafkaError."""
        loop = asyncio.get_running_loop()
        if self._acknowledgements is None or self._acknowledgements.loop is not loop:
            self._acknowledgements = Acknowledgements(loop)
        try:
            sent = self._producer.send(topic, key=key, value=value, headers=list(headers.items()))
        except RuntimeError as error:
            raise KafkaConnectionError(str(error)) from error
        done = self._acknowledgements.expect()
        sent.add_both(partial(self._acknowledgements.report, done))
        return done

    def close(self, seconds: float) -> None:
        """Send messages in flight for at most this many seconds, then give up the rest."""
        with suppress(KafkaError, RuntimeError):
            self._producer.close(timeout=seconds)
        self._producer._sender.force_close()


class Acknowledgements:
    """Batches delivery callbacks: one wake-up of the event loop for many, and a timeout for those that never come."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._expected: deque[tuple[float, asyncio.Future[None]]] = deque()
        self._timer_runs = False
        self._outcomes: deque[tuple[asyncio.Future[None], object]] = deque()
        self._wake_up_pending = False

    def expect(self) -> "asyncio.Future[None]":
        """A future for one delivery callback; it fails with KafkaTimeoutError when that is overdue."""
        done: asyncio.Future[None] = self.loop.create_future()
        self._expected.append((self.loop.time() + DELIVERY_SECONDS + GRACE_SECONDS, done))
        if not self._timer_runs:
            self._expire()
        return done

    def report(self, done: "asyncio.Future[None]", outcome: object) -> None:
        """The delivery callback, called in the producer's thread; `outcome` is an exception or the record's metadata."""
        self._outcomes.append((done, outcome))
        if not self._wake_up_pending:
            self._wake_up_pending = True
            with suppress(RuntimeError):  # the loop is closed, with all its futures
                self.loop.call_soon_threadsafe(self._settle)

    def _expire(self) -> None:
        """Fail the overdue. One timer for all: each has the same time, so the oldest is overdue first."""
        while self._expected:
            deadline, done = self._expected[0]
            if not done.done():
                if self.loop.time() < deadline:
                    break
                text = f"not acknowledged within {DELIVERY_SECONDS + GRACE_SECONDS:g} s"
                done.set_exception(KafkaTimeoutError(text))
            self._expected.popleft()
        self._timer_runs = bool(self._expected)
        if self._timer_runs:
            self.loop.call_at(self._expected[0][0], self._expire)

    def _settle(self) -> None:
        self._wake_up_pending = False  # first: a report from now on needs another wake-up
        while self._outcomes:
            done, outcome = self._outcomes.popleft()
            if done.done():
                continue
            if isinstance(outcome, Exception):
                done.set_exception(outcome)
            else:
                done.set_result(None)
