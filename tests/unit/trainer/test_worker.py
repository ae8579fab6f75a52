"""A worker: it claims an attempt, reports, resumes from checkpoints, and captures its output."""

import asyncio
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from millstream.errors import FailedPrecondition, Unavailable
from millstream.training.v1.attempt_pb2 import RunNumerics, RunOutcome, RunRequest
from millstream.training.v1.training_run_pb2 import RunProgress, TrainingRun
from recipekit.hardware import processor
from recipekit.run import Progress
from servicekit.blobs.memory import MemoryBlobs
from services.trainer.settings import Settings
from services.trainer.store import Store
from services.trainer.worker import attempt as worker
from services.trainer.worker.output import CapturedLog
from services.trainer.worker.run import StoredRun
from services.trainer.worker.settings import WorkerSettings
from tests.worlds.training import RUN, claimed_run


class SilentLog:
    def __init__(self, path: Path) -> None:
        self.path = path

    def unshipped(self) -> list[tuple[int, bytes]]:
        return []

    def close(self) -> None:
        """There is nothing to close."""


async def test_a_run_that_ends_while_a_worker_waits_for_it_gets_no_other_attempt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = await claimed_run(MemoryBlobs())

    async def succeeds_now(number: int) -> bool:
        await store.end(RunOutcome(run_id=RUN, model="toy", state=TrainingRun.STATE_SUCCEEDED))
        return False

    monkeypatch.setattr(store.attempts(RUN), "is_alive", succeeds_now)
    assert await worker.claim(store, RUN, asyncio.Event()) == 0
    assert await store.attempts(RUN).newest() == 1


def attempt(store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch) -> worker.Attempt:
    monkeypatch.setattr(worker, "CapturedLog", SilentLog)
    settings: Any = SimpleNamespace(require_exact=False, recipes="tests.recipes")
    return worker.Attempt(store, RunRequest(run_id=RUN), 1, settings, folder, asyncio.Event())


class SlowFirst(MemoryBlobs):
    """The first progress stays on its way until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go, self.on_its_way = asyncio.Event(), asyncio.Event()

    async def put(self, key: str, data: bytes) -> None:
        if key.endswith("/progress") and not self.on_its_way.is_set():
            self.on_its_way.set()
            await self.go.wait()
        await super().put(key, data)


async def test_the_latest_report_is_the_one_that_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blobs = SlowFirst()
    store = await claimed_run(blobs)
    mine = attempt(store, tmp_path, monkeypatch)
    mine.run.report(Progress(step=1, total_steps=2, epoch=0.5, loss=1.0))
    early = asyncio.create_task(mine._report())
    await blobs.on_its_way.wait()
    mine.run.report(Progress(step=2, total_steps=2, epoch=1.0, loss=0.5))
    late = asyncio.create_task(mine._report())
    for _ in range(20):
        await asyncio.sleep(0)
    blobs.go.set()
    await asyncio.gather(early, late)
    latest = await store.progress(RUN, 1)
    assert latest and latest.step == 2


async def test_a_store_that_is_away_at_the_first_report_does_not_end_the_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await claimed_run(MemoryBlobs())
    mine = attempt(store, tmp_path, monkeypatch)
    monkeypatch.setattr(worker, "REPORT_SECONDS", 0.001)
    answer, failures = store.progress, [Unavailable("away")]

    async def progress(run_id: str, newest: int) -> RunProgress | None:
        if failures:
            raise failures.pop()
        return await answer(run_id, newest)

    monkeypatch.setattr(store, "progress", progress)
    reporting = asyncio.create_task(mine._report_until_stopped())
    while not await answer(RUN, 1):
        assert not reporting.done()
        await asyncio.sleep(0.001)
    mine.stop.set()
    await reporting


def test_a_chunk_of_the_log_is_handed_out_until_it_is_stored(tmp_path: Path) -> None:
    outputs = os.dup(1), os.dup(2)
    try:
        log = CapturedLog(tmp_path / "output.log")
        os.write(1, b"one\n")
        first = log.unshipped()
        os.write(1, b"two\n")
        again = log.unshipped()
        log.shipped()
        second = log.unshipped()
        log.close()
    finally:
        for number, kept in enumerate(outputs, 1):
            os.dup2(kept, number)
            os.close(kept)
    assert (first, again, second) == ([(1, b"one\n")], [(1, b"one\n")], [(2, b"two\n")])


def stored_run(store: Store, number: int, folder: Path, *, require_exact: bool = False) -> StoredRun:
    folder.mkdir()
    return StoredRun(store, RUN, number, folder, require_exact)


async def save(run: StoredRun, *steps: int) -> None:
    """As the recipe does: from a thread."""
    for step in steps:

        def write(folder: Path, step: int = step) -> None:
            (folder / "state.txt").write_text(f"step {step} of attempt {run.attempt}")

        await asyncio.to_thread(run.save_checkpoint, step, write)


async def resumed(run: StoredRun) -> str:
    folder = await asyncio.to_thread(run.latest_checkpoint)
    return (folder / "state.txt").read_text() if folder else ""


async def test_the_next_attempt_resumes_from_the_most_steps_with_their_metrics(tmp_path: Path) -> None:
    store = await claimed_run(MemoryBlobs())
    first = stored_run(store, 1, tmp_path / "1")
    assert await resumed(first) == ""
    first.report(Progress(step=20, total_steps=50, epoch=1, loss=0.5, metrics={"accuracy": 0.75}))
    await save(first, 10, 20)
    assert await store.attempts(RUN).claim(2)
    second = stored_run(store, 2, tmp_path / "2")
    assert await resumed(second) == "step 20 of attempt 1"
    assert (second.resumed_from, second.metrics) == (20, {"accuracy": 0.75})
    await save(second, 15)
    third = stored_run(store, 3, tmp_path / "3")
    assert await resumed(third) == "step 20 of attempt 1", "the most steps, of whatever attempt"


async def test_an_attempt_keeps_its_newest_two_and_removes_nothing_beside_a_newer_one(tmp_path: Path) -> None:
    blobs = MemoryBlobs()
    store = await claimed_run(blobs)
    run = stored_run(store, 1, tmp_path / "1")
    await save(run, 10, 20, 30)
    kept = f"checkpoints/{RUN}/0000000001/"
    assert [step async for step in blobs.children(kept)] == ["0000000020", "0000000030"]
    assert await store.attempts(RUN).claim(2)
    await save(run, 40)
    assert [step async for step in blobs.children(kept)] == ["0000000020", "0000000030", "0000000040"]


async def test_a_damaged_or_half_removed_checkpoint_gives_way_to_an_older_one(tmp_path: Path) -> None:
    blobs = MemoryBlobs()
    store = await claimed_run(blobs)
    await save(stored_run(store, 1, tmp_path / "1"), 10, 20)
    prefix = f"checkpoints/{RUN}/0000000001"
    await blobs.put(f"{prefix}/0000000020/files/state.txt", b"damaged")
    second = stored_run(store, 2, tmp_path / "2")
    assert await resumed(second) == "step 10 of attempt 1" and second.resumed_from == 10
    await blobs.delete(f"{prefix}/0000000010/files/state.txt")
    third = stored_run(store, 3, tmp_path / "3")
    assert await resumed(third) == "" and third.resumed_from == 0


async def test_later_attempts_take_the_first_ones_numerics(tmp_path: Path) -> None:
    store = await claimed_run(MemoryBlobs())
    first, second = stored_run(store, 1, tmp_path / "1"), stored_run(store, 2, tmp_path / "2")
    measured = await asyncio.to_thread(first.numerics, lambda: {"dtype": "bf16", "threads": 4, "seconds": 0.5})
    assert measured == {"dtype": "bf16", "threads": 4, "seconds": 0.5}
    assert await asyncio.to_thread(second.numerics, lambda: {"dtype": "fp32", "threads": 1}) == measured
    assert first.fixed.processor == second.fixed.processor == processor(), "the name that the lineage has"
    assert not second.is_elsewhere


@pytest.mark.parametrize("require_exact", [False, True])
async def test_another_kind_of_processor_is_noticed_or_refused(tmp_path: Path, require_exact: bool) -> None:
    store = await claimed_run(MemoryBlobs())
    await store.fix_numerics(RUN, RunNumerics(processor="another kind"))
    run = stored_run(store, 2, tmp_path / "2", require_exact=require_exact)
    if require_exact:
        with pytest.raises(FailedPrecondition, match="began on another kind"):
            await asyncio.to_thread(run.numerics, dict)
    else:
        await asyncio.to_thread(run.numerics, dict)
    assert run.is_elsewhere


def test_a_worker_reads_the_settings_that_its_trainer_gives_it(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Settings(lease_seconds=3, require_exact=True, state="/state", blobs="directory:/blobs", recipes="mine")
    for name in [name for name in os.environ if name.startswith("MILLSTREAM_")]:
        monkeypatch.delenv(name)
    for name, value in trainer.worker_environment().items():
        monkeypatch.setenv(name, value)
    worker_settings = WorkerSettings.read()
    assert (worker_settings.lease_seconds, worker_settings.require_exact, worker_settings.state) == (3, True, "/state")
    assert (worker_settings.blobs, worker_settings.recipes) == ("directory:/blobs", "mine")
