"""Turns events on the bus into keys of work.

Positions are committed in batches, once the keys are queued. Messages that cannot be parsed become dead letters; events of a
later version are counted and skipped. A flood of messages that cannot be parsed slows the reading down, and never ends it.
"""

import asyncio
import logging
import time
from contextlib import suppress

from millstream.defaults import is_event, topic_of
from millstream.errors import MillstreamError
from servicekit import metrics
from servicekit.backoff import backoff
from servicekit.blobs.port import Blobs
from servicekit.bus.port import Bus, Received, Subscription
from servicekit.facts.events import Event, Malformed, NewerEvent, from_message
from servicekit.facts.open_work import OpenFact
from servicekit.failpoints import failpoint
from servicekit.incidents import Incident
from servicekit.work.deadletters import DeadLetters
from servicekit.work.keys import Handlers, Receiver

log = logging.getLogger(__name__)
FLOOD = 20
"""This many malformed messages in a row are a flood: someone publishes garbage, or this version's parser is at fault."""
MISSED_SECONDS = 30.0
"""Between two comparisons of a broadcast reader for messages that it could not use."""
FLOOD_PAUSE_SECONDS = 0.2
"""Between two malformed messages of a flood, so that it does not fill the topic of dead letters at once."""


class Consumer:
    """Reads the topics of the handlers' events and passes each key to the receiver, with the trace of its event."""

    def __init__(
        self, blobs: Blobs, bus: Bus, group: str, handlers: Handlers, broadcast: bool, receiver: Receiver
    ) -> None:
        self.bus, self.group, self.broadcast = bus, group, broadcast
        self.dead_letters = DeadLetters(blobs, bus, group)
        event_types = [kind.DESCRIPTOR.full_name for kind in handlers if is_event(kind)]
        self.topics = sorted({topic_of(event_type).name for event_type in event_types})
        self._handled = {name: metrics.EVENTS_HANDLED.labels(name.rpartition(".")[2]) for name in event_types}
        self.positioned = asyncio.Event()
        self.incident = Incident("consumer")
        self.flood = ""
        """What an operator should know and do about the present flood of malformed messages; "": there is none."""
        self.lag, self.last_read = 0, 0.0
        self._receiver = receiver
        self._failures = self._malformed_in_a_row = 0
        self._compared = -MISSED_SECONDS

    async def run(self) -> None:
        """Read until cancelled. A broadcast resyncs after each reconnect, since it missed what was published meanwhile."""
        while self.topics:
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
                began = not self.incident.problem
                self.incident.report(str(error))
                if began and self.broadcast:
                    self._receiver.resync_soon()  # from now on only comparisons find what was published
                self.positioned.set()  # work must not wait for the bus: a resync follows once it is back
            finally:
                with suppress(MillstreamError):
                    await subscription.close()
            await asyncio.sleep(backoff(self._failures))

    def _subscription(self) -> Subscription:
        return self.bus.tail(self.topics) if self.broadcast else self.bus.subscribe(self.group, self.topics)

    async def _read(self, subscription: Subscription) -> None:
        while True:
            messages = await subscription.batch()
            self.last_read = time.time()
            metrics.EVENTS_READ.set(self.last_read)
            for message in messages:
                try:
                    await self._queue(from_message(message))
                    self._count_malformed(0)
                except NewerEvent:
                    metrics.EVENTS_UNKNOWN.inc()
                    self._missed()
                except Malformed as error:
                    self._missed()
                    await self._bury(message, str(error))
            await asyncio.sleep(0)  # let work on the queued keys begin before the commit
            await subscription.commit()
            self._failures = 0
            self.lag = await subscription.lag()
            metrics.EVENTS_LAG.set(self.lag)

    def _missed(self) -> None:
        """A message gave no work. For a group it is open all the same; a broadcast reader compares in full, now and then."""
        if self.broadcast and time.monotonic() - self._compared >= MISSED_SECONDS:
            self._compared = time.monotonic()
            self._receiver.resync_soon()

    async def _bury(self, message: Received, reason: str) -> None:
        """Make a malformed message a dead letter, unless an operator has resolved it; pause in a flood."""
        if await self.dead_letters.is_resolved(message):
            return
        await self.dead_letters.add(message, reason)
        failpoint("consumer.dead-lettered")
        self._count_malformed(self._malformed_in_a_row + 1)
        if self.flood:
            await asyncio.sleep(FLOOD_PAUSE_SECONDS)

    def _count_malformed(self, in_a_row: int) -> None:
        """Set how many malformed messages came in a row: FLOOD of them begin a flood, one good message ends it."""
        if in_a_row == FLOOD:
            self.flood = (
                f"{FLOOD} messages in a row and more could not be parsed: either someone publishes other messages on these "
                f"topics, or this version's parser is at fault. `millstream dlq list {self.group}` shows them; replay or "
                "drop them. Reading goes on, slowly"
            )
            log.error("flood of malformed messages", extra={"problem": self.flood})
        elif self.flood and not in_a_row:
            log.info("the flood of malformed messages is over", extra={"messages": self._malformed_in_a_row})
            self.flood = ""
        self._malformed_in_a_row = in_a_row
        metrics.EVENTS_MALFORMED.set(in_a_row)

    async def _queue(self, event: Event) -> None:
        if event.event_type not in self._handled:
            return
        try:
            await self._receiver.receive(OpenFact(event.event_id, event.fact), event.traceparent)
        except Exception:
            # A retry would fail the same way without end; the next resync finds the work.
            log.exception("handler failed", extra={"event_type": event.event_type, "event_id": event.event_id})
            self._missed()
            return
        self._handled[event.event_type].inc()
