"""The store of a trainer with one run, whose first attempt this process has claimed."""

from millstream.training.v1.attempt_pb2 import RunRequest
from millstream.training.v1.training_run_pb2 import TrainingRunSpec
from servicekit.blobs.port import Blobs
from servicekit.bus.memory import MemoryBus
from servicekit.facts.outbox import Outbox
from services.trainer.store import FACTS, Store

RUN = "run-1"


async def claimed_run(blobs: Blobs) -> Store:
    """A run of the model `toy` with attempt 1."""
    store = Store(blobs, Outbox(blobs, MemoryBus(), "trainer", FACTS), 10)
    await store.ask(RunRequest(run_id=RUN, spec=TrainingRunSpec(model="toy")))
    assert await store.attempts(RUN).claim(1)
    return store
