"""The one path for work: events and looks give keys, keys enter one set-like queue, reconcile(key) does the work.

A key is queued once however often it is named, is worked on by one task at a time, and is worked on again when it was
named meanwhile. What an error means is told by its class (millstream/errors.py).
"""

import asyncio
import heapq
import logging
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from prometheus_client import Gauge, Histogram

from millstream.errors import (
    Conflict,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    MillstreamError,
    NotFound,
    Overloaded,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
    status_code_of,
)
from millstream.trace import continue_trace
from servicekit import metrics
from servicekit.backoff import backoff
from servicekit.blobs.port import Blobs
from servicekit.bus.port import Bus
from servicekit.logs import fields
from servicekit.work.consumer import Consumer
from servicekit.work.keys import Handlers, Key

log = logging.getLogger(__name__)
PATIENCE: dict[type[BaseException], int] = {NotFound: 10, FailedPrecondition: 10}
BUG_TRIES = 3


K = TypeVar("K", bound=Key)


class Reconciler(Protocol[K]):
    """Makes one kind of obligation true."""

    kind: str

    def pending(self) -> AsyncIterator[K]:
        """The keys of all that may have to be done: the listing at start and at every resync."""
        ...

    async def reconcile(self, key: K) -> float | None:
        """Do what is missing; safe to run twice, anywhere, at any time. A number asks to be called again in so many
        seconds."""
        ...

    async def end(self, key: K, error: MillstreamError) -> None:
        """End the obligation in its object, with the reason: trying again will not help."""
        ...


@dataclass
class _State:
    failures: Counter[type[BaseException]] = field(default_factory=Counter)
    """Failed tries since the last good one, by class: a long outage uses up nobody's patience."""
    queued: bool = False
    running: bool = False
    again: bool = False
    """Named while it was being worked on."""
    due: float = math.inf
    """When it is to be queued, on the monotonic clock."""
    trace: str = ""
    """The traceparent of the event that named it last."""


class Work:
    """The queue, its workers, the looks, and the consumer of the bus that feeds it."""

    def __init__(
        self,
        blobs: Blobs,
        bus: Bus,
        group: str,
        handlers: Handlers,
        reconcilers: Sequence[Reconciler[Any]] = (),
        *,
        resync_seconds: float,
        workers: int = 8,
        broadcast: bool = False,
    ) -> None:
        """`broadcast`: every replica reads every event from now on, instead of sharing them as a group."""
        self.consumer = Consumer(blobs, bus, group, handlers, broadcast, self)
        self.reconcilers: dict[str, Reconciler[Any]] = {}
        self.resync_seconds, self.workers = resync_seconds, workers
        self._queued: dict[str, Gauge] = {}
        self._seconds: dict[str, Histogram] = {}
        self._ready: asyncio.Queue[Key] = asyncio.Queue()
        self._later: list[tuple[float, Key]] = []
        self._states: dict[Key, _State] = {}
        self._sooner = asyncio.Event()
        self._resync_now: dict[str, asyncio.Event] = {}
        self._waiting: dict[str, list[asyncio.Event]] = {}
        self.register(*reconcilers)

    def register(self, *reconcilers: Reconciler[Any]) -> None:
        """Add kinds of work before run(); a reconciler that queues keys itself is made after the Work that it needs."""
        for reconciler in reconcilers:
            kind = reconciler.kind
            self.reconcilers[kind] = reconciler
            self._queued[kind] = metrics.WORK_QUEUED.labels(kind)
            self._seconds[kind] = metrics.WORK_SECONDS.labels(kind)
            self._resync_now[kind] = asyncio.Event()
            self._waiting[kind] = []

    @property
    def flooded(self) -> str:
        """Why the consumer stopped for good; "" while it reads."""
        return self.consumer.flooded

    def add(self, key: Key, delay: float = 0.0) -> None:
        """Queue a key now, or in so many seconds unless it is queued for sooner."""
        state = self._states.setdefault(key, _State())
        if delay > 0:
            due = time.monotonic() + delay
            if not state.queued and due < state.due:
                state.due = due
                heapq.heappush(self._later, (due, key))
                self._sooner.set()
                self._forget_overtaken()
        elif state.running:
            state.again = True
        elif not state.queued:
            state.queued, state.due = True, math.inf
            self._ready.put_nowait(key)
            self._queued[key.kind].inc()

    def receive(self, key: Key, traceparent: str) -> None:
        """Queue a key that an event named; its reconcile goes on with the event's trace."""
        self.add(key)
        self._states[key].trace = traceparent

    def _forget_overtaken(self) -> None:
        """Keep the heap as small as what it holds: a key that is looked at often leaves an entry at each look."""
        if len(self._later) > 2 * len(self._states) + 16:
            self._later = [(state.due, key) for key, state in self._states.items() if state.due < math.inf]
            heapq.heapify(self._later)

    async def resync(self) -> None:
        """Look now at all that should be, and wait until everything found is queued."""
        looked = []
        for kind in self.reconcilers:
            looked.append(asyncio.Event())
            self._waiting[kind].append(looked[-1])
        self.resync_soon()
        for event in looked:
            await event.wait()

    def resync_soon(self) -> None:
        """Compare everything again, in the background."""
        for resync in self._resync_now.values():
            resync.set()

    async def run(self) -> None:
        """Work for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.consumer.run())
            if self.consumer.broadcast and self.consumer.topics:
                # A tail must stand at the end before the first look, or an event between the two is never seen.
                with suppress(TimeoutError):
                    async with asyncio.timeout(5):
                        await self.consumer.positioned.wait()
            for kind in self.reconcilers:
                group.create_task(self._resync_loop(kind))
            group.create_task(self._feed())
            for _ in range(self.workers):
                group.create_task(self._serve())

    async def _resync_loop(self, kind: str) -> None:
        failures = 0
        while True:
            self._resync_now[kind].clear()
            waiting = list(self._waiting[kind])
            try:
                async for key in self.reconcilers[kind].pending():
                    self.add(key)
                metrics.RESYNCED.labels(kind).set_to_current_time()
                for looked in waiting:
                    looked.set()
                    self._waiting[kind].remove(looked)
                failures, pause = 0, self.resync_seconds
            except MillstreamError as error:
                failures += 1
                pause = backoff(failures)
                log.info("look failed", extra={"kind": kind, "error": str(error), "again_in": round(pause, 3)})
            except Exception:
                failures += 1
                pause = backoff(failures + 4)
                log.exception("look failed by a bug", extra={"kind": kind})
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._resync_now[kind].wait()

    async def _feed(self) -> None:
        """Move keys whose time has come to the queue."""
        while True:
            now = time.monotonic()
            while self._later and self._later[0][0] <= now:
                due, key = heapq.heappop(self._later)
                # Any other entry of the heap was overtaken by an earlier one.
                if key in self._states and self._states[key].due == due:
                    self._states[key].due = math.inf
                    self.add(key)
            self._sooner.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._later[0][0] - now if self._later else None):
                    await self._sooner.wait()

    async def _serve(self) -> None:
        while True:
            key = await self._ready.get()
            self._queued[key.kind].dec()
            state = self._states[key]
            state.queued, state.running, state.again = False, True, False
            with fields(kind=key.kind, key=str(key)):
                delay = await self._reconcile(key, state)
            state.running = False
            if state.again:
                self.add(key)
            elif delay is not None:
                self.add(key, max(delay, 0.001))
            elif not state.failures and state.due == math.inf:
                del self._states[key]

    async def _reconcile(self, key: Key, state: _State) -> float | None:
        """One try; the answer is when to try again."""
        reconciler = self.reconcilers[key.kind]
        continue_trace(state.trace)
        try:
            with self._seconds[key.kind].time():
                again = await reconciler.reconcile(key)
            state.failures.clear()
            return again
        except (Exception, asyncio.CancelledError) as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task and task.cancelling():
                raise  # not the reconcile gave up something of its own: Work itself is being stopped
            state.failures[type(error)] += 1
            metrics.WORK_FAILURES.labels(key.kind, status_code_of(error)).inc()
            if not isinstance(error, MillstreamError):
                log.exception("reconcile failed by a bug")
            if _is_final(error, state.failures[type(error)]):
                return await self._end(key, state, error)
            pause = backoff(state.failures.total())
            log.info("reconcile tries again", extra={"error": str(error), "again_in": round(pause, 3)})
            return pause

    async def _end(self, key: Key, state: _State, error: BaseException) -> float | None:
        known = error if isinstance(error, MillstreamError) else MillstreamError(f"{type(error).__name__}: {error}")
        try:
            await self.reconcilers[key.kind].end(key, known)
        except Exception:
            log.exception("ending failed")
            return backoff(state.failures.total())
        log.warning("given up", extra={"error": str(known)})
        metrics.WORK_ENDED.labels(key.kind).inc()
        state.failures.clear()
        return None


def _is_final(error: BaseException, tries: int) -> bool:
    if isinstance(error, InvalidArgument | Unauthenticated | PermissionDenied):
        return True
    if isinstance(error, Conflict | Overloaded | Unavailable | DeadlineExceeded):
        return False
    return tries >= PATIENCE.get(type(error), BUG_TRIES)
