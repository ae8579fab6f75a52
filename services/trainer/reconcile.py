"""What should be, from what is: every run is brought to its outcome, over as many workers as it takes."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from millstream.errors import MillstreamError, NotFound
from millstream.timestamps import seconds_of
from millstream.training.v1.attempt_pb2 import AttemptFailure, RunOutcome, RunRequest
from millstream.training.v1.training_run_pb2 import TrainingRun
from servicekit.work.keys import Key
from servicekit.work.queue import Work
from services.trainer import metrics
from services.trainer.launchers.port import Launcher
from services.trainer.store import MOST_FAILURES, Store

log = logging.getLogger(__name__)
WATCH_SECONDS = 1.0


@dataclass
class SlotQueue:
    """Runs of this replica that wait for a slot, with the time at which they were asked for."""

    since: dict[str, float] = field(default_factory=dict)

    def is_first(self, request: RunRequest) -> bool:
        self.since[request.run_id] = seconds_of(request.time)
        return min(self.since, key=lambda run_id: (self.since[run_id], run_id)) == request.run_id

    def leave(self, run_id: str) -> None:
        self.since.pop(run_id, None)


@dataclass(frozen=True, order=True)
class RunKey(Key):
    """One training run."""

    kind = "run"
    run_id: str


class BringToOutcome:
    """A run without an outcome has a living worker, a slot that it waits for, or is ended."""

    kind = RunKey.kind

    def __init__(self, store: Store, launcher: Launcher, work: Work, *, slots: int, time_limit_seconds: float) -> None:
        self.store, self.launcher, self.work = store, launcher, work
        self.slots, self.time_limit = slots, time_limit_seconds
        launcher.on_end(self.worker_ended)
        self.slot_queue = SlotQueue()
        # Between counting the used slots and using one nobody else may.
        self._one_at_a_time = asyncio.Lock()
        self._lost: set[tuple[str, int]] = set()
        metrics.SLOTS.set(slots)

    async def pending(self) -> AsyncIterator[RunKey]:
        for run_id in await self.store.open_run_ids():
            yield RunKey(run_id)

    async def reconcile(self, key: RunKey) -> float | None:
        name = key.run_id
        request = await self.store.request(name)
        attempts = self.store.attempts(name)
        newest = await attempts.newest()
        # Before what a worker says last: one that said it and ended between two reads must not look lost.
        alive = bool(newest) and await attempts.is_alive(newest)
        if await self.store.outcome(name):
            self.slot_queue.leave(name)
            await self._end_worker(name)
            return None
        await self._show(request, newest)
        failure = await self.store.failure(name, newest) if newest else None
        if alive and not failure:
            self.slot_queue.leave(name)
            await self._limit(request, newest)
            return WATCH_SECONDS
        if failure and (failure.invalid or len(await self.store.failures(name, newest)) >= MOST_FAILURES):
            await self._fail(request, _words(failure, newest))
            return None
        if newest and not failure and (name, newest) not in self._lost:
            self._lost.add((name, newest))
            metrics.WORKERS_LOST.inc()
            log.warning("worker lost", extra={"run_id": name, "attempt": newest})
        await self._start(request)
        return WATCH_SECONDS

    async def end(self, key: RunKey, error: MillstreamError) -> None:
        try:
            request = await self.store.request(key.run_id)
        except NotFound:
            return  # nobody asked for it: an event made it up, or a listing (see Blobs.list)
        await self._fail(request, str(error))

    def worker_ended(self, run_id: str) -> None:
        """A worker of this replica has ended: its run, and every run that waits for a slot, are looked at again."""
        for name in (run_id, *self.slot_queue.since):
            self.work.add(RunKey(name))
        # The worker has no bus: what it stored is published from here.
        self.store.outbox.sweep_soon()

    async def _start(self, request: RunRequest) -> None:
        """Launch a worker if the run's turn has come and a slot is free."""
        if request.run_id in self.launcher.workers() or await self._another_is_active(request):
            self.slot_queue.leave(request.run_id)
            return
        async with self._one_at_a_time:
            first = self.slot_queue.is_first(request)
            used = await self._slots_used()
            metrics.SLOTS_USED.set(used)
            if first and used < self.slots:
                self.slot_queue.leave(request.run_id)
                await self.launcher.launch(request.run_id)
                metrics.SLOTS_USED.set(used + 1)

    async def _slots_used(self) -> int:
        """Workers that hold an attempt or may claim one; a worker that waits behind another's attempt holds no slot."""
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

    async def _limit(self, request: RunRequest, newest: int) -> None:
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
        """A worker sees the outcome by itself within a second; this only frees the slot sooner."""
        outcome = await self.store.outcome(run_id)
        if outcome and outcome.state != TrainingRun.STATE_SUCCEEDED:
            await self.launcher.stop(run_id)

    async def _show(self, request: RunRequest, newest: int) -> None:
        progress = await self.store.progress(request.run_id, newest)
        if progress and time.time() - progress.time.seconds < 2 * WATCH_SECONDS:
            model = request.spec.model
            metrics.LOSS.labels(model).set(progress.loss)
            metrics.PROGRESS.labels(model).set(progress.step / max(1, progress.total_steps))
            metrics.ROWS.labels(model).set(progress.rows_per_second)


def _words(failure: AttemptFailure, attempt: int) -> str:
    tried = "" if failure.invalid else f" (attempt {attempt} of {MOST_FAILURES})"
    return f"{failure.error_class}: {failure.message}{tried}; see `millstream runs logs`"
