"""The one path for work: events and resyncs give keys, keys enter a queue without duplicates, reconcile(key) does the work.

A key is queued once however often it is added, is reconciled by one task at a time, and is reconciled again when it was
added meanwhile. The class of an error (millstream/errors.py) decides between retry and end.
"""

import asyncio
import heapq
import itertools
import logging
import math
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Protocol, TypeVar

from prometheus_client import Gauge, Histogram

from millstream.errors import DataLoss, MillstreamError, status_code_of
from millstream.trace import continue_trace
from servicekit import metrics
from servicekit.backoff import backoff
from servicekit.blobs.port import Blobs
from servicekit.bus.port import Bus
from servicekit.facts.flow import services_that_act_on
from servicekit.facts.open_work import OpenFact, OpenWork
from servicekit.failpoints import failpoint
from servicekit.logs import fields
from servicekit.work.consumer import Consumer
from servicekit.work.damage import Damage
from servicekit.work.finality import is_final
from servicekit.work.keys import Handlers, Key
from servicekit.work.obligations import Obligations
from servicekit.work.resync import FULL_RESYNC_SECONDS, SECOND_SECONDS, Resync
from servicekit.work.state import State

log = logging.getLogger(__name__)
K = TypeVar("K", bound=Key)


class Reconciler(Protocol[K]):
    """Does one kind of work, named by `kind`: compares what should be with what is, and does what is missing."""

    kind: str

    def pending(self) -> AsyncIterator[K | DataLoss]:
        """By a comparison in full: the keys of all work that may be open, an error for each damaged object. May raise."""
        ...

    async def reconcile(self, key: K) -> float | None:
        """Do what is missing. Idempotent: any replica may run it at any time. A number is the seconds to the next call."""
        ...

    async def end(self, key: K, error: MillstreamError) -> bool:
        """Record in the object that the work has failed for good, with the error.

        False: nothing can be recorded, so the facts that gave the key stay open, and the next resync tries again. An error
        of this call is retried like one of reconcile(); one that is final or repeats gives the key up in the same way.
        """
        ...


class Work:
    """The queue, its workers, the periodic resync, and the consumer that adds keys from events."""

    def __init__(
        self,
        blobs: Blobs,
        bus: Bus,
        group: str,
        handlers: Handlers,
        reconcilers: Sequence[Reconciler[Any]] = (),
        *,
        resync_seconds: float,
        full_resync_seconds: float = FULL_RESYNC_SECONDS,
        workers: int = 8,
        broadcast: bool = False,
    ) -> None:
        """`broadcast`: every replica reads every event from its start on, instead of sharing them as a group."""
        self.consumer = Consumer(blobs, bus, group, handlers, broadcast, self)
        self.reconcilers: dict[str, Reconciler[Any]] = {}
        self.damage = Damage()
        self.open_work, self._obligations = OpenWork(blobs, group), Obligations()
        self.handlers = handlers
        self.resync_seconds, self.full_resync_seconds, self.workers = resync_seconds, full_resync_seconds, workers
        self._queued: dict[str, Gauge] = {}
        self._seconds: dict[str, Histogram] = {}
        self._ready: asyncio.Queue[Key] = asyncio.Queue()
        self._delayed: list[tuple[float, int, Key]] = []
        """A heap: when each key is due, and a number, because keys of two kinds cannot be compared."""
        self._entries = itertools.count()
        self._states: dict[Key, State] = {}
        self._delay_added = asyncio.Event()
        self._bus_answers = True
        self._resyncs = [Resync("open", self._find_open, lambda _: self.resync_seconds)]
        self.register(*reconcilers)

    def register(self, *reconcilers: Reconciler[Any]) -> None:
        """Add reconcilers before run(), for example those that need this Work to add keys."""
        for reconciler in reconcilers:
            kind = reconciler.kind
            self.reconcilers[kind] = reconciler
            self._queued[kind] = metrics.WORK_QUEUED.labels(kind)
            self._seconds[kind] = metrics.WORK_SECONDS.labels(kind)
            self._resyncs.append(Resync(kind, partial(self._compare, reconciler), self._pause_of_full))

    def add(self, key: Key, delay: float = 0.0) -> None:
        """Queue a key now, or after `delay` seconds unless it is due earlier."""
        state = self._states.setdefault(key, State())
        if delay > 0:
            due = time.monotonic() + delay
            if not state.queued and due < state.due:
                state.due = due
                heapq.heappush(self._delayed, (due, next(self._entries), key))
                self._delay_added.set()
                self._compact_delayed()
        elif state.running:
            state.added_meanwhile = True
        elif not state.queued:
            state.queued, state.due = True, math.inf
            self._ready.put_nowait(key)
            self._queued[key.kind].inc()

    async def receive(self, fact: OpenFact, traceparent: str = "") -> None:
        """Queue the keys that a fact gives; their reconcile continues its event's trace. Raises what the handler raises."""
        keys = list(self.handlers[type(fact.fact)](fact.fact))
        if self.open_work.service in services_that_act_on(fact.fact):
            self._obligations.add(fact.marker_id, keys)
        for key in keys:
            self.add(key)
            self._states[key].trace = traceparent or self._states[key].trace

    def _compact_delayed(self) -> None:
        """Bound the heap: each shorter delay of a key leaves its older entry there."""
        if len(self._delayed) > 2 * len(self._states) + 16:
            self._delayed = [
                (state.due, next(self._entries), key) for key, state in self._states.items() if state.due < math.inf
            ]
            heapq.heapify(self._delayed)

    async def resync(self) -> None:
        """Resync in full now, and return once everything found is queued."""
        await asyncio.gather(*(each.now() for each in self._resyncs))

    def resync_soon(self) -> None:
        """Resync in full in the background."""
        for each in self._resyncs:
            each.soon()

    def bus_answers(self, answers: bool) -> None:
        """The bus answers now, or no more: a broadcast reader misses what is published meanwhile."""
        self._bus_answers = answers
        if self.consumer.broadcast:
            self.resync_soon()

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.consumer.run())
            if self.consumer.broadcast and self.consumer.topics:
                # The tail must be positioned before the first resync, or an event between the two is missed.
                with suppress(TimeoutError):
                    async with asyncio.timeout(5):
                        await self.consumer.positioned.wait()
            for each in self._resyncs:
                group.create_task(each.run())
            group.create_task(self._queue_delayed())
            for _ in range(self.workers):
                group.create_task(self._work())

    async def _find_open(self) -> None:
        """Queue what is open, but for what this process has queued, or tries again after a delay."""
        damaged = self.open_work.damaged
        facts = await self.open_work.facts()
        if self.open_work.damaged > damaged:
            self.resync_soon()
        for fact in facts:
            if type(fact.fact) in self.handlers and not self._obligations.has(fact.marker_id):
                await self.receive(fact)

    async def _compare(self, reconciler: Reconciler[Any]) -> None:
        """Queue what a comparison in full finds."""
        async for key in self.damage.without(reconciler.kind, reconciler.pending()):
            self.add(key)

    def _pause_of_full(self, looks: int) -> float:
        """Seconds to the next comparison in full (resync.py), after so many."""
        misses_events = self.consumer.broadcast and (self.consumer.incident.problem or not self._bus_answers)
        if misses_events or self.damage.texts():
            return self.resync_seconds
        return self.full_resync_seconds if looks > 1 else min(SECOND_SECONDS, self.full_resync_seconds)

    async def _queue_delayed(self) -> None:
        """Queue delayed keys once they are due."""
        while True:
            now = time.monotonic()
            while self._delayed and self._delayed[0][0] <= now:
                due, _, key = heapq.heappop(self._delayed)
                # Otherwise an entry with a shorter delay came first.
                if key in self._states and self._states[key].due == due:
                    self._states[key].due = math.inf
                    self.add(key)
            self._delay_added.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._delayed[0][0] - now if self._delayed else None):
                    await self._delay_added.wait()

    async def _work(self) -> None:
        while True:
            key = await self._ready.get()
            self._queued[key.kind].dec()
            state = self._states[key]
            state.queued, state.running, state.added_meanwhile = False, True, False
            facts = self._obligations.of(key)
            with fields(kind=key.kind, key=str(key)):
                delay = await self._reconcile(key, state)
            if delay is None:
                await self._settle(key, facts, done=state.is_settled)
            state.running = False
            if state.added_meanwhile:
                self.add(key)
            elif delay is not None:
                self.add(key, max(delay, 0.001))
            elif not state.failures and state.due == math.inf:
                del self._states[key]

    async def _settle(self, key: Key, facts: Iterable[str], *, done: bool) -> None:
        """Nothing is left to do under the key for facts that gave it before its reconcile began; or it was given up."""
        for marker_id in self._obligations.settle(key, facts):
            if done:
                failpoint("work.settled")
                with suppress(MillstreamError):  # the next resync lists the fact again
                    await self.open_work.done(marker_id)

    async def _reconcile(self, key: Key, state: State) -> float | None:
        """One try; returns the seconds to the next, or None."""
        reconciler = self.reconcilers[key.kind]
        continue_trace(state.trace)
        try:
            with self._seconds[key.kind].time():
                again = await reconciler.reconcile(key)
            state.failures.clear()
            state.is_settled = True
            self.damage.tried(key)
            return again
        except (Exception, asyncio.CancelledError) as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task and task.cancelling():
                raise  # Work is being stopped; any other cancellation is the reconciler's own
            state.failures[type(error)] += 1
            metrics.WORK_FAILURES.labels(key.kind, status_code_of(error)).inc()
            self.damage.tried(key, error)
            if not isinstance(error, MillstreamError):
                log.exception("reconcile failed by a bug")
            if is_final(error, state.failures[type(error)]):
                return await self._end(key, state, error)
            pause = backoff(state.failures.total())
            log.info("reconcile is retried", extra={"error": str(error), "retry_in": round(pause, 3)})
            return pause

    async def _end(self, key: Key, state: State, error: BaseException) -> float | None:
        """Have the failure recorded; returns the seconds to the next try of that, or None."""
        known = error if isinstance(error, MillstreamError) else MillstreamError(f"{type(error).__name__}: {error}")
        state.is_settled = False
        try:
            state.is_settled = await self.reconcilers[key.kind].end(key, known)
        except Exception as failure:
            state.end_failures[type(failure)] += 1
            if not is_final(failure, state.end_failures[type(failure)]):
                log.info("end is retried", extra={"error": str(failure)})
                return backoff(state.end_failures.total())
            # Nothing can be recorded under this key, such as one of an event that names no object. A resync finds the rest.
            bug = None if isinstance(failure, MillstreamError) else failure
            log.error("work given up without an end", extra={"error": str(known), "end": str(failure)}, exc_info=bug)
        else:
            log.warning("work given up", extra={"error": str(known)})
        metrics.WORK_ENDED.labels(key.kind).inc()
        state.failures.clear()
        state.end_failures.clear()
        # No marker leads a broadcast reader back to it.
        return self.resync_seconds if self.consumer.broadcast and not state.is_settled else None
