"""What this trainer observes of attempts: how long they train, and that a worker is dead or hangs. It records their ends.

Times are of this trainer's monotonic clock, so a restart forgets them; what is stored bounds them then.
"""

import logging
import signal
import time
from dataclasses import dataclass

from millstream.errors import MillstreamError
from millstream.operations.v1.stored_pb2 import Process
from millstream.timestamps import duration, seconds_of
from millstream.training.v1.attempt_pb2 import AttemptEnd, RunOutcome
from millstream.training.v1.training_run_pb2 import TrainingRun
from servicekit.processes import is_running
from services.trainer import checkpoints, metrics
from services.trainer.launchers.port import AGAIN, ENDED, EndedWorker, Launcher
from services.trainer.store import Store

log = logging.getLogger(__name__)
CLAIM_SECONDS = 120.0
"""In which a worker must claim an attempt that is free."""


@dataclass
class _Seen:
    """An attempt since it was first seen."""

    attempt: int
    since: float
    earlier: float
    """Training time in seconds that was stored before: of the attempts before, or of this one if it had ended."""
    dead_since: float | None = None
    ended_since: float | None = None


class ObservedAttempts:
    """The newest attempt of each open run, and the workers of this replica."""

    def __init__(self, store: Store, launcher: Launcher) -> None:
        self.store, self.launcher = store, launcher
        self._seen: dict[str, _Seen] = {}
        self._idle: dict[str, tuple[int, int, float]] = {}
        """By run: the pid of a worker that could claim an attempt and has not, the newest attempt, and since when."""

    def forget(self, run_id: str) -> None:
        """Drop what was seen of a run that has ended."""
        self._seen.pop(run_id, None)
        self._idle.pop(run_id, None)
        self.store.forget_attempts(run_id)

    async def spent(self, run_id: str, newest: int) -> float:
        """Seconds of training over all attempts: as stored or as seen from here, whichever is more."""
        seen = await self._see(run_id, newest)
        progress = await self.store.progress(run_id, newest)
        stored = seconds_of(progress.elapsed) if progress else 0.0
        until = time.monotonic() if seen.ended_since is None else seen.ended_since
        return max(stored, seen.earlier + until - seen.since)

    async def since_end(self, run_id: str, newest: int) -> float:
        """Seconds since the end of the newest attempt was seen."""
        seen, now = await self._see(run_id, newest), time.monotonic()
        seen.ended_since = now if seen.ended_since is None else seen.ended_since
        return now - seen.ended_since

    async def holder(self, run_id: str, newest: int) -> Process | None:
        """The worker of this replica that holds the newest attempt and whose process is there."""
        process = self.launcher.workers().get(run_id)
        claim = await self.store.attempts(run_id).read(newest) if process and newest else None
        return process if claim and claim.process == process else None

    async def has_lost_its_attempt(self, run_id: str, newest: int) -> bool:
        """Whether this replica has a worker of the run whose attempt is over: it ended, or a newer one was claimed."""
        process = self.launcher.workers().get(run_id)
        for number in range(newest, 0, -1) if process else ():
            if (await self.store.attempts(run_id).read(number)).process == process:
                return number < newest or bool(await self.store.ending(run_id, number))
        return False

    async def record_ended(self, run_id: str) -> None:
        """Record the ends of this replica's workers that are gone, so that every replica and later trainer counts them.

        One that died before it had an attempt gets one now. The one that ended the run with success is counted: by the one
        replica that it belongs to, because the worker itself has no metrics.
        """
        for worker in self.launcher.ended().get(run_id, []):
            if outcome := await self.store.outcome(run_id):
                if await self._succeeded(outcome, worker):
                    metrics.RUNS_ENDED.labels("succeeded").inc()
            else:
                number = await self._number(run_id, worker)
                if number and not await self.store.ending(run_id, number):
                    await self._ship_rest(run_id, number, worker)
                    await self._record(run_id, number, _cause(worker), _end_of(worker), worker.output)
            self._idle.pop(run_id, None)
            self.launcher.forget(worker.process)

    async def _succeeded(self, outcome: RunOutcome, worker: EndedWorker) -> bool:
        """Whether the run succeeded in the attempt of this worker."""
        number = outcome.lineage.attempts
        if outcome.state != TrainingRun.STATE_SUCCEEDED or not number:
            return False
        return (await self.store.attempts(outcome.run_id).read(number)).process == worker.process

    async def record_lost(self, run_id: str, newest: int) -> bool:
        """Record the end of an attempt whose lease has expired; False: not yet, its own trainer may know more."""
        attempts = self.store.attempts(run_id)
        process = (await attempts.read(newest)).process
        reason = f"it sent no heartbeat for {attempts.lease_seconds:g} s"
        if is_running(process) is False:
            seen, now = await self._see(run_id, newest), time.monotonic()
            seen.dead_since = now if seen.dead_since is None else seen.dead_since
            if now - seen.dead_since < attempts.lease_seconds:
                return False
            reason = "its process was gone, and its trainer too"
        try:
            await self._record(run_id, newest, AttemptEnd.CAUSE_DIED, reason, b"")
        except MillstreamError:
            # A store that takes nothing takes no heartbeats either.
            attempts.restart(newest)
            raise
        return True

    async def end_idle(self, run_id: str, newest: int) -> None:
        """End a worker that claims no attempt although there is one to claim."""
        process, now = self.launcher.workers()[run_id], time.monotonic()
        pid, attempt, since = self._idle.get(run_id, (0, 0, now))
        since = since if (pid, attempt) == (process.pid, newest) else now
        self._idle[run_id] = process.pid, newest, since
        # Once the attempt is claimed for it, it is ended as any worker whose attempt has ended.
        if now - since >= CLAIM_SECONDS and await self.store.attempts(run_id).claim(newest + 1, process):
            reason = f"it claimed no attempt for {CLAIM_SECONDS:g} s"
            await self._record(run_id, newest + 1, AttemptEnd.CAUSE_DIED, reason, b"")

    async def _number(self, run_id: str, worker: EndedWorker) -> int:
        """The attempt of a worker that is gone; 0: it had none, and needs none."""
        attempts = self.store.attempts(run_id)
        newest = await attempts.newest()
        for number in range(newest, 0, -1):
            if (await attempts.read(number)).process == worker.process:
                return number
        if worker.exit_code is None or worker.exit_code in (ENDED, AGAIN, -signal.SIGTERM):
            return 0
        if newest and not await self.store.ending(run_id, newest) and await attempts.is_alive(newest):
            return 0
        return newest + 1 if await attempts.claim(newest + 1, worker.process) else 0

    async def _ship_rest(self, run_id: str, attempt: int, worker: EndedWorker) -> None:
        """Add to the log of an attempt what its worker printed last, and did not live to store."""
        chunks, stored = await self.store.log_size(run_id, attempt)
        if rest := max(0, worker.printed - stored):
            await self.store.add_log(run_id, attempt, chunks + 1, worker.output[-rest:])

    async def _record(
        self, run_id: str, attempt: int, cause: "AttemptEnd.Cause.ValueType", reason: str, output: bytes
    ) -> None:
        end = AttemptEnd(cause=cause, reason=reason, log_tail=output.decode(errors="replace"))
        end.checkpoint_step = await checkpoints.newest_step(self.store.blobs, run_id)
        end.elapsed.CopyFrom(duration(await self.spent(run_id, attempt)))
        if await self.store.end_attempt(run_id, attempt, end) and cause == AttemptEnd.CAUSE_DIED:
            metrics.WORKERS_LOST.inc()
            log.warning("worker lost", extra={"run_id": run_id, "attempt": attempt, "reason": reason})

    async def _see(self, run_id: str, newest: int) -> _Seen:
        seen = self._seen.get(run_id)
        if seen is None or seen.attempt != newest:
            progress = await self.store.progress(run_id, newest - 1)
            spent = [seconds_of(progress.elapsed)] if progress else []
            endings = await self.store.endings(run_id, newest)
            spent += [seconds_of(ending.elapsed) for ending in endings if isinstance(ending, AttemptEnd)]
            self._seen[run_id] = seen = _Seen(newest, time.monotonic(), max(spent, default=0.0))
        return seen


def _cause(worker: EndedWorker) -> "AttemptEnd.Cause.ValueType":
    return AttemptEnd.CAUSE_TROUBLE if worker.exit_code in (AGAIN, -signal.SIGTERM) else AttemptEnd.CAUSE_DIED


def _end_of(worker: EndedWorker) -> str:
    """How a worker ended, with the last line that it or its interpreter printed."""
    code = worker.exit_code
    if code is None:
        text = "it ended while no trainer watched it"
    elif code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
        text = f"it was killed by {name}" + (" (out of memory?)" if -code == signal.SIGKILL else "")
    else:
        text = f"it ended with exit code {code}"
    # The worker's own log lines are JSON.
    output = worker.output.decode(errors="replace")
    lines = [line for line in output.splitlines() if line.strip() and not line.startswith("{")]
    return f"{text}, and said: {lines[-1][:300]}" if lines else text
