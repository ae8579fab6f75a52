"""Turns what is said on the bus into keys of work.

The group's position is committed, in batches, once the keys are queued. What cannot be parsed goes to the dead letters;
what is newer than this version is counted and skipped.
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
from servicekit.incidents import Incident
from servicekit.work.deadletters import DeadLetters
from servicekit.work.keys import Handlers, Receiver

log = logging.getLogger(__name__)
FLOOD = 20


class Consumer:
    """Reads the topics of the handlers' events and gives each key to the receiver, with the trace of its event."""

    def __init__(
        self, blobs: Blobs, bus: Bus, group: str, handlers: Handlers, broadcast: bool, receiver: Receiver
    ) -> None:
        self.bus, self.group, self.broadcast = bus, group, broadcast
        self.letters = DeadLetters(blobs, bus, group)
        self.handlers = {kind.DESCRIPTOR.full_name: keys for kind, keys in handlers.items()}
        self.topics = sorted({topic_of(event_type).name for event_type in self.handlers})
        self._handled = {name: metrics.EVENTS_HANDLED.labels(name.rpartition(".")[2]) for name in self.handlers}
        self.positioned = asyncio.Event()
        self.incident = Incident("consumer")
        self.flooded = ""
        self.lag, self.last_read = 0, 0.0
        self._receiver = receiver
        self._failures = 0

    async def run(self) -> None:
        """Read until cancelled. After a time without a subscription the receiver resyncs."""
        while self.topics and not self.flooded:
            subscription = self._subscription()
            try:
                await subscription.start()
                self.incident.over()
                self.positioned.set()
                if self.broadcast:
                    self._receiver.resync_soon()
                await self._read(subscription)
            except MillstreamError as error:
                self._failures += 1
                self.incident.begin(str(error))
                self.positioned.set()  # nobody waits for a bus that is away: once it is there, look() comes again
            except _Flooded as error:
                self.flooded = str(error)
                log.error("consumer stopped", extra={"reason": self.flooded})
            finally:
                with suppress(MillstreamError):
                    await subscription.close()
            await asyncio.sleep(backoff(self._failures))

    def _subscription(self) -> Subscription:
        return self.bus.tail(self.topics) if self.broadcast else self.bus.subscribe(self.group, self.topics)

    async def _read(self, subscription: Subscription) -> None:
        dead_in_a_row = 0
        while True:
            messages = await subscription.batch()
            self.last_read = time.time()
            metrics.EVENTS_READ.set(self.last_read)
            for message in messages:
                try:
                    self._queue(from_message(message))
                    dead_in_a_row = 0
                except NewerEvent:
                    metrics.EVENTS_UNKNOWN.inc()
                except Malformed as error:
                    if await self.letters.is_resolved(message):
                        continue  # read again after a flood, and somebody has dealt with it since
                    dead_in_a_row += 1
                    await self.letters.bury(message, str(error))
                    if dead_in_a_row >= FLOOD:
                        raise _Flooded(
                            f"{FLOOD} messages in a row could not be parsed, the last because {error}: "
                            f"the fault is likely ours; see `millstream dlq list {self.group}`, mend or drop them, restart"
                        ) from error
            await asyncio.sleep(0)  # work on what was queued begins first: nobody waits for the commit
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
            # Reading the event again would end the same way, for ever; the next look finds what it spoke of.
            log.exception("handler failed by a bug", extra={"event_type": event.event_type, "event_id": event.event_id})
            return
        self._handled[event.event_type].inc()


class _Flooded(Exception):
    pass
