"""One replica of the trainer's reconcile in memory; replicas with the same store are replicas of one trainer."""

from typing import Any, cast

from google.protobuf.timestamp_pb2 import Timestamp

from millstream.operations.v1.stored_pb2 import Claim, Heartbeat, Process
from millstream.training.v1.attempt_pb2 import RunRequest
from millstream.training.v1.training_run_pb2 import Resources, TrainingRunSpec
from servicekit.blobs.memory import MemoryBlobs
from servicekit.bus.memory import MemoryBus
from servicekit.facts.outbox import Outbox
from servicekit.processes import this_process
from services.trainer import metrics
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
