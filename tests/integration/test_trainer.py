"""The trainer with real workers: one trainer's parts on a directory, workers as processes of their own."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict

from millstream import errors
from millstream.dataset.v1.dataset_pb2 import Snapshot
from millstream.files import file_digest
from millstream.timestamps import now
from millstream.training.v1 import training_service_pb2 as rpc
from millstream.training.v1.attempt_pb2 import RunRequest
from millstream.training.v1.training_run_pb2 import RunProgress, TrainingRun, TrainingRunSpec
from recipekit.catalog import Catalog
from recipekit.cleaning import Cleaning
from recipekit.predictor import read_cleaning
from servicekit.blobs.artifact_cache import ArtifactCache
from servicekit.blobs.directory import DirectoryBlobs
from servicekit.bus.memory import MemoryBus
from servicekit.facts.outbox import Outbox
from servicekit.ids import new_id
from servicekit.work.queue import Work
from services.trainer.handlers import HANDLERS
from services.trainer.launchers.process import ProcessLauncher
from services.trainer.reconcile import BringToOutcome
from services.trainer.service import TrainingService
from services.trainer.settings import Settings
from services.trainer.store import FACTS, Store
from tests.worlds.parts import stored_part

SLOW = {"steps": 40, "step_seconds": 0.05, "checkpoint_every": 5, "evaluate_every": 10}
ROWS = [{"text": f"good word{i}", "label": "pos"} for i in range(20)] + [
    {"text": f"bad word{i}", "label": "neg"} for i in range(20)
]


class Trainer:
    """One replica of the trainer, without its socket."""

    def __init__(self, folder: Path, slots: int = 1, owner: str = "here") -> None:
        self.settings = Settings(
            blobs=f"directory:{folder / 'blobs'}", state=str(folder), recipes="recipes,tests.recipes", slots=slots
        )
        self.blobs = DirectoryBlobs(folder / "blobs")
        self.bus = MemoryBus()
        self.outbox = Outbox(self.blobs, self.bus, "trainer", FACTS)
        self.store = Store(self.blobs, self.outbox, self.settings.lease_seconds)
        self.launcher = ProcessLauncher(folder, owner, self.settings.worker_environment())
        self.work = Work(self.blobs, self.bus, "trainer", HANDLERS, resync_seconds=1)
        self.runs = BringToOutcome(self.store, self.launcher, self.work, slots=slots, time_limit_seconds=3600)
        self.work.register(self.runs)
        catalog = Catalog(["tests.recipes"])
        self.service = TrainingService(self.store, self.launcher, None, None, catalog)  # type: ignore[arg-type]
        self.tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self.tasks = [asyncio.create_task(self.work.run()), asyncio.create_task(self.outbox.run())]

    async def die(self) -> None:
        """As a killed trainer: its workers live on."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def close(self) -> None:
        """Leave nothing behind: no task, no worker, no open end of a process."""
        await self.die()
        for process in self.launcher.workers().values():
            os.kill(process.pid, signal.SIGKILL)
        for watcher in list(self.launcher.watchers):
            await asyncio.to_thread(watcher.join)

    async def ask(self, config: dict[str, Any] | None = None, **change: Any) -> str:
        run_id = new_id()
        snapshot = Snapshot(dataset="words", number=1, snapshot_id="s1")
        snapshot.spec.cleaning.strip_html = True
        for split, rows in (("train", ROWS), ("validation", ROWS[::4]), ("test", ROWS[1::4])):
            snapshot.parts.append(await stored_part(self.blobs, split, rows))
        spec = TrainingRunSpec(model="toy", recipe="toy_words", dataset="words", dataset_number=1, snapshot_id="s1")
        ParseDict({"config": config or {}, **change}, spec)
        await self.store.create(RunRequest(run_id=run_id, spec=spec, snapshot=snapshot, time=now()))
        return run_id

    async def watch(self, run_id: str) -> AsyncIterator[TrainingRun]:
        async for response in self.service.WatchTrainingRun(rpc.WatchTrainingRunRequest(run_id=run_id)):
            yield response.run

    async def end_of(self, run_id: str) -> TrainingRun:
        return [run async for run in self.watch(run_id)][-1]

    async def at_step(self, run_id: str, step: int, attempt: int = 1) -> None:
        """Wait until an attempt has reported the step."""
        key = f"{self.store.attempts(run_id).folder(attempt)}/progress"
        while not await self.blobs.exists(key) or RunProgress.FromString(await self.blobs.get(key)).step < step:
            assert not await self.store.outcome(run_id), f"the run ended before step {step} of attempt {attempt}"
            await asyncio.sleep(0.02)

    async def checkpoint(self, run_id: str, attempt: int = 1) -> None:
        """Wait for a checkpoint of an attempt."""
        while not [k async for k in self.blobs.list(f"checkpoints/{run_id}/{attempt:010d}/")]:
            await asyncio.sleep(0.02)

    def worker_pid(self, run_id: str) -> int:
        return self.launcher.workers()[run_id].pid

    async def weights(self, run: TrainingRun, folder: Path) -> str:
        return file_digest(await ArtifactCache(self.blobs, folder).fetch(run.artifact.digest) / "model.json")


@pytest.fixture
async def trainer(tmp_path: Path) -> AsyncIterator[Trainer]:
    made = Trainer(tmp_path)
    made.start()
    yield made
    await made.close()


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


async def test_three_failed_attempts_end_a_run_with_the_reason(trainer: Trainer) -> None:
    run = await trainer.end_of(await trainer.ask({"fail_at_step": 3}))
    assert (run.state, run.attempt) == (TrainingRun.STATE_FAILED, 3)
    assert "failed on purpose at step 3" in run.reason
    failure = await trainer.store.failure(run.run_id, 1)
    assert failure and "Traceback" in failure.traceback


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
