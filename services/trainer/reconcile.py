"""Every run is brought to its outcome, by as many workers as it takes."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field

from typing_extensions import override

from millstream.errors import DataLoss, FailedPrecondition, InvalidArgument, MillstreamError, NotFound
from millstream.operations.v1.stored_pb2 import Process
from millstream.timestamps import seconds_of
from millstream.training.v1.attempt_pb2 import RunOutcome, RunRequest
from millstream.training.v1.training_run_pb2 import TrainingRun
from servicekit.processes import is_running
from servicekit.work.keys import Key
from servicekit.work.queue import Reconciler, Work
from services.trainer import checkpoints, metrics
from services.trainer.launchers.port import Launcher
from services.trainer.observed import ObservedAttempts
from services.trainer.store import Store
from services.trainer.trouble import is_trouble
from services.trainer.verdict import LONGEST_PAUSE_SECONDS, pause, verdict

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

    def __init__(
        self,
        store: Store,
        launcher: Launcher,
        work: Work,
        *,
        slots: int,
        time_limit_seconds: float,
        keep_checkpoints_seconds: float = 0.0,
    ) -> None:
        self.store, self.launcher, self.work = store, launcher, work
        self.slots, self.time_limit, self.keep_checkpoints = slots, time_limit_seconds, keep_checkpoints_seconds
        launcher.on_end(self.worker_ended)
        self.observed = ObservedAttempts(store, launcher)
        self.slot_queue = SlotQueue()
        # The used slots must not change between counting them and taking one.
        self._one_at_a_time = asyncio.Lock()
        metrics.SLOTS.set(slots)

    @override
    async def pending(self) -> AsyncIterator[RunKey | DataLoss]:
        # A run that has ended may have a worker that has not.
        with_workers = {*self.launcher.workers(), *self.launcher.ended()}
        without_outcome, damaged = await self.store.compare()
        for run_id in with_workers.union(without_outcome):
            yield RunKey(run_id)
        for error in damaged:
            yield error

    @override
    async def reconcile(self, key: RunKey) -> float | None:
        try:
            return await self._bring(key.run_id)
        except DataLoss:
            self.slot_queue.leave(key.run_id)  # it would keep the others waiting
            raise

    async def _bring(self, name: str) -> float | None:
        request = await self.store.request(name)
        await self.store.index.add(request)
        await self.observed.record_ended(name)
        attempts = self.store.attempts(name)
        newest = await attempts.newest()
        # Read before outcome and ending: a worker that stores one and ends between two reads must not count as lost.
        alive = bool(newest) and await attempts.is_alive(newest)
        if await self.store.outcome(name):
            return await self._end_worker(name)
        await self._export_progress(request, newest)
        ended = newest and await self.store.ending(name, newest)
        if newest and not ended:
            if alive:
                self.slot_queue.leave(name)
                await self._stop_lost_worker(name, newest)
                reason = await self._over_limit(request, newest)
                return await self._fail(request, reason) if reason else POLL_SECONDS
            # A child of this trainer that has just ended: its exit code is about to come, and queues the run.
            is_child = not is_running((await attempts.read(newest)).process) and await self.observed.holder(
                name, newest
            )
            if is_child or not await self.observed.record_lost(name, newest):
                return POLL_SECONDS
        stopping = await self._stop_lost_worker(name, newest)
        delay = await self._try_again(request, newest)
        return POLL_SECONDS if stopping and delay is not None else delay

    async def _stop_lost_worker(self, run_id: str, newest: int) -> bool:
        """End the worker of an attempt that is over, which is about to exit, or hangs while another goes on with the run."""
        lost = await self.observed.has_lost_its_attempt(run_id, newest)
        if lost:
            await self.launcher.stop(run_id)
        return lost

    async def _try_again(self, request: RunRequest, newest: int) -> float | None:
        """No attempt is in progress: start the next one after a pause, or end the run when that will not help."""
        endings = await self.store.endings(request.run_id, newest)
        if reason := verdict(endings):
            return await self._fail(request, reason)
        if newest:
            left = pause(endings) - await self.observed.since_end(request.run_id, newest)
            if left > 0:
                self.slot_queue.leave(request.run_id)
                return max(left, POLL_SECONDS)
            if reason := await self._over_limit(request, newest):
                return await self._fail(request, reason)
        await self._start(request, newest)
        return POLL_SECONDS

    @override
    async def end(self, key: RunKey, error: MillstreamError) -> bool:
        try:
            request = await self.store.request(key.run_id)
        except (NotFound, InvalidArgument):
            # An event or a listing (see Blobs.list) named a run that was never requested, or its store is another now.
            await self.launcher.stop(key.run_id)
            for worker in self.launcher.ended().get(key.run_id, []):
                self.launcher.forget(worker.process)
            return True
        if is_trouble(error):
            # Such as a token that is wrong for a moment: nothing is wrong with the run.
            self.work.add(key, LONGEST_PAUSE_SECONDS)
            return False
        await self._fail(request, str(error))
        return True

    def worker_ended(self, run_id: str) -> None:
        """Callback of the launcher: queues the worker's run and every run that waits for a slot."""
        for name in (run_id, *self.slot_queue.requested):
            self.work.add(RunKey(name))
        # The worker has no bus: what it stored is published from here.
        self.store.outbox.sweep_soon()

    async def _start(self, request: RunRequest, newest: int) -> None:
        """Launch a worker if the run's turn has come, and a slot and its resources are free."""
        has_worker = request.run_id in self.launcher.workers()
        if has_worker or await self._another_is_active(request) or await self._lacks_resources(request):
            self.slot_queue.leave(request.run_id)
            if has_worker and not await self.observed.holder(request.run_id, newest):
                await self.observed.end_idle(request.run_id, newest)
            return
        async with self._one_at_a_time:
            self.slot_queue.join(request)
            used = await self._slots_used()
            metrics.SLOTS_USED.set(used)
            has_turn = self.slot_queue.first() == request.run_id and used < self.slots
            if has_turn and await self.launcher.has_room(request.spec.resources):
                self.slot_queue.leave(request.run_id)
                await self.launcher.launch(request.run_id, request.spec.resources)
                metrics.SLOTS_USED.set(used + 1)

    async def _slots_used(self) -> int:
        """Workers that have held an attempt or may claim one; one that waits for another's attempt to end uses no slot."""
        used = 0
        for run_id, process in self.launcher.workers().items():
            try:
                used += await self._uses_slot(run_id, process)
            except DataLoss:
                used += 1
        return used

    async def _uses_slot(self, run_id: str, process: Process) -> bool:
        attempts = self.store.attempts(run_id)
        newest = await attempts.newest()
        claims = [await attempts.read(number) for number in range(newest, 0, -1)]
        held_one = any(claim.process == process for claim in claims)
        return held_one or not newest or not await attempts.is_alive(newest)

    async def _another_is_active(self, request: RunRequest) -> bool:
        """Of the automatic runs of one model only one is active at a time."""
        if not request.automatic:
            return False
        for run_id in await self.store.open_run_ids(request.spec.model):
            with suppress(DataLoss):  # nobody knows whether it is active
                other = await self.store.request(run_id)
                if run_id != request.run_id and other.automatic:
                    newest = await self.store.attempts(run_id).newest()
                    if newest and await self.store.attempts(run_id).is_alive(newest):
                        return True
        return False

    async def _lacks_resources(self, request: RunRequest) -> bool:
        """No worker of this replica can have what the run asks for: it waits for another replica, or for a cancellation."""
        try:
            await self.launcher.check(request.spec.resources)
        except FailedPrecondition:
            return True
        return False

    async def _over_limit(self, request: RunRequest, newest: int) -> str:
        """Why the run must end if its time is over; "": it is not."""
        limit = seconds_of(request.spec.time_limit) or self.time_limit
        over = await self.observed.spent(request.run_id, newest) > limit
        return f"its time limit of {limit:g} s is over; set a longer training.time_limit" if over else ""

    async def _fail(self, request: RunRequest, reason: str) -> float | None:
        outcome = RunOutcome(run_id=request.run_id, model=request.spec.model, state=TrainingRun.STATE_FAILED)
        outcome.reason, outcome.actor = reason, "trainer"
        if await self.store.end(outcome):
            metrics.RUNS_ENDED.labels("failed").inc()
        return await self._end_worker(request.run_id)

    async def _end_worker(self, run_id: str) -> float | None:
        """End the worker of a run with an outcome. It sees the outcome by itself within a second, unless it hangs."""
        self.slot_queue.leave(run_id)
        if run_id not in self.launcher.workers():
            self.observed.forget(run_id)
            if not self.keep_checkpoints:  # otherwise storage.py does
                await checkpoints.delete(self.store.blobs, run_id)
            return None
        await self.launcher.stop(run_id)
        return POLL_SECONDS

    async def _export_progress(self, request: RunRequest, newest: int) -> None:
        progress = await self.store.progress(request.run_id, newest)
        if progress and time.time() - progress.time.seconds < 2 * POLL_SECONDS:
            model = request.spec.model
            metrics.LOSS.labels(model).set(progress.loss)
            metrics.PROGRESS.labels(model).set(progress.step / max(1, progress.total_steps))
            metrics.ROWS.labels(model).set(progress.rows_per_second)
