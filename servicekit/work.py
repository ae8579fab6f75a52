"""The one path for work: events and looks give keys, keys enter one set-like queue, reconcile(key) does the work.

A key is queued once however often it is named, is worked on by one task at a time, and is worked on again when it was
named meanwhile. What an error means is told by its class (millrace/errors.py).
"""

import asyncio
import heapq
import logging
import math
import random
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from millrace.errors import (
    Conflict,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    MillraceError,
    NotFound,
    Overloaded,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
    status_code_of,
)
from millrace.trace import continue_trace
from servicekit import metrics
from servicekit.bus import Bus, Message, Received, Subscription
from servicekit.events import Event, Malformed, NewerEvent, from_message
from servicekit.logs import fields
from servicekit.topics import dead_letters_of, topic_of

log = logging.getLogger(__name__)
FIRST_BACKOFF, LONGEST_BACKOFF = 0.05, 5.0
PATIENCE: dict[type[Exception], int] = {NotFound: 10, FailedPrecondition: 10}
BUG_TRIES = 3
FLOOD = 20


class Key(NamedTuple):
    kind: str
    name: str


class Reconciler(Protocol):
    """Makes one kind of obligation true."""

    kind: str

    def owed(self) -> AsyncIterator[str]:
        """The names of all that may have to be done: the listing at start and at every look."""
        ...

    async def reconcile(self, name: str) -> float | None:
        """Do what is missing; safe to run twice, anywhere, at any time. A number asks to be called again in so many
        seconds."""
        ...

    async def end(self, name: str, error: MillraceError) -> None:
        """End the obligation in its object, with the reason: trying again will not help."""
        ...


Handlers = Mapping[type[Any], Callable[[Any], Iterable[Key]]]
"""What an event means here: its keys."""


@dataclass
class _State:
    tries: int = 0
    queued: bool = False
    running: bool = False
    again: bool = False
    """Named while it was being worked on."""
    due: float = math.inf
    """When it is to be queued, on the monotonic clock."""


class Work:
    """The queue, its workers, the looks, and the consumer of the bus that feeds it."""

    def __init__(
        self,
        bus: Bus,
        group: str,
        handlers: Handlers,
        reconcilers: Sequence[Reconciler],
        *,
        look_seconds: float,
        workers: int = 8,
        broadcast: bool = False,
    ) -> None:
        """`broadcast`: every replica reads every event from now on, instead of sharing them as a group."""
        self.bus, self.group, self.broadcast = bus, group, broadcast
        self.handlers = {kind.DESCRIPTOR.full_name: keys for kind, keys in handlers.items()}
        self.topics = sorted({topic_of(name).name for name in self.handlers})
        self.reconcilers = {reconciler.kind: reconciler for reconciler in reconcilers}
        self.look_seconds, self.workers = look_seconds, workers
        self.flooded = ""
        self._ready: asyncio.Queue[Key] = asyncio.Queue()
        self._later: list[tuple[float, Key]] = []
        self._states: dict[Key, _State] = {}
        self._sooner = asyncio.Event()
        self._look_now = {kind: asyncio.Event() for kind in self.reconcilers}
        self._looked = {kind: asyncio.Event() for kind in self.reconcilers}

    def add(self, kind: str, name: str, delay: float = 0.0) -> None:
        """Queue a key now, or in so many seconds unless it is queued for sooner."""
        key = Key(kind, name)
        state = self._states.setdefault(key, _State())
        if delay > 0:
            due = time.monotonic() + delay
            if not state.queued and due < state.due:
                state.due = due
                heapq.heappush(self._later, (due, key))
                self._sooner.set()
        elif state.running:
            state.again = True
        elif not state.queued:
            state.queued, state.due = True, math.inf
            self._ready.put_nowait(key)
            metrics.WORK_QUEUED.labels(kind).inc()

    async def look(self) -> None:
        """Look now at all that should be, and wait until everything found is queued."""
        for kind in self.reconcilers:
            self._looked[kind].clear()
            self._look_now[kind].set()
        for kind in self.reconcilers:
            await self._looked[kind].wait()

    async def run(self) -> None:
        """Work for ever."""
        positioned = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._consume(positioned))
            if self.broadcast:
                # A tail must stand at the end before the first look, or an event between the two is never seen.
                with suppress(TimeoutError):
                    await asyncio.wait_for(positioned.wait(), 5)
            for kind in self.reconcilers:
                group.create_task(self._keep_looking(kind))
            group.create_task(self._feed())
            for _ in range(self.workers):
                group.create_task(self._serve())

    async def _keep_looking(self, kind: str) -> None:
        failures = 0
        while True:
            self._look_now[kind].clear()
            try:
                async for name in self.reconcilers[kind].owed():
                    self.add(kind, name)
                metrics.LOOKED.labels(kind).set_to_current_time()
                self._looked[kind].set()
                failures, pause = 0, self.look_seconds
            except MillraceError as error:
                failures += 1
                pause = _backoff(failures)
                log.info("look failed", extra={"kind": kind, "error": str(error), "again_in": round(pause, 3)})
            except Exception:
                failures += 1
                pause = _backoff(failures + 4)
                log.exception("look failed by a bug", extra={"kind": kind})
            with suppress(TimeoutError):
                await asyncio.wait_for(self._look_now[kind].wait(), pause)

    async def _feed(self) -> None:
        """Move keys whose time has come to the queue."""
        while True:
            now = time.monotonic()
            while self._later and self._later[0][0] <= now:
                due, key = heapq.heappop(self._later)
                # Any other entry of the heap was overtaken by an earlier one.
                if key in self._states and self._states[key].due == due:
                    self._states[key].due = math.inf
                    self.add(*key)
            self._sooner.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._sooner.wait(), self._later[0][0] - now if self._later else None)

    async def _serve(self) -> None:
        while True:
            key = await self._ready.get()
            metrics.WORK_QUEUED.labels(key.kind).dec()
            state = self._states[key]
            state.queued, state.running, state.again = False, True, False
            with fields(kind=key.kind, key=key.name):
                delay = await self._reconcile(key, state)
            state.running = False
            if state.again:
                self.add(*key)
            elif delay is not None:
                self.add(*key, max(delay, 0.001))
            elif not state.tries and state.due == math.inf:
                del self._states[key]

    async def _reconcile(self, key: Key, state: _State) -> float | None:
        """One try; the answer is when to try again."""
        reconciler = self.reconcilers[key.kind]
        continue_trace("")
        try:
            with metrics.WORK_SECONDS.labels(key.kind).time():
                again = await reconciler.reconcile(key.name)
            state.tries = 0
            return again
        except Exception as error:
            state.tries += 1
            metrics.WORK_FAILURES.labels(key.kind, status_code_of(error)).inc()
            if not isinstance(error, MillraceError):
                log.exception("reconcile failed by a bug")
            if _is_final(error, state.tries):
                return await self._end(key, state, error)
            pause = _backoff(state.tries)
            log.info("reconcile tries again", extra={"error": str(error), "again_in": round(pause, 3)})
            return pause

    async def _end(self, key: Key, state: _State, error: Exception) -> float | None:
        known = error if isinstance(error, MillraceError) else MillraceError(f"{type(error).__name__}: {error}")
        try:
            await self.reconcilers[key.kind].end(key.name, known)
        except Exception:
            log.exception("ending failed")
            return _backoff(state.tries)
        log.warning("given up", extra={"error": str(known)})
        metrics.WORK_ENDED.labels(key.kind).inc()
        state.tries = 0
        return None

    async def _consume(self, positioned: asyncio.Event) -> None:
        failures = 0
        while self.topics:
            subscription = self._subscription()
            try:
                await subscription.start()
                if self.broadcast and positioned.is_set():
                    # What was said while nobody listened is found by looking.
                    for look in self._look_now.values():
                        look.set()
                positioned.set()
                failures = 0
                await self._read(subscription)
            except Unavailable as error:
                failures += 1
                log.warning("bus not readable", extra={"error": str(error)})
            except _Flooded as error:
                self.flooded = str(error)
                log.exception("consumer stopped")
                return
            finally:
                with suppress(MillraceError):
                    await subscription.close()
            await asyncio.sleep(_backoff(failures))

    def _subscription(self) -> Subscription:
        return self.bus.tail(self.topics) if self.broadcast else self.bus.subscribe(self.group, self.topics)

    async def _read(self, subscription: Subscription) -> None:
        dead_in_a_row = 0
        while True:
            for message in await subscription.batch():
                metrics.EVENTS_READ.set_to_current_time()
                try:
                    self._queue(from_message(message))
                    dead_in_a_row = 0
                except NewerEvent:
                    metrics.EVENTS_UNKNOWN.inc()
                except Malformed as error:
                    dead_in_a_row += 1
                    await self._bury(message, str(error))
                    if dead_in_a_row >= FLOOD:
                        raise _Flooded(
                            f"{FLOOD} messages in a row could not be parsed, the last because {error}: "
                            "the fault is likely ours; look at the dead letters, mend it and restart"
                        ) from error
            await subscription.commit()
            metrics.EVENTS_LAG.set(await subscription.lag())

    def _queue(self, event: Event) -> None:
        keys = self.handlers.get(event.event_type)
        if keys is None:
            return
        for key in keys(event.fact):
            self.add(*key)
        metrics.EVENTS_HANDLED.labels(event.event_type.rpartition(".")[2]).inc()

    async def _bury(self, message: Received, reason: str) -> None:
        metrics.EVENTS_DEAD.inc()
        log.error("message dead-lettered", extra={"topic": message.topic, "offset": message.offset, "reason": reason})
        place = {
            "dlq_topic": message.topic.encode(),
            "dlq_partition": str(message.partition).encode(),
            "dlq_offset": str(message.offset).encode(),
            "dlq_reason": reason.encode(),
        }
        headers = {**message.headers, **place}
        await self.bus.publish(Message(dead_letters_of(self.group), message.key, message.value, headers))


class _Flooded(Exception):
    pass


def _is_final(error: Exception, tries: int) -> bool:
    if isinstance(error, InvalidArgument | Unauthenticated | PermissionDenied):
        return True
    if isinstance(error, Conflict | Overloaded | Unavailable | DeadlineExceeded):
        return False
    return tries >= PATIENCE.get(type(error), BUG_TRIES)


def _backoff(tries: int) -> float:
    """Exponential, with jitter, so that replicas do not march in step."""
    return min(LONGEST_BACKOFF, FIRST_BACKOFF * 2.0 ** min(tries - 1, 20)) * random.uniform(0.5, 1.0)
