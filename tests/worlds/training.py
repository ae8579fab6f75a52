"""Parts of a trainer: a store with one run, whose first attempt this process has claimed; a launcher without workers."""

from collections.abc import Callable

from millstream.operations.v1.stored_pb2 import Process
from millstream.training.v1.attempt_pb2 import RunRequest
from millstream.training.v1.training_run_pb2 import Resources, TrainingRunSpec
from servicekit.blobs.port import Blobs
from servicekit.bus.memory import MemoryBus
from servicekit.facts.outbox import Outbox
from services.trainer.launchers.port import EndedWorker, Launcher
from services.trainer.store import FACTS, Store

RUN = "run-1"


async def claimed_run(blobs: Blobs) -> Store:
    """A run of the model `toy` with attempt 1."""
    store = Store(blobs, Outbox(blobs, MemoryBus(), "trainer", FACTS), 10)
    await store.create(RunRequest(run_id=RUN, spec=TrainingRunSpec(model="toy")))
    assert await store.attempts(RUN).claim(1)
    return store


class NoLauncher(Launcher):
    """Notes the runs that it is asked to launch, and launches none."""

    def __init__(self) -> None:
        self.launched: list[str] = []

    async def check(self, resources: Resources) -> None:
        """Whatever a run asks for is there."""

    async def has_room(self, resources: Resources) -> bool:
        return True

    async def launch(self, run_id: str, resources: Resources) -> None:
        self.launched.append(run_id)

    def workers(self) -> dict[str, Process]:
        return {}

    def ended(self) -> dict[str, list[EndedWorker]]:
        return {}

    def forget(self, process: Process) -> None:
        """Nothing is kept."""

    def on_end(self, callback: Callable[[str], None]) -> None:
        """No worker ever ends."""

    async def stop(self, run_id: str) -> None:
        """There is none."""
