"""Workers that die, hang, or cannot go on, as real processes: each run ends, and its reason says why."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from millstream.training.v1 import training_service_pb2 as rpc
from millstream.training.v1.attempt_pb2 import AttemptEnd
from millstream.training.v1.training_run_pb2 import TrainingRun
from servicekit.blobs import artifacts
from services.trainer import checkpoints, reconcile, verdict
from tests.worlds.trainer import SLOW, Trainer, trainer

__all__ = ["trainer"]

DIES = {"steps": 40, "checkpoint_every": 5, "evaluate_every": 1000}


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts follow one another at once; test_verdict.py has the pauses."""
    monkeypatch.setattr(reconcile, "pause", lambda endings: 0.0)


async def gone(pid: int, trainer: Trainer) -> None:
    """Wait until the process has ended and no slot counts it."""
    while pid in {process.pid for process in trainer.launcher.workers().values()}:
        await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("by", "text"), [("kill", "killed by SIGKILL"), ("segfault", "killed by SIGSEGV"), ("exit", "exit code 7")]
)
async def test_a_worker_that_dies_each_time_ends_its_run_with_how_it_died(trainer: Trainer, by: str, text: str) -> None:
    run = await trainer.end_of(await trainer.ask({**DIES, "breaks_after": 3, "breaks_by": by}))
    assert (run.state, run.attempt) == (TrainingRun.STATE_FAILED, verdict.MOST_DEATHS)
    assert f"its worker died {verdict.MOST_DEATHS} times without a new checkpoint" in run.reason and text in run.reason
    log = [r.chunk async for r in trainer.service.ReadTrainingLog(rpc.ReadTrainingLogRequest(run_id=run.run_id))]
    assert b"".join(log).count(b"last words") == verdict.MOST_DEATHS, "what a worker printed last is in the log, once"


async def test_deaths_after_a_newer_checkpoint_end_no_run(trainer: Trainer) -> None:
    run = await trainer.end_of(await trainer.ask({**DIES, "breaks_after": 6}))
    assert run.state == TrainingRun.STATE_SUCCEEDED, run.reason
    assert run.attempt == 8 > verdict.MOST_DEATHS, "each attempt had stored five steps more"


async def test_a_worker_that_cannot_even_start_ends_its_run_with_what_it_said(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "pydantic.py").write_text("raise ImportError('libmissing.so.1: cannot open shared object file')")
    trainer = Trainer(tmp_path)
    trainer.launcher.environment["PYTHONPATH"] = str(broken)
    trainer.start()
    try:
        run = await trainer.end_of(await trainer.ask())
        assert run.state == TrainingRun.STATE_FAILED
        assert f"died {verdict.MOST_DEATHS} times" in run.reason
        assert "exit code 1, and said: ImportError: libmissing.so.1" in run.reason
        log = [r.chunk async for r in trainer.service.ReadTrainingLog(rpc.ReadTrainingLogRequest(run_id=run.run_id))]
        assert b"Traceback" in log[0], "what it printed is in the log of the run"
    finally:
        await trainer.close()


async def test_the_deaths_before_a_restart_of_the_trainer_count(trainer: Trainer, tmp_path: Path) -> None:
    run_id = await trainer.ask({**DIES, "breaks_after": 3})
    while await trainer.store.attempts(run_id).newest() < 3:
        await asyncio.sleep(0.02)
    await trainer.die()
    another = Trainer(tmp_path)
    another.start()
    try:
        run = await another.end_of(run_id)
        assert (run.state, run.attempt) == (TrainingRun.STATE_FAILED, verdict.MOST_DEATHS)
    finally:
        await another.close()


async def test_a_worker_that_hangs_in_native_code_is_killed_and_counts_as_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds the interpreter's lock: no heartbeat, and no answer to SIGTERM."""
    monkeypatch.setattr(verdict, "MOST_DEATHS", 1)
    trainer = Trainer(tmp_path, lease_seconds=2, stop_seconds=0.2)
    trainer.start()
    try:
        run = await trainer.end_of(await trainer.ask({**DIES, "breaks_after": 3, "breaks_by": "hang"}))
        assert run.state == TrainingRun.STATE_FAILED and "it sent no heartbeat for 2 s" in run.reason
        while trainer.launcher.workers() or trainer.launcher.ended():
            await asyncio.sleep(0.05)
    finally:
        await trainer.close()


async def test_a_stopped_process_loses_its_attempt_its_slot_and_its_life(tmp_path: Path) -> None:
    trainer = Trainer(tmp_path, lease_seconds=5, stop_seconds=0.2)
    trainer.start()
    try:
        run_id = await trainer.ask({**SLOW, "steps": 20})
        await trainer.checkpoint(run_id)
        pid = trainer.worker_pid(run_id)
        os.kill(pid, signal.SIGSTOP)
        run = await trainer.end_of(run_id)
        assert run.state == TrainingRun.STATE_SUCCEEDED and run.attempt == 2, run.reason
        assert not Path(f"/proc/{pid}").exists()
    finally:
        await trainer.close()


async def test_a_restarted_trainer_kills_the_hanging_worker_of_a_cancelled_run(tmp_path: Path) -> None:
    trainer = Trainer(tmp_path, stop_seconds=0.2)
    trainer.start()
    run_id = await trainer.ask({**SLOW, "steps": 4000})
    await trainer.at_step(run_id, 1)
    pid = trainer.worker_pid(run_id)
    os.kill(pid, signal.SIGSTOP)
    await trainer.die()
    await trainer.service.CancelTrainingRun(rpc.CancelTrainingRunRequest(run_id=run_id))
    another = Trainer(tmp_path, stop_seconds=0.2)
    second = await another.ask()
    another.start()
    try:
        await gone(pid, another)
        assert await another.store.attempts(second).newest() == 0, "its slot was used until it was gone"
        assert (await another.end_of(second)).state == TrainingRun.STATE_SUCCEEDED
    finally:
        await another.close()


async def test_a_checkpoint_that_the_recipe_cannot_load_gives_way_to_the_one_before(
    trainer: Trainer, tmp_path: Path
) -> None:
    undisturbed = await trainer.end_of(await trainer.ask({**SLOW, "step_seconds": 0}))
    run_id = await trainer.ask(SLOW)
    while len(await checkpoints.stored(trainer.blobs, run_id)) < 2:
        await asyncio.sleep(0.02)
    os.kill(trainer.worker_pid(run_id), signal.SIGKILL)
    await trainer.die()
    newest, folder = max(await checkpoints.stored(trainer.blobs, run_id)), tmp_path / "newest"
    folder.mkdir()
    await artifacts.download(trainer.blobs, newest.prefix, folder)
    (folder / "model.json").write_text("{")
    await artifacts.store(trainer.blobs, folder, newest.prefix)
    another = Trainer(tmp_path)
    another.start()
    try:
        run = await another.end_of(run_id)
        assert (run.state, run.attempt) == (TrainingRun.STATE_SUCCEEDED, 3), run.reason
        assert await another.weights(run, tmp_path) == await another.weights(undisturbed, tmp_path)
        end = await trainer.store.ending(run_id, 2)
        assert isinstance(end, AttemptEnd) and end.unusable_checkpoint == newest.prefix
        assert "could not go on from its checkpoint" in end.reason
    finally:
        await another.close()


@pytest.mark.parametrize(("by", "text"), [("disk", "No space left on device"), ("device", "busy or unavailable")])
async def test_a_trouble_of_the_machine_fails_no_run_and_is_seen(trainer: Trainer, by: str, text: str) -> None:
    run_id = await trainer.ask({**DIES, "breaks_after": 0, "breaks_by": by})
    while len(await trainer.store.endings(run_id, await trainer.store.attempts(run_id).newest())) < 4:
        await asyncio.sleep(0.02)
    waiting = [run async for run in seen(trainer, run_id)]
    assert waiting[-1].state == TrainingRun.STATE_RUNNING
    assert waiting[-1].reason.startswith("waits: ") and text in waiting[-1].reason


async def seen(trainer: Trainer, run_id: str) -> AsyncIterator[TrainingRun]:
    """The run as a caller gets it, until it has a reason."""
    async for run in trainer.watch(run_id):
        yield run
        if run.reason:
            return


async def test_rows_that_teach_nothing_fail_once_in_the_recipes_words(trainer: Trainer) -> None:
    run = await trainer.end_of(await trainer.ask({**DIES, "breaks_after": 0, "breaks_by": "rows"}))
    assert (run.state, run.attempt) == (TrainingRun.STATE_FAILED, 1)
    assert "these rows teach nothing" in run.reason


@pytest.mark.parametrize("columns", [["text", "sentiment"], []])
async def test_rows_of_another_recipe_fail_once_by_the_name_of_the_column(trainer: Trainer, columns: list[str]) -> None:
    rows = [{"text": f"word{number}", "sentiment": "pos"} for number in range(20)]
    run = await trainer.end_of(await trainer.ask(rows=rows, columns=columns))
    assert (run.state, run.attempt) == (TrainingRun.STATE_FAILED, 1)
    assert "label" in run.reason and "--recipe toy_words" in run.reason and "KeyError" not in run.reason
