"""The one producer of a bus: idempotent, acknowledged by all replicas in sync, and never waiting long."""

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
LATE_SECONDS = 1.0
"""After a broker was killed, the library's producer at times waits for a producer id for ever, and expires nothing."""
METADATA_SECONDS = 3.0
MAX_REQUEST = 1_048_576  # what a broker takes unless told otherwise
BATCH_BYTES = 131_072


class Writer:
    """Wraps the library's producer, whose own thread sends. Opening it connects, so do that in a thread.

    It lives no longer than its connections. A broker that has lost its data gives producer ids out anew, and two producers
    with one id take each other's messages for duplicates, which the broker acknowledges and throws away.
    """

    def __init__(self, link: Link) -> None:
        self.lost = False
        self._clients: list[Client] = []
        self._told: Told | None = None
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

        def watched(*words: Any, **named: Any) -> Any:
            connection = connect(*words, **named)
            if connection not in seen:
                seen.add(connection)
                connection.init_future.add_callback(lambda _: connection.close_future.add_errback(self._lose))
            return connection

        client._manager.get_connection = watched
        return client

    def _lose(self, _: object) -> None:
        """Called in the library's thread before it could connect again: what is under way fails, and can be sent anew."""
        self.lost = True
        self._producer._sender.force_close()

    def knows(self, topic: str) -> bool:
        """Whether send() of this topic will not have to look for it."""
        return not self.lost and self._clients[0].cluster.partitions_for_topic(topic) is not None

    def learn(self, topic: str) -> None:
        """Look for the topic: blocks. Raises KafkaError."""
        try:
            self._producer.partitions_for(topic)
        except RuntimeError as error:  # so the library tells that the producer was closed meanwhile
            raise KafkaConnectionError(str(error)) from error

    def send(self, topic: str, key: bytes, value: bytes, headers: Mapping[str, bytes]) -> "asyncio.Future[None]":
        """Done once the message is kept, or fails with a KafkaError."""
        loop = asyncio.get_running_loop()
        if self._told is None or self._told.loop is not loop:
            self._told = Told(loop)
        try:
            kept = self._producer.send(topic, key=key, value=value, headers=list(headers.items()))
        except RuntimeError as error:
            raise KafkaConnectionError(str(error)) from error
        done = self._told.expect()
        kept.add_both(partial(self._told.tell, done))
        return done

    def close(self, seconds: float) -> None:
        """Send what is under way for so long, then give up the rest."""
        with suppress(KafkaError, RuntimeError):
            self._producer.close(timeout=seconds)
        self._producer._sender.force_close()


class Told:
    """Wakes the loop once for all outcomes that the producer's thread tells in a row, and gives up what it never tells."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._expected: deque[tuple[float, asyncio.Future[None]]] = deque()
        self._watching = False
        self._outcomes: deque[tuple[asyncio.Future[None], object]] = deque()
        self._due = False

    def expect(self) -> "asyncio.Future[None]":
        """Done with the outcome that is told, or given up when it is late."""
        done: asyncio.Future[None] = self.loop.create_future()
        self._expected.append((self.loop.time() + DELIVERY_SECONDS + LATE_SECONDS, done))
        if not self._watching:
            self._watch()
        return done

    def _watch(self) -> None:
        """One timer for all: each is given the same time, so the first that is expected is the first that is late."""
        while self._expected:
            late, done = self._expected[0]
            if not done.done():
                if self.loop.time() < late:
                    break
                text = f"not acknowledged within {DELIVERY_SECONDS + LATE_SECONDS:g} s"
                done.set_exception(KafkaTimeoutError(text))
            self._expected.popleft()
        self._watching = bool(self._expected)
        if self._watching:
            self.loop.call_at(self._expected[0][0], self._watch)

    def tell(self, done: "asyncio.Future[None]", outcome: object) -> None:
        self._outcomes.append((done, outcome))
        if not self._due:
            self._due = True
            with suppress(RuntimeError):  # the loop is closed: nobody waits
                self.loop.call_soon_threadsafe(self._settle)

    def _settle(self) -> None:
        self._due = False  # first: what is told from now on wakes the loop again
        while self._outcomes:
            done, outcome = self._outcomes.popleft()
            if done.done():
                continue
            if isinstance(outcome, Exception):
                done.set_exception(outcome)
            else:
                done.set_result(None)
