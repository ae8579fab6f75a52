"""A run waits for its turn, gets a worker, and an outcome when more workers will not help."""

from typing import Any, cast

from google.protobuf.timestamp_pb2 import Timestamp

from millstream.operations.v1.stored_pb2 import Claim, Process
from millstream.training.v1.attempt_pb2 import AttemptFailure, RunRequest
from millstream.training.v1.training_run_pb2 import RunProgress, TrainingRun, TrainingRunSpec
from servicekit.blobs.memory import MemoryBlobs
from servicekit.bus.memory import MemoryBus
from servicekit.facts.outbox import Outbox
from servicekit.processes import this_process
from services.trainer import metrics
from services.trainer.reconcile import BringToOutcome, RunKey
from services.trainer.store import FACTS, Store
from tests.worlds.training import NoLauncher


class OneProcess(NoLauncher):
    """Every worker is this process, so it lives until it is taken away."""

    def __init__(self) -> None:
        super().__init__()
        self.processes: dict[str, Process] = {}

    async def launch(self, run_id: str) -> None:
        await super().launch(run_id)
        self.processes[run_id] = this_process()

    def workers(self) -> dict[str, Process]:
        return self.processes


class Trainer:
    def __init__(self, slots: int = 1, time_limit_seconds: float = 60) -> None:
        blobs = MemoryBlobs()
        self.store, self.launcher = Store(blobs, Outbox(blobs, MemoryBus(), "trainer", FACTS), 10), OneProcess()
        work = cast("Any", None)
        self.runs = BringToOutcome(self.store, self.launcher, work, slots=slots, time_limit_seconds=time_limit_seconds)

    async def request(self, run_id: str, second: int = 0) -> None:
        spec = TrainingRunSpec(model="toy")
        await self.store.create(RunRequest(run_id=run_id, spec=spec, time=Timestamp(seconds=second)))

    async def reconcile(self, *run_ids: str) -> None:
        for run_id in run_ids:
            await self.runs.reconcile(RunKey(run_id))

    async def claimed_by_the_dead(self, run_id: str, attempt: int) -> None:
        dead = Process()
        dead.CopyFrom(this_process())
        dead.start_time -= 1
        claim = Claim(number=attempt, process=dead).SerializeToString()
        assert await self.store.blobs.put_if_absent(f"runs/attempts/{run_id}/{attempt:010d}/claim", claim)


def ended(state: str) -> float:
    return float(metrics.RUNS_ENDED.labels(state)._value.get())


async def test_a_slot_that_becomes_free_goes_to_the_oldest_request() -> None:
    trainer = Trainer(slots=1)
    for second, run_id in enumerate(("first", "older", "newer")):
        await trainer.request(run_id, second)
    await trainer.reconcile("first", "newer", "older")
    assert trainer.launcher.launched == ["first"]
    assert (metrics.SLOTS._value.get(), metrics.SLOTS_USED._value.get()) == (1, 1)
    trainer.launcher.processes.clear()
    await trainer.reconcile("newer", "older", "newer")
    assert trainer.launcher.launched == ["first", "older"]


async def test_a_run_that_ends_while_it_waits_leaves_the_queue() -> None:
    trainer = Trainer(slots=1)
    for second, run_id in enumerate(("first", "cancelled", "last")):
        await trainer.request(run_id, second)
    await trainer.reconcile("first", "cancelled", "last")
    await trainer.runs._fail(await trainer.store.request("cancelled"), "not wanted")
    trainer.launcher.processes.clear()
    await trainer.reconcile("last")
    assert trainer.launcher.launched == ["first", "last"]


async def test_a_lost_worker_is_counted_once_and_followed_by_another() -> None:
    trainer = Trainer()
    await trainer.request("run")
    await trainer.claimed_by_the_dead("run", 1)
    before = metrics.WORKERS_LOST._value.get()
    await trainer.reconcile("run", "run")
    assert trainer.launcher.launched == ["run"]
    assert metrics.WORKERS_LOST._value.get() == before + 1


async def test_the_third_failure_is_the_outcome_and_the_first_of_a_wrong_config() -> None:
    trainer, before = Trainer(), ended("failed")
    for run_id, failures in (("bug", 3), ("config", 1), ("unlucky", 2)):
        await trainer.request(run_id)
        for attempt in range(1, failures + 1):
            await trainer.claimed_by_the_dead(run_id, attempt)
            failure = AttemptFailure(error_class="E", message="broken", invalid=run_id == "config")
            await trainer.store.fail(run_id, attempt, failure)
        await trainer.reconcile(run_id)
    reasons = {run_id: (await trainer.store.run(run_id)).reason for run_id in ("bug", "config", "unlucky")}
    assert reasons == {
        "bug": "E: broken (attempt 3 of 3); see `millstream runs logs`",
        "config": "E: broken; see `millstream runs logs`",
        "unlucky": "",
    }
    assert ended("failed") == before + 2 and trainer.launcher.launched == ["unlucky"]


async def test_the_time_limit_counts_over_all_attempts() -> None:
    trainer = Trainer(time_limit_seconds=60)
    await trainer.request("run")
    assert await trainer.store.attempts("run").claim(1)
    progress = RunProgress(step=3, total_steps=10)
    for seconds, state in ((59, TrainingRun.STATE_RUNNING), (61, TrainingRun.STATE_FAILED)):
        progress.elapsed.FromSeconds(seconds)
        await trainer.store.report("run", 1, progress)
        await trainer.reconcile("run")
        assert (await trainer.store.run("run")).state == state
