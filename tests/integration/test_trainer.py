"""The trainer with real workers: one trainer's parts on a directory, workers as processes of their own."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from millstream import errors
from millstream.training.v1 import training_service_pb2 as rpc
from millstream.training.v1.attempt_pb2 import AttemptFailure
from millstream.training.v1.training_run_pb2 import TrainingRun
from recipekit.cleaning import Cleaning
from recipekit.predictor import read_cleaning
from servicekit.blobs.artifact_cache import ArtifactCache
from tests.worlds.trainer import SLOW, Trainer, trainer

__all__ = ["trainer"]


async def test_a_run_is_trained_to_an_artifact_with_its_lineage_and_its_log(trainer: Trainer) -> None:
    run = await trainer.end_of(run_id := await trainer.ask())
    assert run.state == TrainingRun.STATE_SUCCEEDED, run.reason
    assert {file.path for file in run.artifact.files} >= {"artifact.json", "golden.json", "model.json"}
    assert (run.lineage.run_id, run.lineage.snapshot_id, run.lineage.seed) == (run_id, "s1", 42)
    assert run.lineage.packages and run.lineage.hardware and run.lineage.config["steps"] == 60
    assert run.metrics["accuracy"] > 0.5
    assert (run.progress.step, run.progress.total_steps) == (60, 60)
    log = [r.chunk async for r in trainer.service.ReadTrainingLog(rpc.ReadTrainingLogRequest(run_id=run_id))]
    assert b"training" in b"".join(log)
    await trainer.outbox.sweep()
    await trainer.outbox.flush()
    published = [message.headers["ce_type"].decode().rpartition(".")[2] for message in trainer.bus.log]
    assert set(published) == {"TrainingRunCreated", "TrainingRunStarted", "TrainingRunSucceeded"}


async def test_an_artifact_holds_how_the_rows_of_its_snapshot_were_cleaned(trainer: Trainer, tmp_path: Path) -> None:
    run = await trainer.end_of(await trainer.ask())
    folder = await ArtifactCache(trainer.blobs, tmp_path).fetch(run.artifact.digest)
    assert read_cleaning(folder) == Cleaning(strip_html=True)


async def test_a_killed_worker_is_followed_by_one_that_ends_bit_for_bit_as_an_undisturbed_run(
    trainer: Trainer, tmp_path: Path
) -> None:
    undisturbed = await trainer.end_of(await trainer.ask({**SLOW, "step_seconds": 0}))
    run_id = await trainer.ask(SLOW)
    await trainer.checkpoint(run_id)
    os.kill(trainer.worker_pid(run_id), signal.SIGKILL)
    run = await trainer.end_of(run_id)
    assert run.state == TrainingRun.STATE_SUCCEEDED, run.reason
    assert run.attempt == 2
    assert await trainer.weights(run, tmp_path) == await trainer.weights(undisturbed, tmp_path)
    assert run.metrics == undisturbed.metrics
    assert not run.lineage.HasField("inexact_from_step")


async def test_a_worker_that_is_asked_to_stop_saves_a_checkpoint_and_does_not_count_as_failed(trainer: Trainer) -> None:
    run_id = await trainer.ask({**SLOW, "steps": 90, "checkpoint_every": 1000})
    for attempt in (1, 2, 3):
        await trainer.at_step(run_id, 1, attempt)
        os.kill(trainer.worker_pid(run_id), signal.SIGTERM)
        await trainer.checkpoint(run_id, attempt)
    run = await trainer.end_of(run_id)
    assert run.state == TrainingRun.STATE_SUCCEEDED, run.reason
    assert run.attempt == 4


async def test_what_fails_twice_at_one_step_ends_a_run_with_the_reason(trainer: Trainer) -> None:
    run = await trainer.end_of(await trainer.ask({"fail_at_step": 3}))
    assert (run.state, run.attempt) == (TrainingRun.STATE_FAILED, 2)
    assert "failed on purpose at step 3" in run.reason
    failure = await trainer.store.ending(run.run_id, 1)
    assert isinstance(failure, AttemptFailure) and "Traceback" in failure.traceback


async def test_a_wrong_config_ends_a_run_at_once(trainer: Trainer) -> None:
    run = await trainer.end_of(await trainer.ask({"no_such_field": 1}))
    assert (run.state, run.attempt) == (TrainingRun.STATE_FAILED, 1)
    assert "no_such_field" in run.reason


async def test_cancelling_ends_the_run_and_its_worker_and_stays(trainer: Trainer) -> None:
    run_id = await trainer.ask({**SLOW, "steps": 4000})
    await trainer.at_step(run_id, 1)
    request = rpc.CancelTrainingRunRequest(run_id=run_id, reason="wrong data")
    assert (await trainer.service.CancelTrainingRun(request)).run.state == TrainingRun.STATE_CANCELLED
    while trainer.launcher.workers():
        await asyncio.sleep(0.05)
    run = await trainer.store.run(run_id)
    assert (run.state, run.reason) == (TrainingRun.STATE_CANCELLED, "wrong data")
    assert (await trainer.service.CancelTrainingRun(request)).run == run
    done = await trainer.end_of(await trainer.ask())
    with pytest.raises(errors.FailedPrecondition, match="succeeded already"):
        await trainer.service.CancelTrainingRun(rpc.CancelTrainingRunRequest(run_id=done.run_id))


async def test_the_time_limit_ends_a_run(trainer: Trainer) -> None:
    run = await trainer.end_of(await trainer.ask({**SLOW, "steps": 4000}, time_limit="1s"))
    assert run.state == TrainingRun.STATE_FAILED
    assert "time limit of 1 s" in run.reason


async def test_more_runs_than_slots_wait_their_turn(trainer: Trainer) -> None:
    run_ids = [await trainer.ask({**SLOW, "steps": 10}) for _ in range(3)]
    most = 0
    ends = asyncio.gather(*(trainer.end_of(run_id) for run_id in run_ids))
    while not ends.done():
        most = max(most, len(trainer.launcher.workers()))
        await asyncio.sleep(0.02)
    runs = await ends
    assert [run.state for run in runs] == [TrainingRun.STATE_SUCCEEDED] * 3
    assert most == 1, "one slot means one worker at a time"
    assert [run.start_time.ToNanoseconds() for run in runs] == sorted(run.start_time.ToNanoseconds() for run in runs)


async def test_a_killed_trainer_finds_its_worker_again_and_counts_its_slot(trainer: Trainer, tmp_path: Path) -> None:
    run_id = await trainer.ask(SLOW)
    await trainer.at_step(run_id, 1)
    pid = trainer.worker_pid(run_id)
    await trainer.die()
    another = Trainer(tmp_path)
    another.start()
    second = await another.ask()
    try:
        assert another.worker_pid(run_id) == pid
        run = await another.end_of(run_id)
        assert (run.state, run.attempt) == (TrainingRun.STATE_SUCCEEDED, 1), (
            "the living worker must be left to its work"
        )
        waited = await another.end_of(second)
        assert waited.start_time.ToNanoseconds() >= run.end_time.ToNanoseconds()
    finally:
        await another.close()


async def test_two_trainers_bring_a_run_to_one_outcome(trainer: Trainer, tmp_path: Path) -> None:
    another = Trainer(tmp_path, owner="there")
    another.start()
    try:
        run_ids = [await trainer.ask({**SLOW, "steps": 5}) for _ in range(4)]
        runs = [await trainer.end_of(run_id) for run_id in run_ids]
        assert [run.state for run in runs] == [TrainingRun.STATE_SUCCEEDED] * 4
        assert all(run.attempt == 1 for run in runs), "a living worker's attempt is never claimed over"
    finally:
        await another.close()
