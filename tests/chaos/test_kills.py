"""kill -9 at random, seeded times. Every kind of process is killed in turn; the flow ends with the same result.

TEST_CHAOS_RUNS and TEST_CHAOS_SEED choose how many and which; a failure names the seed that repeats it.
"""

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from deploy.local.workers import running
from millstream.defaults import SERVICES
from millstream.training.v1.training_run_pb2 import TrainingRun
from tests.chaos.scenario import Flow, weights
from tests.e2e import invariants, scenario
from tests.worlds.platform import ROOT, World, wait_until, world

RUNS = int(os.environ.get("TEST_CHAOS_RUNS") or 20)
SEED = int(os.environ.get("TEST_CHAOS_SEED") or 1)
TARGETS = (*SERVICES, "worker")
CONFIG = {"steps": 60, "checkpoint_every": 10, "evaluate_every": 20}
STEP_SECONDS = {"worker": 0.02}
"""A training whose worker is killed lasts longer, so that there is time for it."""
MOMENTS = {"worker": 1.2}
SIAMESE = {"context": "lstm", "hidden_size": 64, "epochs": 20, "checkpoint_every": 20}
"""A BiLSTM, trained for long enough to be killed three times."""
FLOW_SECONDS = 1.0
"""About the duration of the undisturbed flow without a slow training; kills fall into it."""


def worker_pids(platform: World) -> list[int]:
    return running(platform.workers)


def kill(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


class Killer(threading.Thread):
    """Kills one process of the target at a seeded time; `hit` is the stage of the flow then."""

    def __init__(self, platform: World, flow: Flow, target: str, chance: random.Random) -> None:
        super().__init__()
        self.platform, self.flow, self.target, self.chance = platform, flow, target, chance
        self.moment = chance.uniform(0, MOMENTS.get(target, FLOW_SECONDS))
        self.hit = ""

    def run(self) -> None:
        end = time.monotonic() + 60
        if self.target == "worker":
            while not worker_pids(self.platform) and time.monotonic() < end:
                time.sleep(0.005)
        time.sleep(self.moment)
        while not self.hit and time.monotonic() < end:
            pids = worker_pids(self.platform) if self.target == "worker" else self.platform.pids(self.target)
            if pids and kill(self.chance.choice(sorted(pids))):
                self.hit = self.flow.stage
            elif self.target == "worker" and self.flow.stage == "served":
                return
            time.sleep(0.005)


@pytest.fixture(scope="module", params=[1, 2], ids=["one replica", "two replicas"])
def platform(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("state"), replicas=request.param, resync_seconds=2) as platform:
        yield platform


@pytest.fixture(scope="module")
def undisturbed(platform: World, tmp_path_factory: pytest.TempPathFactory) -> TrainingRun:
    """A training without kills on the same rows and config, the reference."""
    return Flow(platform, "undisturbed", config=CONFIG).run(scenario.a_file(tmp_path_factory.mktemp("rows")))


@pytest.mark.parametrize("number", range((RUNS + 1) // 2))
def test_killed_at_a_random_moment_the_flow_ends_with_one_of_each(
    platform: World, undisturbed: TrainingRun, number: int, tmp_path: Path
) -> None:
    # Half of the runs with one replica, half with two; over both, each target has its turn.
    turn = 2 * number + platform.ports.replicas - 1
    seed, target = SEED * 1000 + turn, TARGETS[turn // 2 % len(TARGETS) - 3 * (turn % 2)]
    flow = Flow(platform, f"kill-{turn}", config={**CONFIG, "step_seconds": STEP_SECONDS.get(target, 0.002)})
    killer = Killer(platform, flow, target, random.Random(seed))
    killer.start()
    try:
        run = flow.run(scenario.a_file(tmp_path))
    finally:
        killer.join(60)
    print(f"seed {seed}: {target} killed after {killer.moment:.2f} s, {killer.hit or 'never'}; {run.attempt} attempts")
    assert killer.hit, f"seed {seed}: no process was killed"
    assert weights(run, "model.json") == weights(undisturbed, "model.json"), f"seed {seed}: other weights"
    assert dict(run.metrics) == dict(undisturbed.metrics), f"seed {seed}: other metrics"


@pytest.mark.timeout(600)
def test_a_torch_training_killed_three_times_equals_an_undisturbed_one_to_the_last_bit(
    tmp_path: Path,
) -> None:
    chance = random.Random(SEED)
    rows = ROOT / "recipes/siamese_sentiment/sample.jsonl"
    with world(tmp_path / "state", resync_seconds=2) as platform:
        gate = [{"metric": "accuracy", "at_least": 0.8}]
        calm = Flow(platform, "calm", "siamese_sentiment", config=SIAMESE, gate=gate).run(rows)
        with ThreadPoolExecutor() as pool:
            killing = pool.submit(_kill_each_attempt, platform, chance)
            killed = Flow(platform, "killed", "siamese_sentiment", config=SIAMESE, gate=gate).run(rows)
            killing.result()
        assert killed.attempt == 4, "three kills, so four attempts"
        assert weights(killed, "model.safetensors") == weights(calm, "model.safetensors")
        assert dict(killed.metrics) == dict(calm.metrics)


def _kill_each_attempt(platform: World, chance: random.Random) -> None:
    """Kill each of three attempts once, a random time after its first checkpoint."""
    calm = {key.split("/")[1] for key in invariants.keys(platform.blobs(), "checkpoints/")}
    for attempt in (1, 2, 3):

        def has_checkpoint(attempt: int = attempt) -> bool:
            found = [key.split("/") for key in invariants.keys(platform.blobs(), "checkpoints/")]
            return any(k[1] not in calm and int(k[2]) == attempt and k[-1] == "manifest" for k in found)

        wait_until(has_checkpoint, f"a checkpoint of attempt {attempt}", 90)
        time.sleep(chance.uniform(0, 0.3))
        (pid,) = worker_pids(platform)
        kill(pid)
