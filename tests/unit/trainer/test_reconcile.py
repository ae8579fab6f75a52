"""A run waits for its turn, gets a worker, and an outcome when more workers will not help."""

from typing import Any, cast

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from millstream.errors import InvalidArgument, Unauthenticated, Unavailable
from millstream.operations.v1.stored_pb2 import Claim, Heartbeat, Process
from millstream.training.v1.attempt_pb2 import AttemptFailure, RunOutcome, RunRequest
from millstream.training.v1.training_run_pb2 import Resources, RunProgress, TrainingRun, TrainingRunSpec
from servicekit.blobs.memory import MemoryBlobs
from servicekit.bus.memory import MemoryBus
from servicekit.facts import lease
from servicekit.facts.outbox import Outbox
from servicekit.processes import this_process
from services.trainer import metrics, observed, reconcile
from services.trainer.launchers.port import EndedWorker
from services.trainer.reconcile import BringToOutcome, RunKey
from services.trainer.store import FACTS, Store
from tests.worlds.clock import Clock
from tests.worlds.training import NoLauncher

LEASE = 10.0


class OneProcess(NoLauncher):
    """Every worker is this process, so it lives until it is taken away."""

    def __init__(self) -> None:
        super().__init__()
        self.processes: dict[str, Process] = {}
        self.stopped: list[str] = []
        self.gone: list[EndedWorker] = []

    async def stop(self, run_id: str) -> None:
        self.stopped.append(run_id)

    async def launch(self, run_id: str, resources: Resources) -> None:
        await super().launch(run_id, resources)
        self.processes[run_id] = this_process()

    def workers(self) -> dict[str, Process]:
        return self.processes

    def ended(self) -> dict[str, list[EndedWorker]]:
        return {"run": list(self.gone)} if self.gone else {}

    def forget(self, process: Process) -> None:
        self.gone = [worker for worker in self.gone if worker.process != process]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(lease, "time", clock)
    monkeypatch.setattr(observed, "time", clock)
    return clock


class Trainer:
    def __init__(self, slots: int = 1, time_limit_seconds: float = 60, blobs: MemoryBlobs | None = None) -> None:
        blobs = blobs or MemoryBlobs()
        self.store = Store(blobs, Outbox(blobs, MemoryBus(), "trainer", FACTS), LEASE)
        self.launcher = OneProcess()
        work = cast("Any", None)
        self.runs = BringToOutcome(self.store, self.launcher, work, slots=slots, time_limit_seconds=time_limit_seconds)

    async def request(self, run_id: str, second: int = 0) -> None:
        spec = TrainingRunSpec(model="toy")
        await self.store.create(RunRequest(run_id=run_id, spec=spec, time=Timestamp(seconds=second)))

    async def reconcile(self, *run_ids: str) -> None:
        for run_id in run_ids:
            await self.runs.reconcile(RunKey(run_id))

    async def heartbeat(self, run_id: str, attempt: int, clock: Clock) -> None:
        count = Heartbeat(count=int(clock.now)).SerializeToString()
        await self.store.blobs.put(f"runs/attempts/{run_id}/{attempt:010d}/heartbeat", count)

    async def claimed_elsewhere(self, run_id: str, attempt: int) -> None:
        there = Process(host="elsewhere", boot_id="b", pid_namespace="pid:[1]", pid=1, start_time=1)
        assert await self.store.attempts(run_id).claim(attempt, there)

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


async def test_a_worker_that_another_trainer_lost_is_counted_once_and_followed_by_another(clock: Clock) -> None:
    trainer = Trainer()
    await trainer.request("run")
    await trainer.claimed_by_the_dead("run", 1)
    before = metrics.WORKERS_LOST._value.get()
    await trainer.reconcile("run")
    assert trainer.launcher.launched == [], "its own trainer knows how it died"
    clock.now += LEASE
    await trainer.reconcile("run", "run")
    assert trainer.launcher.launched == ["run"]
    assert metrics.WORKERS_LOST._value.get() == before + 1


async def test_the_third_failure_is_the_outcome_and_the_first_of_a_wrong_config(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reconcile, "pause", lambda endings: 0.0)
    trainer, before = Trainer(), ended("failed")
    for run_id, failures in (("bug", 3), ("config", 1), ("unlucky", 2)):
        await trainer.request(run_id)
        for attempt in range(1, failures + 1):
            await trainer.claimed_by_the_dead(run_id, attempt)
            failure = AttemptFailure(error_class="E", message="broken", invalid=run_id == "config", step=attempt)
            await trainer.store.fail(run_id, attempt, failure)
        await trainer.reconcile(run_id)
    reasons = {run_id: (await trainer.store.run(run_id)).reason for run_id in ("bug", "config", "unlucky")}
    assert reasons == {
        "bug": "E: broken (attempt 3, 3 have failed); see `millstream runs logs`",
        "config": "E: broken; see `millstream runs logs`",
        "unlucky": "waits: E: broken",
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


async def test_the_time_limit_is_also_of_this_trainers_clock(clock: Clock) -> None:
    """A worker may say nothing, or less than the truth."""
    trainer = Trainer(time_limit_seconds=60)
    await trainer.request("run")
    assert await trainer.store.attempts("run").claim(1)
    for seconds, state in (
        (0, TrainingRun.STATE_RUNNING),
        (59, TrainingRun.STATE_RUNNING),
        (2, TrainingRun.STATE_FAILED),
    ):
        clock.now += seconds
        await trainer.heartbeat("run", 1, clock)
        await trainer.reconcile("run")
        assert (await trainer.store.run("run")).state == state
    assert "time limit of 60 s" in (await trainer.store.run("run")).reason


async def test_a_worker_without_heartbeat_ends_and_keeps_its_slot_until_it_is_gone(clock: Clock) -> None:
    trainer = Trainer(slots=1)
    await trainer.request("hangs", 1)
    await trainer.reconcile("hangs")
    assert await trainer.store.attempts("hangs").claim(1), "as this process, which lives"
    await trainer.reconcile("hangs")
    assert trainer.launcher.stopped == []
    clock.now += LEASE
    await trainer.reconcile("hangs")
    assert trainer.launcher.stopped == ["hangs"]
    assert (await trainer.store.run("hangs")).reason == "waits: it sent no heartbeat for 10 s"
    await trainer.claimed_elsewhere("hangs", 2)
    await trainer.request("next", 2)
    await trainer.reconcile("hangs", "next")
    assert trainer.launcher.launched == ["hangs"], (
        "another replica's worker goes on with the run, the process is still here"
    )
    assert trainer.launcher.stopped == ["hangs", "hangs"], "asked again, until its grace is over and it is killed"
    trainer.launcher.processes.clear()
    await trainer.reconcile("next")
    assert trainer.launcher.launched == ["hangs", "next"]


async def test_a_worker_that_claims_nothing_ends_and_counts_as_dead(clock: Clock) -> None:
    trainer = Trainer()
    await trainer.request("run")
    await trainer.reconcile("run", "run")
    clock.now += observed.CLAIM_SECONDS
    await trainer.reconcile("run", "run")
    assert trainer.launcher.stopped == ["run"]
    assert "claimed no attempt" in (await trainer.store.run("run")).reason


async def test_a_worker_may_wait_long_for_the_attempt_of_another(clock: Clock) -> None:
    trainer = Trainer(time_limit_seconds=3600)
    await trainer.request("run")
    await trainer.reconcile("run", "run")
    await trainer.claimed_elsewhere("run", 1)
    for _ in range(2):
        clock.now += observed.CLAIM_SECONDS
        await trainer.heartbeat("run", 1, clock)
        await trainer.reconcile("run")
    clock.now += LEASE
    await trainer.reconcile("run", "run")
    assert trainer.launcher.stopped == [] and await trainer.store.attempts("run").newest() == 1


async def test_a_full_store_makes_no_worker_look_dead(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody can write, neither the worker its heartbeat nor the trainer that it missed it."""
    trainer = Trainer()
    await trainer.request("run")
    assert await trainer.store.attempts("run").claim(1)
    await trainer.reconcile("run")
    clock.now += LEASE
    with monkeypatch.context() as full:
        full.setattr(trainer.store.blobs, "put_if_absent", no_space)
        with pytest.raises(Unavailable):
            await trainer.reconcile("run")
    await trainer.reconcile("run")
    assert trainer.launcher.stopped == [] and not await trainer.store.ending("run", 1)


async def no_space(key: str, data: bytes) -> bool:
    raise Unavailable("no space left")


async def test_a_run_that_has_ended_is_pending_while_its_worker_lives() -> None:
    trainer = Trainer()
    await trainer.request("run")
    await trainer.reconcile("run")
    await trainer.store.end(RunOutcome(run_id="run", model="toy", state=TrainingRun.STATE_CANCELLED))
    for stopped in (["run"], ["run", "run"]):
        assert [key async for key in trainer.runs.pending()] == [RunKey("run")]
        assert await trainer.runs.reconcile(RunKey("run")) is not None
        assert trainer.launcher.stopped == stopped
    trainer.launcher.processes.clear()
    assert [key async for key in trainer.runs.pending()] == []
    assert await trainer.runs.reconcile(RunKey("run")) is None


async def test_an_event_with_a_run_id_that_no_key_can_hold_is_given_up() -> None:
    trainer = Trainer()
    with pytest.raises(InvalidArgument) as caught:
        await trainer.reconcile("a b")
    await trainer.runs.end(RunKey("a b"), caught.value)
    assert await trainer.store.index.newest_first() == []


async def test_a_trouble_of_the_trainer_itself_fails_no_run() -> None:
    trainer = Trainer()
    await trainer.request("run")
    trainer.runs.work = delayed = Delayed()  # type: ignore[assignment]
    await trainer.runs.end(RunKey("run"), Unauthenticated("the token is wrong"))
    assert not await trainer.store.outcome("run")
    assert delayed.added == [RunKey("run")]


class Delayed:
    """Work that notes the keys that come back later."""

    def __init__(self) -> None:
        self.added: list[RunKey] = []

    def add(self, key: RunKey, delay: float) -> None:
        assert delay > 0
        self.added.append(key)
