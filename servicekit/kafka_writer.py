"""The one producer of a bus: idempotent, acknowledged by all replicas in sync, and never waiting long."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from kafka import KafkaProducer
from kafka.errors import KafkaError

from servicekit.kafka_connect import Client, Link

DELIVERY_SECONDS = 6.0
METADATA_SECONDS = 3.0
MAX_REQUEST = 1_048_576  # what a broker takes unless told otherwise
BATCH_BYTES = 131_072


class Writer:
    """Wraps the library's producer, whose own thread sends. Opening it connects, so do that in a thread."""

    def __init__(self, link: Link) -> None:
        self._clients: list[Client] = []
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
        return client

    def knows(self, topic: str) -> bool:
        """Whether send() of this topic will not have to look for it."""
        return self._clients[0].cluster.partitions_for_topic(topic) is not None

    def learn(self, topic: str) -> None:
        """Look for the topic: blocks."""
        self._producer.partitions_for(topic)

    def send(self, topic: str, key: bytes, value: bytes, headers: Mapping[str, bytes]) -> "asyncio.Future[None]":
        """Done once the message is kept, or fails with a KafkaError."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def settle(error: Exception | None) -> None:
            if not done.done():
                if error:
                    done.set_exception(error)
                else:
                    done.set_result(None)

        def told(outcome: object) -> None:
            error = outcome if isinstance(outcome, Exception) else None
            with suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(settle, error)

        self._producer.send(topic, key=key, value=value, headers=list(headers.items())).add_both(told)
        return done

    def close(self, seconds: float) -> None:
        """Send what is under way for so long, then give up the rest."""
        with suppress(KafkaError):
            self._producer.close(timeout=seconds)
        self._producer._sender.force_close()
