"""A worker: it claims an attempt, reports, resumes from checkpoints, and captures its output."""

import asyncio
import errno
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from millstream.errors import FailedPrecondition, InvalidArgument, Unauthenticated, Unavailable
from millstream.training.v1.attempt_pb2 import AttemptFailure, RunOutcome, RunRequest
from millstream.training.v1.training_run_pb2 import RunProgress, TrainingRun
from recipekit.run import Progress
from recipekit.spec import BadConfig, BadData
from servicekit.blobs.memory import MemoryBlobs
from services.trainer.settings import Settings
from services.trainer.store import Store
from services.trainer.trouble import is_trouble
from services.trainer.verdict import verdict
from services.trainer.worker import attempt as worker
from services.trainer.worker.output import CapturedLog
from services.trainer.worker.settings import WorkerSettings
from tests.worlds.training import RUN, claimed_run


class SilentLog:
    def __init__(self, path: Path) -> None:
        self.path = path

    def unshipped(self) -> list[tuple[int, bytes]]:
        return []

    def tail(self) -> str:
        return ""

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


class Weight(BaseModel):
    weight: int


def wrong_row() -> ValidationError:
    with pytest.raises(ValidationError) as caught:
        Weight.model_validate({"weight": "much"})
    return caught.value


@pytest.mark.parametrize(
    "error",
    [BadConfig("steps", "is 0"), BadData("no rows"), InvalidArgument("no"), FailedPrecondition("no"), wrong_row()],
    ids=lambda error: type(error).__name__,
)
async def test_what_is_wrong_with_the_request_itself_is_not_tried_again(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await claimed_run(MemoryBlobs())
    await attempt(store, tmp_path, monkeypatch)._record(error)
    reason = verdict(await store.endings(RUN, 1))
    assert type(error).__name__ in reason, f"the next attempt would fail by the same: {reason!r}"


@pytest.mark.parametrize(
    ("failures", "claimed"),
    [
        ([AttemptFailure(error_class="BadConfig", message="seed", invalid=True)], 0),
        ([AttemptFailure(error_class="E", message="a bug")], 2),
        ([AttemptFailure(error_class="E", message="a bug")] * 2, 0),
    ],
)
async def test_no_attempt_is_claimed_after_failures_that_end_the_run(
    failures: list[AttemptFailure], claimed: int
) -> None:
    store = await claimed_run(MemoryBlobs())
    for attempt, failure in enumerate(failures, 1):
        assert attempt == 1 or await store.attempts(RUN).claim(attempt)
        await store.fail(RUN, attempt, failure)
    stop = asyncio.Event()
    claiming = asyncio.create_task(worker.claim(store, RUN, stop))
    for _ in range(50):
        await asyncio.sleep(0)
    stop.set()
    assert await claiming == claimed


@pytest.mark.parametrize(
    "error",
    [
        Unavailable("away"),
        Unauthenticated("a wrong token"),
        OSError(errno.ENOSPC, "No space left on device"),
        Exception("I/O error: No space left on device (os error 28)"),  # of a library, by an error of its own
        ConnectionResetError("reset by peer"),
        RuntimeError("CUDA error: uncorrectable ECC error encountered"),
    ],
)
def test_a_trouble_outside_the_run_is_told_from_a_failure_of_it(error: Exception) -> None:
    assert is_trouble(error)
    assert not is_trouble(ValueError(str(error))), "a recipe's own error"


def test_a_worker_reads_the_settings_that_its_trainer_gives_it(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Settings(lease_seconds=3, require_exact=True, state="/state", blobs="directory:/blobs", recipes="mine")
    for name in [name for name in os.environ if name.startswith("MILLSTREAM_")]:
        monkeypatch.delenv(name)
    for name, value in trainer.worker_environment().items():
        monkeypatch.setenv(name, value)
    worker_settings = WorkerSettings.read()
    assert (worker_settings.lease_seconds, worker_settings.require_exact, worker_settings.state) == (3, True, "/state")
    assert (worker_settings.blobs, worker_settings.recipes) == ("directory:/blobs", "mine")
