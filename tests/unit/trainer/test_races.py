"""The trainer reads a run at the very moment at which its worker ends."""

import pytest

from millstream.operations.v1.stored_pb2 import Process
from millstream.training.v1.attempt_pb2 import AttemptFailure
from millstream.training.v1.training_run_pb2 import TrainingRun
from servicekit.blobs.memory import MemoryBlobs
from services.trainer.reconcile import BringToOutcome
from tests.worlds.training import RUN, claimed_run


class NoLauncher:
    def __init__(self) -> None:
        self.launched: list[str] = []

    async def launch(self, run_id: str) -> None:
        self.launched.append(run_id)

    def workers(self) -> dict[str, Process]:
        return {}

    async def stop(self, run_id: str) -> None:
        """There is none."""


async def test_a_worker_that_fails_and_ends_between_two_reads_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    store, starter = await claimed_run(MemoryBlobs()), NoLauncher()
    trainer = BringToOutcome(store, starter, slots=1, time_limit_seconds=60)

    async def fails_now(number: int) -> bool:
        await store.fail(RUN, number, AttemptFailure(error_class="E", message="bad rows", invalid=True))
        return False

    monkeypatch.setattr(store.attempts(RUN), "is_alive", fails_now)
    await trainer.reconcile(RUN)
    assert starter.launched == []
    outcome = await store.outcome(RUN)
    assert outcome and outcome.state == TrainingRun.STATE_FAILED and "bad rows" in outcome.reason
