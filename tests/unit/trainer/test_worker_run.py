"""A run as its recipe sees it: resumed from the newest checkpoint that is of use, with the numerics of the first attempt."""

import asyncio
from pathlib import Path

import pytest

from millstream.errors import FailedPrecondition
from millstream.training.v1.attempt_pb2 import AttemptEnd, RunNumerics
from recipekit.hardware import processor
from recipekit.run import Progress
from servicekit.blobs import artifacts
from servicekit.blobs.memory import MemoryBlobs
from services.trainer.store import Store
from services.trainer.worker.run import METRICS, StoredRun
from tests.worlds.training import RUN, claimed_run


def stored_run(store: Store, number: int, folder: Path, *, require_exact: bool = False) -> StoredRun:
    folder.mkdir()
    return StoredRun(store, RUN, number, folder, require_exact)


async def save(run: StoredRun, *steps: int) -> None:
    """As the recipe does: from a thread."""
    for step in steps:

        def write(folder: Path, step: int = step) -> None:
            (folder / "state.txt").write_text(f"step {step} of attempt {run.attempt}")

        await asyncio.to_thread(run.save_checkpoint, step, write)


async def resumed(run: StoredRun) -> str:
    folder = await asyncio.to_thread(run.latest_checkpoint)
    return (folder / "state.txt").read_text() if folder else ""


async def test_the_next_attempt_resumes_from_the_most_steps_with_their_metrics(tmp_path: Path) -> None:
    store = await claimed_run(MemoryBlobs())
    first = stored_run(store, 1, tmp_path / "1")
    assert await resumed(first) == ""
    first.report(Progress(step=20, total_steps=50, epoch=1, loss=0.5, metrics={"accuracy": 0.75}))
    await save(first, 10, 20)
    assert await store.attempts(RUN).claim(2)
    second = stored_run(store, 2, tmp_path / "2")
    assert await resumed(second) == "step 20 of attempt 1"
    assert (second.resumed_from, second.metrics) == (20, {"accuracy": 0.75})
    await save(second, 15)
    third = stored_run(store, 3, tmp_path / "3")
    assert await resumed(third) == "step 20 of attempt 1", "the most steps, of whatever attempt"


async def test_an_attempt_keeps_its_newest_two_and_removes_nothing_beside_a_newer_one(tmp_path: Path) -> None:
    blobs = MemoryBlobs()
    store = await claimed_run(blobs)
    run = stored_run(store, 1, tmp_path / "1")
    await save(run, 10, 20, 30)
    kept = f"checkpoints/{RUN}/0000000001/"
    assert [step async for step in blobs.children(kept)] == ["0000000020", "0000000030"]
    assert await store.attempts(RUN).claim(2)
    await save(run, 40)
    assert [step async for step in blobs.children(kept)] == ["0000000020", "0000000030", "0000000040"]


async def test_a_damaged_or_half_removed_checkpoint_gives_way_to_an_older_one(tmp_path: Path) -> None:
    blobs = MemoryBlobs()
    store = await claimed_run(blobs)
    await save(stored_run(store, 1, tmp_path / "1"), 10, 20)
    prefix = f"checkpoints/{RUN}/0000000001"
    await blobs.put(f"{prefix}/0000000020/files/state.txt", b"damaged")
    second = stored_run(store, 2, tmp_path / "2")
    assert await resumed(second) == "step 10 of attempt 1" and second.resumed_from == 10
    await blobs.delete(f"{prefix}/0000000010/files/state.txt")
    third = stored_run(store, 3, tmp_path / "3")
    assert await resumed(third) == "" and third.resumed_from == 0


@pytest.mark.parametrize("metrics", [None, b"", b"[1]", b'{"accuracy": "high"}', b"\xff"])
async def test_a_checkpoint_without_readable_metrics_gives_way_to_an_older_one(
    tmp_path: Path, metrics: bytes | None
) -> None:
    """Its digest is right: what was stored is of no use."""
    store = await claimed_run(MemoryBlobs())
    await save(stored_run(store, 1, tmp_path / "1"), 10)
    folder = tmp_path / "stored"
    folder.mkdir()
    (folder / "state.txt").write_text("step 20 of attempt 1")
    if metrics is not None:
        (folder / METRICS).write_bytes(metrics)
    await artifacts.store(store.blobs, folder, f"checkpoints/{RUN}/0000000001/0000000020")
    assert await resumed(second := stored_run(store, 2, tmp_path / "2")) == "step 10 of attempt 1"
    assert second.resumed_from == 10 and second.metrics == {}


async def test_a_damaged_manifest_gives_way_to_an_older_checkpoint(tmp_path: Path) -> None:
    store = await claimed_run(MemoryBlobs())
    await save(stored_run(store, 1, tmp_path / "1"), 10, 20)
    await store.blobs.put(f"checkpoints/{RUN}/0000000001/0000000020/manifest", b"\xff\xff damaged")
    second = stored_run(store, 2, tmp_path / "2")
    assert await resumed(second) == "step 10 of attempt 1"
    assert len([path for path in second.folder.iterdir() if path != second.artifact]) == 1, (
        "the damaged one is not kept"
    )


async def test_a_checkpoint_that_an_attempt_could_not_load_is_passed_over(tmp_path: Path) -> None:
    store = await claimed_run(MemoryBlobs())
    await save(stored_run(store, 1, tmp_path / "1"), 10, 20)
    second = stored_run(store, 2, tmp_path / "2")
    assert await resumed(second) == "step 20 of attempt 1"
    assert await store.attempts(RUN).claim(2)
    await store.end_attempt(RUN, 2, AttemptEnd(unusable_checkpoint=second.untried))
    assert await resumed(stored_run(store, 3, tmp_path / "3")) == "step 10 of attempt 1"


async def test_a_checkpoint_is_of_use_once_the_recipe_has_trained_on_from_it(tmp_path: Path) -> None:
    store = await claimed_run(MemoryBlobs())
    await save(stored_run(store, 1, tmp_path / "1"), 10)
    for number, goes_on in enumerate((save_later, report_later), 2):
        run = stored_run(store, number, tmp_path / str(number))
        await resumed(run)
        assert run.untried == f"checkpoints/{RUN}/0000000001/0000000010"
        await goes_on(run)
        assert run.untried == ""


async def save_later(run: StoredRun) -> None:
    await save(run, 5)


async def report_later(run: StoredRun) -> None:
    run.report(Progress(step=11, total_steps=20, epoch=1, loss=0.5))
    await asyncio.sleep(0)


async def test_later_attempts_take_the_first_ones_numerics(tmp_path: Path) -> None:
    store = await claimed_run(MemoryBlobs())
    first, second = stored_run(store, 1, tmp_path / "1"), stored_run(store, 2, tmp_path / "2")
    measured = await asyncio.to_thread(first.numerics, lambda: {"dtype": "bf16", "threads": 4, "seconds": 0.5})
    assert measured == {"dtype": "bf16", "threads": 4, "seconds": 0.5}
    assert await asyncio.to_thread(second.numerics, lambda: {"dtype": "fp32", "threads": 1}) == measured
    assert first.fixed.processor == second.fixed.processor == processor(), "the name that the lineage has"
    assert not second.is_elsewhere


@pytest.mark.parametrize("require_exact", [False, True])
async def test_another_kind_of_processor_is_noticed_or_refused(tmp_path: Path, require_exact: bool) -> None:
    store = await claimed_run(MemoryBlobs())
    await store.fix_numerics(RUN, RunNumerics(processor="another kind"))
    run = stored_run(store, 2, tmp_path / "2", require_exact=require_exact)
    if require_exact:
        with pytest.raises(FailedPrecondition, match="began on another kind"):
            await asyncio.to_thread(run.numerics, dict)
    else:
        await asyncio.to_thread(run.numerics, dict)
    assert run.is_elsewhere
