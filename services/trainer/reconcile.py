"""Every run is brought to its outcome, by as many workers as it takes."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from typing_extensions import override

from millstream.errors import MillstreamError, NotFound
from millstream.timestamps import seconds_of
from millstream.training.v1.attempt_pb2 import AttemptFailure, RunOutcome, RunRequest
from millstream.training.v1.training_run_pb2 import TrainingRun
from servicekit.work.keys import Key
from servicekit.work.queue import Reconciler, Work
from services.trainer import metrics
from services.trainer.launchers.port import Launcher
from services.trainer.store import MOST_FAILURES, Store

log = logging.getLogger(__name__)
POLL_SECONDS = 1.0
"""Between two reads of a run that has no outcome yet."""


@dataclass
class SlotQueue:
    """Runs that wait for a slot of this replica, the oldest request first."""

    requested: dict[str, float] = field(default_factory=dict)
    """By run: when it was requested, in seconds since the epoch."""

    def join(self, request: RunRequest) -> None:
        """Wait; a run that waits already keeps its place."""
        self.requested[request.run_id] = seconds_of(request.time)

    def leave(self, run_id: str) -> None:
        """Wait no longer; a run that does not wait is fine."""
        self.requested.pop(run_id, None)

    def first(self) -> str:
        """The run whose turn it is. Some run waits."""
        return min(self.requested, key=lambda run_id: (self.requested[run_id], run_id))


@dataclass(frozen=True)
class RunKey(Key):
    """One training run."""

    kind = "run"
    run_id: str


class BringToOutcome(Reconciler[RunKey]):
    """Each run without an outcome gets a worker as soon as a slot is free, or, when that will not help, an outcome."""

    kind = RunKey.kind

    def __init__(self, store: Store, launcher: Launcher, work: Work, *, slots: int, time_limit_seconds: float) -> None:
        self.store, self.launcher, self.work = store, launcher, work
        self.slots, self.time_limit = slots, time_limit_seconds
        launcher.on_end(self.worker_ended)
        self.slot_queue = SlotQueue()
        # The used slots must not change between counting them and taking one.
        self._one_at_a_time = asyncio.Lock()
        self._lost: set[tuple[str, int]] = set()
        metrics.SLOTS.set(slots)

    @override
    async def pending(self) -> AsyncIterator[RunKey]:
        for run_id in await self.store.open_run_ids():
            yield RunKey(run_id)

    @override
    async def reconcile(self, key: RunKey) -> float | None:
        name = key.run_id
        request = await self.store.request(name)
        attempts = self.store.attempts(name)
        newest = await attempts.newest()
        # Read before outcome and failure: a worker that stores one and ends between two reads must not count as lost.
        alive = bool(newest) and await attempts.is_alive(newest)
        if await self.store.outcome(name):
            self.slot_queue.leave(name)
            await self._end_worker(name)
            return None
        await self._export_progress(request, newest)
        failure = await self.store.failure(name, newest) if newest else None
        if alive and not failure:
            self.slot_queue.leave(name)
            await self._end_after_limit(request, newest)
            return POLL_SECONDS
        if failure and (failure.invalid or len(await self.store.failures(name, newest)) >= MOST_FAILURES):
            await self._fail(request, format_failure(failure, newest))
            return None
        if newest and not failure and (name, newest) not in self._lost:
            self._lost.add((name, newest))
            metrics.WORKERS_LOST.inc()
            log.warning("worker lost", extra={"run_id": name, "attempt": newest})
        await self._start(request)
        return POLL_SECONDS

    @override
    async def end(self, key: RunKey, error: MillstreamError) -> None:
        try:
            request = await self.store.request(key.run_id)
        except NotFound:
            return  # an event or a listing (see Blobs.list) named a run that was never requested
        await self._fail(request, str(error))

    def worker_ended(self, run_id: str) -> None:
        """Callback of the launcher: queues the worker's run and every run that waits for a slot."""
        for name in (run_id, *self.slot_queue.requested):
            self.work.add(RunKey(name))
        # The worker has no bus: what it stored is published from here.
        self.store.outbox.sweep_soon()

    async def _start(self, request: RunRequest) -> None:
        """Launch a worker if the run's turn has come and a slot is free."""
        if request.run_id in self.launcher.workers() or await self._another_is_active(request):
            self.slot_queue.leave(request.run_id)
            return
        async with self._one_at_a_time:
            self.slot_queue.join(request)
            used = await self._slots_used()
            metrics.SLOTS_USED.set(used)
            if self.slot_queue.first() == request.run_id and used < self.slots:
                self.slot_queue.leave(request.run_id)
                await self.launcher.launch(request.run_id)
                metrics.SLOTS_USED.set(used + 1)

    async def _slots_used(self) -> int:
        """Workers that hold an attempt or may claim one; one that waits for another worker's attempt to end uses no slot."""
        used = 0
        for run_id, process in self.launcher.workers().items():
            newest = await self.store.attempts(run_id).newest()
            claim = await self.store.attempts(run_id).read(newest) if newest else None
            mine = claim is None or claim.process == process
            used += mine or not await self.store.attempts(run_id).is_alive(newest)
        return used

    async def _another_is_active(self, request: RunRequest) -> bool:
        """Of the automatic runs of one model only one is active at a time."""
        if not request.automatic:
            return False
        for run_id in await self.store.open_run_ids():
            other = await self.store.request(run_id)
            if run_id != request.run_id and other.automatic and other.spec.model == request.spec.model:
                newest = await self.store.attempts(run_id).newest()
                if newest and await self.store.attempts(run_id).is_alive(newest):
                    return True
        return False

    async def _end_after_limit(self, request: RunRequest, newest: int) -> None:
        progress = await self.store.progress(request.run_id, newest)
        elapsed = seconds_of(progress.elapsed) if progress else 0.0
        limit = seconds_of(request.spec.time_limit) or self.time_limit
        if elapsed > limit:
            await self._fail(request, f"its time limit of {limit:g} s is over; set a longer training.time_limit")

    async def _fail(self, request: RunRequest, reason: str) -> None:
        outcome = RunOutcome(run_id=request.run_id, model=request.spec.model, state=TrainingRun.STATE_FAILED)
        outcome.reason, outcome.actor = reason, "trainer"
        if await self.store.end(outcome):
            metrics.RUNS_ENDED.labels("failed").inc()
        self.slot_queue.leave(request.run_id)
        await self._end_worker(request.run_id)

    async def _end_worker(self, run_id: str) -> None:
        """A worker sees the outcome by itself within a second; this frees its slot sooner."""
        outcome = await self.store.outcome(run_id)
        if outcome and outcome.state != TrainingRun.STATE_SUCCEEDED:
            await self.launcher.stop(run_id)

    async def _export_progress(self, request: RunRequest, newest: int) -> None:
        progress = await self.store.progress(request.run_id, newest)
        if progress and time.time() - progress.time.seconds < 2 * POLL_SECONDS:
            model = request.spec.model
            metrics.LOSS.labels(model).set(progress.loss)
            metrics.PROGRESS.labels(model).set(progress.step / max(1, progress.total_steps))
            metrics.ROWS.labels(model).set(progress.rows_per_second)


def format_failure(failure: AttemptFailure, attempt: int) -> str:
    """A failure that ends its run, as the reason of the outcome."""
    count = "" if failure.invalid else f" (attempt {attempt} of {MOST_FAILURES})"
    return f"{failure.error_class}: {failure.message}{count}; see `millstream runs logs`"
