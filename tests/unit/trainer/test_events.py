"""The trainer's events fit on the bus."""

from millstream.training.v1.attempt_pb2 import RunOutcome
from millstream.training.v1.training_run_pb2 import TrainingRun
from servicekit.blobs.memory import MemoryBlobs
from servicekit.bus.memory import MemoryBus
from servicekit.facts.events import from_message
from servicekit.facts.outbox import Outbox
from services.trainer.store import FACTS, Store


async def test_a_reason_of_any_length_is_short_in_the_event_and_whole_in_the_outcome() -> None:
    blobs, bus = MemoryBlobs(), MemoryBus()
    outbox = Outbox(blobs, bus, "trainer", FACTS)
    store, reason = Store(blobs, outbox, 10.0), "é" * 2_000_000
    await store.end(RunOutcome(run_id="run", model="words", state=TrainingRun.STATE_CANCELLED, reason=reason))
    await outbox.flush()
    (message,) = bus.log
    assert from_message(message).fact.reason == "é" * 1000  # type: ignore[attr-defined]
    kept = await store.outcome("run")
    assert kept and kept.reason == reason and not outbox.parked
