"""A run waits for its turn, gets a worker, and an outcome when more workers will not help."""

import pytest

from millstream.errors import InvalidArgument, Unauthenticated, Unavailable
from millstream.training.v1.attempt_pb2 import AttemptFailure, RunOutcome
from millstream.training.v1.training_run_pb2 import RunProgress, TrainingRun
from servicekit.facts import lease
from services.trainer import metrics, observed, reconcile
from services.trainer.reconcile import RunKey
from tests.worlds.clock import Clock
from tests.worlds.reconcile import LEASE, Trainer, ended


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(lease, "time", clock)
    monkeypatch.setattr(observed, "time", clock)
    return clock


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
