"""Merges the rows of concurrent requests into batches, without ever making one wait for company.

Three steps: prepare (a thread pool, per request) → queue (bounded by tokens) → forward (one thread, one batch at a time).
One task owns the queue of a version: nothing else takes rows out for the model, so there are no locks. Rows of all waiting
requests are taken in turn up to a token budget, sorted by length and cut into batches; a request gets exactly its rows back,
in its order. Whoever cannot be answered in time is turned away before it costs compute.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from millstream.errors import DeadlineExceeded, Internal, Overloaded
from recipekit.predictor import Item, Predictor
from recipekit.spec import Prediction, Row
from services.inference import metrics
from services.inference.engine.queue import Limits, Queue, QueuedRequest, QueuedRow, into_batches

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class Answer:
    """Predictions in the order of the rows, and where the time went, in seconds."""

    predictions: list[Prediction]
    prepare: float
    queue: float
    infer: float


class Batcher:
    """The only way to one loaded version's model."""

    def __init__(self, model: str, predictor: Predictor, limits: Limits, prepare_pool: Executor) -> None:
        self.model, self.predictor, self.limits = model, predictor, limits
        self.queue = Queue(model, limits)
        self.in_flight = 0
        self._prepare_pool = prepare_pool
        self._forward_thread = ThreadPoolExecutor(1, thread_name_prefix=f"forward-{model}")
        self._arrived = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._tokens_per_second = 0.0
        for reason in ("overloaded", "deadline", "cancelled"):
            metrics.REFUSED.labels(model, reason)
        self._owner = asyncio.create_task(self._own())

    async def answer(self, read: Callable[[], Sequence[Row]], deadline: float | None = None) -> Answer:
        """Predict for the rows that `read` gives; it runs in a thread and may refuse them.

        Raises Overloaded at once when too much waits already, DeadlineExceeded when the deadline (monotonic clock) passes.
        """
        self._admit(deadline)
        self.in_flight += 1
        self._idle.clear()
        try:
            async with asyncio.timeout_at(deadline):
                return await self._answer(read, deadline)
        except TimeoutError:
            raise self._too_late() from None
        except asyncio.CancelledError:
            metrics.REFUSED.labels(self.model, "cancelled").inc()
            raise
        finally:
            self.in_flight -= 1
            if not self.in_flight:
                self._idle.set()

    async def warm_up(self, rows: Sequence[Row], sizes: Sequence[int] = (1, 8, 64)) -> Prediction | None:
        """Predict for that many rows at once in the thread that will serve; returns a prediction, None without rows."""
        prediction = None
        for size in sizes if rows else ():
            some = rows[:size]
            items = await self._in_thread(self._prepare_pool, partial(self.predictor.prepare, some))
            request = QueuedRequest(items, None, asyncio.get_running_loop().create_future())
            for batch in into_batches([QueuedRow(request, i) for i in range(len(items))], self.limits):
                work = partial(self._forward, [line.item for line in batch])
                prediction = (await self._in_thread(self._forward_thread, work))[0][0]
        return prediction

    async def close(self) -> None:
        """Answer what is in flight, then let go of the model."""
        await self._idle.wait()
        self._owner.cancel()
        with suppress(asyncio.CancelledError):
            await self._owner
        self._forward_thread.shutdown(wait=False)

    def _admit(self, deadline: float | None) -> None:
        if deadline is not None and deadline <= time.monotonic():
            raise self._too_late()
        if self.in_flight >= self.limits.queue_requests or self.queue.tokens >= self.limits.queue_tokens:
            raise self._overloaded()

    async def _answer(self, read: Callable[[], Sequence[Row]], deadline: float | None) -> Answer:
        started = time.perf_counter()
        items = await self._in_thread(self._prepare_pool, lambda: self.predictor.prepare(read()))
        prepared = time.perf_counter()
        request = self._enqueue(items, deadline)
        try:
            await request.done
        finally:
            self.queue.forget(request)
        waited = time.perf_counter() - prepared
        predictions = [request.predictions[i] for i in range(len(items))]
        answer = Answer(predictions, prepared - started, max(0.0, waited - request.infer), request.infer)
        metrics.PREPARE_SECONDS.labels(self.model).observe(answer.prepare)
        metrics.QUEUE_SECONDS.labels(self.model).observe(answer.queue)
        metrics.INFER_SECONDS.labels(self.model).observe(answer.infer)
        return answer

    def _enqueue(self, items: Sequence[Item], deadline: float | None) -> QueuedRequest:
        request = QueuedRequest(items, deadline, asyncio.get_running_loop().create_future())
        # A request larger than the whole queue is taken when it is the only one: else it could never be.
        if self.queue.tokens and self.queue.tokens + request.queued_tokens > self.limits.queue_tokens:
            raise self._overloaded()
        if not items:
            request.done.set_result(None)
            return request
        self.queue.append(request)
        self._arrived.set()
        return request

    async def _own(self) -> None:
        """Take what is there, run it, again."""
        while True:
            await self._arrived.wait()
            lines = self.queue.take()
            try:
                for batch in into_batches(lines, self.limits):
                    await self._run(batch)
            except Exception as error:
                # Without its owner a queue would stand still for ever.
                self._fail(lines, error)
            if not self.queue:
                self._arrived.clear()

    async def _run(self, batch: Sequence[QueuedRow]) -> None:
        """One forward. Where it fails each request is tried by itself, so that one bad row fails only its own request."""
        lines = [line for line in batch if not line.request.is_gone]
        if not lines:
            return
        items = [line.item for line in lines]
        padded = len(items) * max(item.cost for item in items)
        try:
            predictions, seconds = await self._in_thread(self._forward_thread, lambda: self._forward(items))
        except Exception as error:
            await self._run_apart(lines, error)
            return
        self._measure(len(items), padded, seconds)
        for line, prediction in zip(lines, predictions, strict=True):
            line.request.predictions[line.number] = prediction
        for request in dict.fromkeys(line.request for line in lines):
            request.infer += seconds
            if len(request.predictions) == len(request.items) and not request.done.done():
                request.done.set_result(None)

    async def _run_apart(self, lines: Sequence[QueuedRow], error: Exception) -> None:
        metrics.BATCHES_FAILED.labels(self.model).inc()
        apart: dict[QueuedRequest, list[QueuedRow]] = {}
        for line in lines:
            apart.setdefault(line.request, []).append(line)
        if len(apart) > 1:
            for mine in apart.values():
                await self._run(mine)
            return
        self._fail(lines, error)

    def _fail(self, lines: Sequence[QueuedRow], error: Exception) -> None:
        log.error("the model failed on a request's rows", extra={"model": self.model}, exc_info=error)
        text = f"model {self.model} failed on these rows ({type(error).__name__}); the service's log has the details"
        for request in dict.fromkeys(line.request for line in lines):
            if not request.done.done():
                request.done.set_exception(Internal(text, model=self.model))

    async def _in_thread(self, pool: Executor, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(pool, work)

    def _forward(self, items: Sequence[Item]) -> tuple[list[Prediction], float]:
        started = time.perf_counter()
        predictions = self.predictor.forward(items)
        if len(predictions) != len(items):
            raise RuntimeError(f"the model gave {len(predictions)} predictions for {len(items)} rows")
        return predictions, time.perf_counter() - started

    def _measure(self, rows: int, padded: int, seconds: float) -> None:
        metrics.BATCH_ROWS.labels(self.model).observe(rows)
        metrics.BATCH_TOKENS.labels(self.model).observe(padded)
        speed = padded / max(seconds, 1e-6)
        self._tokens_per_second += (speed - self._tokens_per_second) * (0.2 if self._tokens_per_second else 1.0)

    def _overloaded(self) -> Overloaded:
        metrics.REFUSED.labels(self.model, "overloaded").inc()
        wait = self.queue.tokens / self._tokens_per_second if self._tokens_per_second else 1.0
        wait = min(5.0, max(0.05, wait))
        return Overloaded(
            f"{self.queue.tokens} tokens in {self.in_flight} requests wait for model {self.model} already: "
            f"try again in {wait:.2f} s, or add replicas",
            retry_after=wait,
            model=self.model,
        )

    def _too_late(self) -> DeadlineExceeded:
        metrics.REFUSED.labels(self.model, "deadline").inc()
        return DeadlineExceeded(f"the deadline passed before model {self.model} had answered: allow it more time")
