"""Turns events on the bus into keys of work.

Positions are committed in batches, once the keys are queued. Messages that cannot be parsed become dead letters; events of a
later version are counted and skipped.
"""

import asyncio
import logging
import time
from contextlib import suppress

from millstream.defaults import topic_of
from millstream.errors import MillstreamError
from servicekit import metrics
from servicekit.backoff import backoff
from servicekit.blobs.port import Blobs
from servicekit.bus.port import Bus, Subscription
from servicekit.facts.events import Event, Malformed, NewerEvent, from_message
from servicekit.failpoints import failpoint
from servicekit.incidents import Incident
from servicekit.work.deadletters import DeadLetters
from servicekit.work.keys import Handlers, Receiver

log = logging.getLogger(__name__)
MALFORMED_LIMIT = 20
"""This many malformed messages in a row stop the consumer: the fault is likely this version's parser."""


class Consumer:
    """Reads the topics of the handlers' events and passes each key to the receiver, with the trace of its event."""

    def __init__(
        self, blobs: Blobs, bus: Bus, group: str, handlers: Handlers, broadcast: bool, receiver: Receiver
    ) -> None:
        self.bus, self.group, self.broadcast = bus, group, broadcast
        self.dead_letters = DeadLetters(blobs, bus, group)
        self.handlers = {kind.DESCRIPTOR.full_name: keys for kind, keys in handlers.items()}
        self.topics = sorted({topic_of(event_type).name for event_type in self.handlers})
        self._handled = {name: metrics.EVENTS_HANDLED.labels(name.rpartition(".")[2]) for name in self.handlers}
        self.positioned = asyncio.Event()
        self.incident = Incident("consumer")
        self.stopped_reason = ""
        """Why the consumer stopped for good; "" while it reads."""
        self.lag, self.last_read = 0, 0.0
        self._receiver = receiver
        self._failures = 0

    async def run(self) -> None:
        """Read until cancelled. A broadcast resyncs after each reconnect, since it missed what was published meanwhile."""
        while self.topics and not self.stopped_reason:
            subscription = self._subscription()
            try:
                await subscription.start()
                self.incident.resolve()
                self.positioned.set()
                if self.broadcast:
                    self._receiver.resync_soon()
                await self._read(subscription)
            except MillstreamError as error:
                self._failures += 1
                self.incident.report(str(error))
                self.positioned.set()  # work must not wait for the bus: a resync follows once it is back
            except _TooManyMalformed as error:
                self.stopped_reason = str(error)
                log.error("consumer stopped", extra={"reason": self.stopped_reason})
            finally:
                with suppress(MillstreamError):
                    await subscription.close()
            await asyncio.sleep(backoff(self._failures))

    def _subscription(self) -> Subscription:
        return self.bus.tail(self.topics) if self.broadcast else self.bus.subscribe(self.group, self.topics)

    async def _read(self, subscription: Subscription) -> None:
        malformed_in_a_row = 0
        while True:
            messages = await subscription.batch()
            self.last_read = time.time()
            metrics.EVENTS_READ.set(self.last_read)
            for message in messages:
                try:
                    self._queue(from_message(message))
                    malformed_in_a_row = 0
                except NewerEvent:
                    metrics.EVENTS_UNKNOWN.inc()
                except Malformed as error:
                    if await self.dead_letters.is_resolved(message):
                        continue  # read again after a stop, and an operator has resolved it since
                    malformed_in_a_row += 1
                    await self.dead_letters.add(message, str(error))
                    failpoint("consumer.dead-lettered")
                    if malformed_in_a_row >= MALFORMED_LIMIT:
                        raise _TooManyMalformed(
                            f"{MALFORMED_LIMIT} messages in a row could not be parsed, the last because {error}: "
                            f"the fault is likely this version's. See `millstream dlq list {self.group}`, "
                            "replay or drop them, then restart"
                        ) from error
            await asyncio.sleep(0)  # let work on the queued keys begin before the commit
            await subscription.commit()
            self._failures = 0
            self.lag = await subscription.lag()
            metrics.EVENTS_LAG.set(self.lag)

    def _queue(self, event: Event) -> None:
        keys = self.handlers.get(event.event_type)
        if keys is None:
            return
        try:
            for key in keys(event.fact):
                self._receiver.receive(key, event.traceparent)
        except Exception:
            # A retry would fail the same way without end; the next resync finds the work.
            log.exception("handler failed", extra={"event_type": event.event_type, "event_id": event.event_id})
            return
        self._handled[event.event_type].inc()


class _TooManyMalformed(Exception):
    """MALFORMED_LIMIT messages in a row could not be parsed."""
