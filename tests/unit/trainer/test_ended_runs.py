"""Each run that ends is counted once, by one replica."""

from typing import cast

from millstream.training.v1.attempt_pb2 import RunOutcome
from millstream.training.v1.training_run_pb2 import TrainingRun
from servicekit.blobs.memory import MemoryBlobs
from servicekit.processes import this_process
from services.trainer.launchers.port import EndedWorker
from tests.worlds.reconcile import Trainer, ended


async def succeed(trainer: Trainer, attempt: int) -> None:
    """What a worker leaves that succeeds in this attempt."""
    outcome = RunOutcome(run_id="run", model="toy", state=TrainingRun.STATE_SUCCEEDED)
    outcome.lineage.attempts = attempt
    assert await trainer.store.end(outcome)


async def test_a_run_that_succeeded_is_counted_once_by_the_replica_of_its_worker() -> None:
    """Its outcome is written by the worker, which has no metrics: no replica counted it."""
    mine, before = Trainer(), ended("succeeded")
    other = Trainer(blobs=cast("MemoryBlobs", mine.store.blobs))
    await mine.request("run")
    await mine.claimed_by_the_dead("run", 1)
    assert await mine.store.attempts("run").claim(2)
    await succeed(mine, 2)
    first = (await mine.store.attempts("run").read(1)).process
    other.launcher.gone = [EndedWorker(first, None, b"", 0)]  # its attempt was lost, and another succeeded
    mine.launcher.gone = [EndedWorker(this_process(), 0, b"", 0)]
    await other.reconcile("run")
    assert ended("succeeded") == before
    for trainer in (mine, other, mine):
        await trainer.reconcile("run")
    assert ended("succeeded") == before + 1 and not mine.launcher.gone


async def test_a_run_that_failed_or_was_cancelled_is_no_success() -> None:
    trainer, before = Trainer(), ended("succeeded")
    await trainer.request("run")
    assert await trainer.store.attempts("run").claim(1)
    await trainer.runs._fail(await trainer.store.request("run"), "not wanted")
    trainer.launcher.gone = [EndedWorker(this_process(), 0, b"", 0)]
    await trainer.reconcile("run")
    assert ended("succeeded") == before
