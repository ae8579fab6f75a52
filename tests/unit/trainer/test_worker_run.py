"""A run as its recipe sees it: resumed from the newest checkpoint that is of use, with the numerics of the first attempt."""

import asyncio
from pathlib import Path

import pytest

from millstream.errors import FailedPrecondition
from millstream.training.v1.attempt_pb2 import AttemptEnd, RunNumerics
from recipekit.catalog import Catalog
from recipekit.hardware import processor
from recipekit.run import Progress
from servicekit.blobs import artifacts
from servicekit.blobs.memory import MemoryBlobs
from services.trainer.store import Store
from services.trainer.worker.origin import differences, origin_here
from services.trainer.worker.run import METRICS, StoredRun
from tests.worlds.training import RUN, claimed_run

HERE = RunNumerics(processor="a kind", packages={"torch": "2.8.0"}, code_digest="one", code_commit="11" * 20)


def stored_run(
    store: Store, number: int, folder: Path, *, here: RunNumerics = HERE, require_exact: bool = False
) -> StoredRun:
    def origin() -> RunNumerics:
        made = RunNumerics()
        made.CopyFrom(here)
        return made

    folder.mkdir()
    return StoredRun(store, RUN, number, folder, origin, require_exact)


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
    assert first.fixed.processor == second.fixed.processor == HERE.processor
    assert not await resumed(second) and not second.departures


OTHERS = {
    "another kind, not a kind": RunNumerics(processor="another kind"),
    "torch 2.9.0, not 2.8.0": RunNumerics(packages={"torch": "2.9.0"}),
    "other code of the recipe (commit 222222222222, not 111111111111)": RunNumerics(
        code_digest="two", code_commit="22" * 20
    ),
}
"""By how it is said: what a later attempt runs with, beside what is as in the first."""


def other(change: RunNumerics) -> RunNumerics:
    made = RunNumerics()
    made.CopyFrom(HERE)
    made.MergeFrom(change)
    return made


@pytest.mark.parametrize("said", OTHERS)
async def test_a_run_that_resumes_with_something_else_says_so_for_good(
    said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = await claimed_run(MemoryBlobs())
    first = stored_run(store, 1, tmp_path / "1")
    await asyncio.to_thread(first.numerics, dict)
    await save(first, 10)
    second = stored_run(store, 2, tmp_path / "2", here=other(OTHERS[said]))
    await asyncio.to_thread(second.numerics, dict)
    assert await resumed(second) and second.departures == [(10, said)]
    assert "not bit-exact from here" in caplog.text
    await save(second, 20)
    for number, here in ((3, other(OTHERS[said])), (4, HERE)):
        later = stored_run(store, number, tmp_path / str(number), here=here)
        await asyncio.to_thread(later.numerics, dict)
        assert await resumed(later) and later.resumed_from == 20
        assert later.departures == [(10, said)], "what the weights have seen stays, whatever goes on with them"


@pytest.mark.parametrize("said", OTHERS)
async def test_a_run_that_must_be_exact_is_not_resumed_with_something_else(said: str, tmp_path: Path) -> None:
    store = await claimed_run(MemoryBlobs())
    await asyncio.to_thread(stored_run(store, 1, tmp_path / "1").numerics, dict)
    run = stored_run(store, 2, tmp_path / "2", here=other(OTHERS[said]), require_exact=True)
    with pytest.raises(FailedPrecondition) as caught:
        await asyncio.to_thread(run.numerics, dict)
    assert said in caught.value.text and "MILLSTREAM_REQUIRE_EXACT" in caught.value.text


async def test_an_attempt_that_begins_anew_says_what_is_not_as_in_the_first(tmp_path: Path) -> None:
    store = await claimed_run(MemoryBlobs())
    await asyncio.to_thread(stored_run(store, 1, tmp_path / "1").numerics, dict)
    run = stored_run(store, 2, tmp_path / "2", here=other(RunNumerics(packages={"torch": "2.9.0"})))
    await asyncio.to_thread(run.numerics, dict)
    assert not await resumed(run)
    assert [(one.step, one.difference) for one in run.departures] == [(0, "torch 2.9.0, not 2.8.0")]


def test_a_worker_knows_what_it_runs_with(tmp_path: Path) -> None:
    here = origin_here(Catalog(["tests.recipes"]), "toy_words")
    assert here.processor == processor() and here.packages["numpy"] and len(here.code_digest) == 64
    assert here.code_digest != Catalog(["recipes"]).code_digest("siamese_sentiment")
    assert not differences(here, here) and not differences(RunNumerics(), here), "an old one recorded less"
