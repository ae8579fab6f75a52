"""Runs take turns on a machine's GPUs, and one that asks for what the machine lacks never trains on less without a word."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from millstream.errors import FailedPrecondition
from millstream.training.v1 import training_service_pb2 as rpc
from millstream.training.v1.attempt_pb2 import RunRequest
from millstream.training.v1.training_run_pb2 import Resources, TrainingRun, TrainingRunSpec
from recipekit import hardware
from recipekit.catalog import Catalog
from servicekit.blobs.memory import MemoryBlobs
from servicekit.bus.memory import MemoryBus
from servicekit.facts.outbox import Outbox
from services.trainer.launchers import devices
from services.trainer.launchers.devices import AUTO, Devices
from services.trainer.launchers.process import ProcessLauncher
from services.trainer.reconcile import BringToOutcome, RunKey
from services.trainer.service import TrainingService
from services.trainer.store import FACTS, Store
from tests.unit.trainer.test_automatic import Dataprep, Registry
from tests.worlds.clock import Clock

H100, L4 = "NVIDIA H100 80GB HBM3", "NVIDIA L4"


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two GPUs of one product, one of another."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(hardware, "_gpu_listing", lambda: f"0, GPU-a, {H100}\n1, GPU-b, {H100}\n2, GPU-c, {L4}\n")


@pytest.mark.parametrize(
    ("setting", "asked", "text"),
    [
        ("", Resources(gpus=8), r"this machine has 0 GPUs; set training.resources.gpus: 0 or run a trainer that has 8"),
        ("GPU-a", Resources(gpus=2), r"this machine has 1 GPU; set training.resources.gpus: 1 or"),
        (AUTO, Resources(gpus=4), r"this machine has 3 GPUs; set training.resources.gpus: 3 or"),
        (AUTO, Resources(gpus=1, nodes=4), r"this machine has 1 node; set training.resources.nodes: 1 or"),
        (AUTO, Resources(gpus=2, gpu_product="NVIDIA-L4"), r"has 1 GPU of the product NVIDIA-L4; set"),
    ],
)
def test_what_the_machine_lacks_is_refused_with_what_to_do(setting: str, asked: Resources, text: str) -> None:
    with pytest.raises(FailedPrecondition, match=text):
        Devices(setting).check(asked)


@pytest.mark.parametrize(
    ("setting", "asked", "used", "chosen"),
    [
        (AUTO, Resources(), [], ["GPU-a"]),
        (AUTO, Resources(), ["GPU-a"], ["GPU-b"]),
        (AUTO, Resources(gpus=2), ["GPU-a"], ["GPU-b", "GPU-c"]),
        (AUTO, Resources(gpus=2), ["GPU-a", "GPU-c"], None),
        (AUTO, Resources(gpus=1, gpu_product="NVIDIA-L4"), [], ["GPU-c"]),
        (AUTO, Resources(gpus=1, gpu_product="NVIDIA-L4"), ["GPU-c"], None),
        ("0,1", Resources(), ["GPU-a"], ["GPU-b"]),
        ("2", Resources(gpus=1, gpu_product="NVIDIA-L4"), [], ["GPU-c"]),
        ("7", Resources(), [], []),
        ("", Resources(), [], []),
    ],
)
def test_each_worker_has_gpus_of_its_own(
    setting: str, asked: Resources, used: list[str], chosen: list[str] | None
) -> None:
    assert Devices(setting).choose(asked, used) == chosen


def test_a_driver_that_loads_late_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    listings, clock = ["", f"0, GPU-a, {H100}\n"], Clock()
    monkeypatch.setattr(hardware, "_gpu_listing", lambda: listings.pop(0))
    monkeypatch.setattr(devices, "time", clock)
    found = Devices(AUTO)
    with pytest.raises(FailedPrecondition, match="this machine has 0 GPUs"):
        found.check(Resources(gpus=1))
    with pytest.raises(FailedPrecondition):  # the driver is not asked at each call
        found.check(Resources(gpus=1))
    clock.sleep(30)
    found.check(Resources(gpus=1))
    assert found.choose(Resources(), []) == ["GPU-a"] and not listings


def test_names_without_a_listing_are_taken_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "_gpu_listing", str)
    assert Devices("0,1").choose(Resources(), ["0"]) == ["1"]


def test_a_machine_without_gpus_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "_gpu_listing", str)
    assert Devices(AUTO).choose(Resources(), []) == [] and Devices(AUTO).environment([]) == {}
    assert Devices("").environment([]) == {"CUDA_VISIBLE_DEVICES": ""}


class Trainer:
    """A trainer of eight slots, whose workers are processes that wait."""

    def __init__(self, folder: Path, gpus: str = AUTO) -> None:
        blobs = MemoryBlobs()
        self.store = Store(blobs, Outbox(blobs, MemoryBus(), "trainer", FACTS), 10)
        self.launcher = ProcessLauncher(folder, "here", {}, 1.0, gpus)
        self.runs = BringToOutcome(self.store, self.launcher, cast("Any", None), slots=8, time_limit_seconds=60)
        registry, dataprep = cast("Any", Registry()), cast("Any", Dataprep())
        self.service = TrainingService(self.store, self.launcher, registry, dataprep, Catalog(["tests.recipes"]))

    async def ask(self, run_id: str, **resources: Any) -> None:
        spec = TrainingRunSpec(model="toy", resources=Resources(**resources))
        await self.store.create(RunRequest(run_id=run_id, spec=spec))

    async def started(self, *run_ids: str) -> dict[str, str]:
        """By run that has a worker: the GPUs that the worker may see."""
        for run_id in run_ids:
            await self.runs.reconcile(RunKey(run_id))
        environments = {name: Path(f"/proc/{one.pid}/environ") for name, one in self.launcher.workers().items()}
        return {
            name: dict(line.split("=", 1) for line in path.read_text().split("\0") if line)["CUDA_VISIBLE_DEVICES"]
            for name, path in environments.items()
        }


@pytest.fixture
async def trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Trainer]:
    popen, workers = subprocess.Popen, list[subprocess.Popen[bytes]]()

    def waiting(_: Any, **more: Any) -> "subprocess.Popen[bytes]":
        workers.append(popen([sys.executable, "-c", "import signal; signal.pause()"], **more))
        return workers[-1]

    monkeypatch.setattr(subprocess, "Popen", waiting)
    made = Trainer(tmp_path)
    yield made
    for worker in workers:
        worker.kill()
    for watcher in list(made.launcher.watchers):
        watcher.join()


async def test_runs_wait_for_a_gpu_although_slots_are_free(trainer: Trainer) -> None:
    names = ["run-1", "run-2", "run-3", "run-4"]
    for name in names:
        await trainer.ask(name)
    first = await trainer.started(*names)
    assert first == {"run-1": "GPU-a", "run-2": "GPU-b", "run-3": "GPU-c"}
    restarted = ProcessLauncher(trainer.launcher.folder.path.parent, "here", {}, 1.0, AUTO)
    assert not await restarted.has_room(Resources()), "they are in use after a restart, too"
    other = ProcessLauncher(trainer.launcher.folder.path.parent, "another replica", {}, 1.0, AUTO)
    assert not await other.has_room(Resources()), "and for another replica on this machine"
    os.kill(trainer.launcher.workers()["run-2"].pid, 9)
    for watcher in list(trainer.launcher.watchers):
        watcher.join(0.5)
    trainer.launcher._watched.clear()
    assert await trainer.launcher.has_room(Resources())


async def test_a_run_that_no_machine_can_train_is_refused(tmp_path: Path) -> None:
    service = Trainer(tmp_path, gpus="").service
    spec = TrainingRunSpec(model="toy", resources=Resources(gpus=8, nodes=4))
    with pytest.raises(FailedPrecondition, match=r"this machine has 1 node; set training.resources.nodes: 1"):
        await service.CreateTrainingRun(rpc.CreateTrainingRunRequest(spec=spec))
    assert not await service.store.index.newest_first()


async def test_an_automatic_run_that_no_machine_can_train_waits_and_says_for_what(tmp_path: Path) -> None:
    trainer = Trainer(tmp_path, gpus="")
    await trainer.ask("run-1", gpus=8)
    await trainer.ask("run-2")
    await trainer.runs.reconcile(RunKey("run-1"))
    assert trainer.runs.slot_queue.requested == {}, "it keeps no other run waiting"
    run = (await trainer.service.GetTrainingRun(rpc.GetTrainingRunRequest(run_id="run-1"))).run
    listed = (await trainer.service.ListTrainingRuns(rpc.ListTrainingRunsRequest())).runs
    reason = "waits: this machine has 0 GPUs; set training.resources.gpus: 0 or run a trainer that has 8"
    assert (run.state, run.reason) == (TrainingRun.STATE_PENDING, reason)
    assert {one.run_id: one.reason for one in listed} == {"run-1": reason, "run-2": ""}
