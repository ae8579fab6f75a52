"""What a run that has ended needs no more is deleted: its checkpoints at once, its log after its time."""

from typing import Any, cast

import pytest

from millstream.training.v1.attempt_pb2 import AttemptFailure, RunOutcome
from millstream.training.v1.training_run_pb2 import RunProgress, TrainingRun
from servicekit.work.storage import Storage
from services.trainer.reconcile import BringToOutcome, RunKey
from services.trainer.storage import kinds
from services.trainer.store import Store
from tests.worlds.clock import ClockedBlobs
from tests.worlds.training import RUN, NoLauncher, claimed_run

DAY = 86_400.0
CHECKPOINT = f"checkpoints/{RUN}/0000000001/0000000005"
ATTEMPT = f"runs/attempts/{RUN}/0000000001"


@pytest.fixture
async def store() -> Store:
    """A run with a checkpoint, one that was cut off, a log and progress."""
    store = await claimed_run(ClockedBlobs())
    for key in (
        f"{CHECKPOINT}/files/model.json",
        f"{CHECKPOINT}/manifest",
        f"checkpoints/{RUN}/0000000001/0000000010/files/a",
    ):
        await store.blobs.put(key, b"weights")
    await store.add_log(RUN, 1, 1, b"epoch 1")
    await store.report(RUN, 1, RunProgress(step=5, total_steps=10))
    await store.blobs.put(f"{ATTEMPT}/heartbeat", b"1")
    await store.fail(RUN, 1, AttemptFailure(message="it failed", log_tail="epoch 1"))
    return store


async def ended(store: Store) -> None:
    assert await store.end(RunOutcome(run_id=RUN, model="toy", state=TrainingRun.STATE_SUCCEEDED))


async def keys(store: Store, prefix: str) -> list[str]:
    return [listed.key.removeprefix(prefix) async for listed in store.blobs.list(prefix)]


async def look(store: Store, days: float, keep_checkpoints_seconds: float = 0.0) -> Storage:
    cast("ClockedBlobs", store.blobs).ahead = days * DAY
    storage = Storage(store.blobs, "trainer", kinds(store, keep_checkpoints_seconds, 30 * DAY))
    await storage.look()
    return storage


def bring(store: Store, **settings: Any) -> BringToOutcome:
    return BringToOutcome(store, NoLauncher(), cast("Any", None), slots=0, time_limit_seconds=60, **settings)


async def test_the_checkpoints_go_as_soon_as_the_run_has_ended(store: Store) -> None:
    await ended(store)
    assert await bring(store).reconcile(RunKey(RUN)) is None
    assert not await keys(store, "checkpoints/")


async def test_they_stay_for_as_long_as_the_operator_says(store: Store) -> None:
    await ended(store)
    await bring(store, keep_checkpoints_seconds=DAY).reconcile(RunKey(RUN))
    await look(store, 0.5, DAY)
    assert len(await keys(store, "checkpoints/")) == 3
    await look(store, 1.5, DAY)
    assert not await keys(store, "checkpoints/")


async def test_a_run_that_goes_on_keeps_all_however_long_it_takes(store: Store) -> None:
    before = await keys(store, "checkpoints/") + await keys(store, "runs/")
    await look(store, 400)
    assert await keys(store, "checkpoints/") + await keys(store, "runs/") == before


async def test_what_a_late_worker_left_goes_with_the_next_listing(store: Store) -> None:
    await ended(store)
    await bring(store).reconcile(RunKey(RUN))
    await store.blobs.put(f"{CHECKPOINT}/files/model.json", b"weights")
    await look(store, 0)
    assert not await keys(store, "checkpoints/")


async def test_the_log_goes_after_its_time_and_the_history_stays(store: Store) -> None:
    await ended(store)
    await look(store, 0.9)
    assert {"/log/0000000001", "/progress", "/heartbeat"} <= set(await keys(store, ATTEMPT))
    await look(store, 29)
    assert await keys(store, ATTEMPT) == ["/claim", "/failure", "/log/0000000001", "/progress"]
    storage = await look(store, 31)
    assert await keys(store, ATTEMPT) == ["/claim", "/failure", "/progress"]
    assert storage.stored["logs"].deleted.size_bytes == len(b"epoch 1")
    store.forget_attempts(RUN)
    run = await Store(store.blobs, store.outbox, 10).run(RUN)
    assert (run.state, run.attempt, run.HasField("start_time")) == (TrainingRun.STATE_SUCCEEDED, 1, True)
    assert run.progress.step == 5
