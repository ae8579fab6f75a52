"""The trainer reads a run while its worker ends."""

from typing import Any, cast

import pytest

from millstream.training.v1.attempt_pb2 import AttemptFailure
from millstream.training.v1.training_run_pb2 import TrainingRun
from servicekit.blobs.memory import MemoryBlobs
from services.trainer.reconcile import BringToOutcome, RunKey
from tests.worlds.training import RUN, NoLauncher, claimed_run


async def test_a_worker_that_fails_and_ends_between_two_reads_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    store, launcher = await claimed_run(MemoryBlobs()), NoLauncher()
    trainer = BringToOutcome(store, launcher, cast("Any", None), slots=1, time_limit_seconds=60)

    async def fails_now(number: int) -> bool:
        await store.fail(RUN, number, AttemptFailure(error_class="E", message="bad rows", invalid=True))
        return False

    monkeypatch.setattr(store.attempts(RUN), "is_alive", fails_now)
    await trainer.reconcile(RunKey(RUN))
    assert launcher.launched == []
    outcome = await store.outcome(RUN)
    assert outcome and outcome.state == TrainingRun.STATE_FAILED and "bad rows" in outcome.reason
