"""Merges the rows of concurrent requests into batches; a request never waits for others to fill its batch.

Three steps: prepare (a thread pool, slice by slice, bounded in characters) → queue (bounded in tokens) → forward (one
thread, one batch at a time).
One task takes rows out of a version's queue, so there are no locks. Rows of all queued requests are taken in turn up to a
token budget and packed by length; each request gets the predictions of its own rows, in its order. A request that is over
a limit or past its deadline is refused before it costs compute.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from millstream.errors import DeadlineExceeded, Internal, Overloaded
from recipekit.packing import pack
from recipekit.predictor import Item, Predictor
from recipekit.spec import Prediction, Row
from services.inference import metrics
from services.inference.engine.queue import Limits, Queue, QueuedRequest, QueuedRow

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass
class Timing:
    """Where the time of one request went, in seconds."""

    prepare: float = 0.0
    queue: float = 0.0
    infer: float = 0.0


class Admitted:
    """A request inside the engine. Its steps end at the request's deadline, and add up its timing."""

    def __init__(self, batcher: "Batcher", deadline: float | None) -> None:
        self.timing = Timing()
        self._batcher, self._deadline = batcher, deadline

    async def prepare(self, work: Callable[[], T]) -> T:
        """Run `work`, which checks and tokenises some of the request's rows, in the prepare pool."""
        started = time.perf_counter()
        prepared = await self._batcher.run_in_prepare_pool(work)
        self.timing.prepare += time.perf_counter() - started
        return prepared

    async def predict(self, items: Sequence[Item]) -> list[Prediction]:
        """Predictions in the order of the items. Raises Overloaded when the queue is full, Internal when the model fails."""
        if not items:
            return []
        started = time.perf_counter()
        request = self._batcher.enqueue(items, self._deadline)
        try:
            await request.done
        finally:
            self._batcher.queue.remove(request)
        self.timing.queue += max(0.0, time.perf_counter() - started - request.infer)
        self.timing.infer += request.infer
        return [request.predictions[i] for i in range(len(items))]

    async def infer(self, work: Callable[[], T]) -> T:
        """Run `work` in the model's own thread, between batches."""
        queued = time.perf_counter()

        def timed() -> tuple[T, float, float]:
            started = time.perf_counter()
            return work(), started, time.perf_counter()

        found, started, ended = await self._batcher.run_in_forward_thread(timed)
        self.timing.queue += started - queued
        self.timing.infer += ended - started
        return found


class Batcher:
    """The only way to one loaded version's model."""

    def __init__(self, model: str, predictor: Predictor, limits: Limits, prepare_pool: Executor) -> None:
        self.model, self.predictor, self.limits = model, predictor, limits
        self.queue = Queue(model, limits)
        self.in_flight = 0
        self.characters = 0
        """Of the requests in flight."""
        self._prepare_pool = prepare_pool
        self._forward_thread = ThreadPoolExecutor(1, thread_name_prefix=f"forward-{model}")
        self._queued = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._tokens_per_second = 0.0
        for reason in ("overloaded", "deadline", "cancelled"):
            metrics.REFUSED.labels(model, reason)
        self._batch_loop = asyncio.create_task(self._run_batches())

    @asynccontextmanager
    async def admit(self, deadline: float | None = None, characters: int = 0) -> AsyncIterator[Admitted]:
        """One request of that many characters, from admission until it has its result.

        `deadline` is on the monotonic clock, None is never. Raises Overloaded at once when too much is queued or in flight,
        DeadlineExceeded when the deadline passes.
        """
        if deadline is not None and deadline <= time.monotonic():
            raise self._deadline_exceeded()
        if self._is_full(characters):
            raise self._overloaded()
        self.in_flight += 1
        self._count(characters)
        self._idle.clear()
        admitted = Admitted(self, deadline)
        try:
            async with asyncio.timeout_at(deadline):
                yield admitted
        except TimeoutError:
            raise self._deadline_exceeded() from None
        except asyncio.CancelledError:
            metrics.REFUSED.labels(self.model, "cancelled").inc()
            raise
        finally:
            self.in_flight -= 1
            self._count(-characters)
            if not self.in_flight:
                self._idle.set()
        metrics.PREPARE_SECONDS.labels(self.model).observe(admitted.timing.prepare)
        metrics.QUEUE_SECONDS.labels(self.model).observe(admitted.timing.queue)
        metrics.INFER_SECONDS.labels(self.model).observe(admitted.timing.infer)

    async def warm_up(self, rows: Sequence[Row], sizes: Sequence[int] = (1, 8, 64)) -> Prediction | None:
        """Predict for that many rows at once in the thread that will serve; returns a prediction, None without rows."""
        prediction = None
        for size in sizes if rows else ():
            items = await self.run_in_prepare_pool(partial(self.predictor.prepare, rows[:size]))
            for batch in pack([item.cost for item in items], self.limits.batch_tokens, self.limits.batch_rows):
                predictions, _ = await self.run_in_forward_thread(partial(self._forward, [items[i] for i in batch]))
                prediction = predictions[0]
        return prediction

    async def close(self) -> None:
        """Finish what is in flight, then release the model."""
        await self._idle.wait()
        self._batch_loop.cancel()
        # gather: a cancellation of this close itself must not be swallowed with that of the loop.
        await asyncio.gather(self._batch_loop, return_exceptions=True)
        self._forward_thread.shutdown(wait=False)

    def enqueue(self, items: Sequence[Item], deadline: float | None) -> QueuedRequest:
        """Queue at least one row; the request's `done` ends when it has its predictions. Raises Overloaded."""
        request = QueuedRequest(items, deadline, asyncio.get_running_loop().create_future())
        # A request larger than the whole queue is taken when it is the only one: else it could never be.
        if self.queue.tokens and self.queue.tokens + request.queued_tokens > self.limits.queue_tokens:
            raise self._overloaded()
        self.queue.append(request)
        self._queued.set()
        return request

    async def run_in_prepare_pool(self, work: Callable[[], T]) -> T:
        """Run `work` in the pool that the loaded versions share."""
        return await asyncio.get_running_loop().run_in_executor(self._prepare_pool, work)

    async def run_in_forward_thread(self, work: Callable[[], T]) -> T:
        """Run `work` in the one thread that uses the model."""
        return await asyncio.get_running_loop().run_in_executor(self._forward_thread, work)

    def _is_full(self, characters: int) -> bool:
        # A request larger than the limit is taken when it is the only one: else it could never be.
        return (
            self.in_flight >= self.limits.queue_requests
            or self.queue.tokens >= self.limits.queue_tokens
            or (self.characters > 0 and self.characters + characters > self.limits.queue_characters)
        )

    def _count(self, characters: int) -> None:
        self.characters += characters
        metrics.QUEUE_CHARACTERS.labels(self.model).inc(characters)

    async def _run_batches(self) -> None:
        """Take what is queued and run it, until cancelled."""
        while True:
            await self._queued.wait()
            batches = self.queue.take()
            for batch in batches:
                try:
                    await self._run(batch)
                except Exception as error:
                    # If this task ended, every later request would wait until its deadline.
                    self._fail(batch, error)
            if not self.queue:
                self._queued.clear()

    async def _run(self, batch: Sequence[QueuedRow]) -> None:
        """One forward pass. Where it fails each request is run alone, so that a bad row fails only its own request."""
        rows = [row for row in batch if not row.request.is_over]
        if not rows:
            return
        items = [row.item for row in rows]
        try:
            predictions, seconds = await self.run_in_forward_thread(lambda: self._forward(items))
        except Exception as error:
            await self._run_each_request_alone(rows, error)
            return
        self._measure(items, seconds)
        for row, prediction in zip(rows, predictions, strict=True):
            row.request.predictions[row.number] = prediction
        for request in dict.fromkeys(row.request for row in rows):
            request.infer += seconds
            if len(request.predictions) == len(request.items) and not request.done.done():
                request.done.set_result(None)

    async def _run_each_request_alone(self, rows: Sequence[QueuedRow], error: Exception) -> None:
        metrics.BATCHES_FAILED.labels(self.model).inc()
        by_request: dict[QueuedRequest, list[QueuedRow]] = {}
        for row in rows:
            by_request.setdefault(row.request, []).append(row)
        if len(by_request) == 1:
            self._fail(rows, error)
            return
        for own_rows in by_request.values():
            await self._run(own_rows)

    def _fail(self, rows: Sequence[QueuedRow], error: Exception) -> None:
        log.error("the model failed on a request's rows", extra={"model": self.model}, exc_info=error)
        text = f"model {self.model} failed on these rows ({type(error).__name__}); the service's log has the details"
        for request in dict.fromkeys(row.request for row in rows):
            if not request.done.done():
                request.done.set_exception(Internal(text, model=self.model))

    def _forward(self, items: Sequence[Item]) -> tuple[list[Prediction], float]:
        started = time.perf_counter()
        predictions = self.predictor.forward(items)
        if len(predictions) != len(items):
            raise RuntimeError(f"the model gave {len(predictions)} predictions for {len(items)} rows")
        return predictions, time.perf_counter() - started

    def _measure(self, items: Sequence[Item], seconds: float) -> None:
        costs = [item.cost for item in items]
        metrics.BATCH_ROWS.labels(self.model).observe(len(costs))
        metrics.BATCH_TOKENS.labels(self.model).observe(len(costs) * max(costs))
        # In the tokens that the queue counts, without padding: their ratio is the time until the queue is empty.
        speed = sum(costs) / max(seconds, 1e-6)
        self._tokens_per_second += (speed - self._tokens_per_second) * (0.2 if self._tokens_per_second else 1.0)

    def _overloaded(self) -> Overloaded:
        metrics.REFUSED.labels(self.model, "overloaded").inc()
        wait = self.queue.tokens / self._tokens_per_second if self._tokens_per_second else 1.0
        wait = min(5.0, max(0.05, wait))
        return Overloaded(
            f"{self.queue.tokens} tokens and {self.characters} characters in {self.in_flight} requests wait for model "
            f"{self.model} already: "
            f"try again in {wait:.2f} s, or add replicas",
            retry_after=wait,
            model=self.model,
        )

    def _deadline_exceeded(self) -> DeadlineExceeded:
        metrics.REFUSED.labels(self.model, "deadline").inc()
        return DeadlineExceeded(f"the deadline passed before model {self.model} had answered: allow it more time")
