"""From its second import on, a dataset grows or is replaced as the import says, never unsaid; splits stay as they are."""

import random
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from millstream.dataset.v1.dataset_pb2 import FORMAT_JSON_LINES, DatasetSpec, SplitSpec
from millstream.dataset.v1.dataset_service_pb2 import ImportDatasetRequest, ImportHeader
from millstream.dataset.v1.import_pb2 import Import, ImportChanges
from millstream.errors import FailedPrecondition, InvalidArgument
from servicekit.blobs.parts import PartWriter, encode_row
from services.dataprep.pipeline.ingest import EarlierPart, ImportProgress, Job, ingest
from services.dataprep.reconcile import ImportKey
from tests.recipes.toy_words.spec import SPEC as TOY_SPEC
from tests.worlds.dataprep import PLAIN, World, lines, sample

APPEND, REPLACE, UNSAID = Import.MODE_APPEND, Import.MODE_REPLACE, Import.MODE_UNSPECIFIED
BOTH_WAYS = r"has rows already \(snapshot 1\).*--append.*--replace"
SPLITS = ("train", "validation", "test")


def rows_of(start: int, stop: int) -> list[dict[str, Any]]:
    """Different rows, by their number."""
    return [{"text": f"row number {number}", "label": "good" if number % 2 else "bad"} for number in range(start, stop)]


def texts(rows: list[dict[str, Any]]) -> set[str]:
    return {row["text"] for row in rows}


async def test_a_second_import_that_does_not_say_what_becomes_of_the_rows_is_refused_before_its_upload() -> None:
    sent: list[str] = []

    async def requests() -> AsyncIterator[ImportDatasetRequest]:
        yield ImportDatasetRequest(header=ImportHeader(dataset="words", file_name="words.jsonl"))
        sent.append("chunk")
        yield ImportDatasetRequest(chunk=sample(100))

    async with World().running() as world:
        assert (await world.do(lines(rows_of(0, 800)), mode=UNSAID)).state == Import.STATE_SUCCEEDED
        with pytest.raises(FailedPrecondition, match=BOTH_WAYS) as refused:
            await world.service.ImportDataset(requests())
        assert (refused.value.field, sent) == ("mode", [])
        assert (await world.snapshot()).number == 1 and len(await world.splits()) == 800
        assert await world.store.pending("words") == []


async def test_a_mode_that_does_not_exist_is_refused() -> None:
    unknown: Any = 7
    with pytest.raises(InvalidArgument, match="use APPEND or REPLACE"):
        await World().ask(sample(), mode=unknown)


async def test_a_request_repeated_after_its_end_gets_its_answer_without_a_mode() -> None:
    async with World().running() as world:
        first = await world.do(sample(), request_id="one", mode=UNSAID)
        assert await world.ask(sample(), request_id="one", mode=UNSAID) == first
        with pytest.raises(InvalidArgument, match="another file, spec or mode"):
            await world.ask(sample(), request_id="one", mode=APPEND)


async def test_of_two_first_imports_at_once_the_second_is_refused_unless_its_rows_are_the_same() -> None:
    world = World()
    asked = [
        await world.ask(lines(rows_of(0, count)), request_id=name, mode=UNSAID)
        for name, count in (("one", 300), ("two", 200), ("same", 300))
    ]
    async with world.running():
        first, second, same = [(await world.watch(one))[-1] for one in asked]
        assert first.state == Import.STATE_SUCCEEDED and same.state == Import.STATE_UNCHANGED
        assert second.state == Import.STATE_REFUSED and "--append" in second.refusal and "--replace" in second.refusal
        assert (await world.snapshot()).number == 1


async def test_an_append_adds_what_is_new_and_moves_no_row() -> None:
    old, new = rows_of(0, 800), rows_of(600, 1000)
    async with World().running() as world:
        await world.do(lines(old))
        before = await world.splits()
        ended = await world.do(lines(new), mode=APPEND, spec=None)
        after, snapshot = await world.splits(), await world.snapshot()
        assert ended.state == Import.STATE_SUCCEEDED and ended.snapshot_number == 2
        assert ended.changes == ImportChanges(rows_before=800, rows_after=1000, added=200)
        assert ended.rows_read == 400
        assert after.keys() == texts(old) | texts(new)
        assert {text: after[text] for text in before} == before
        counts = snapshot.rows
        assert (counts.read, counts.kept, counts.duplicate, counts.carried) == (1200, 1000, 200, 800)
        assert sum(snapshot.splits.values()) == 1000
        columns = {column.name: column for column in snapshot.columns}
        assert columns["text"].present == 1000 and dict(columns["label"].frequent) == {"bad": 500, "good": 500}


async def test_appended_files_give_the_snapshot_of_one_file_with_all_rows() -> None:
    rows = rows_of(0, 900)
    random.Random(3).shuffle(rows)
    async with World().running() as world:
        whole = await world.do(lines(rows), dataset="whole", mode=UNSAID)
        for start in range(0, 900, 300):
            ended = await world.do(lines(rows[start : start + 300]), mode=APPEND)
        assert ended.snapshot_number == 3 and ended.snapshot_id == whole.snapshot_id


async def test_an_append_of_known_rows_changes_nothing() -> None:
    async with World().running() as world:
        first = await world.do(lines(rows_of(0, 300)), mode=APPEND)
        assert first.changes == ImportChanges(rows_after=300, added=300)
        again = await world.do(lines(rows_of(100, 200)), mode=APPEND)
        assert (again.state, again.snapshot_number) == (Import.STATE_UNCHANGED, 1)
        assert again.changes == ImportChanges(rows_before=300, rows_after=300)


@pytest.mark.parametrize("mode", [APPEND, REPLACE])
async def test_rows_for_the_quarantine_alone_make_no_new_snapshot(mode: Import.Mode.ValueType) -> None:
    """Or each such file would have models trained again on the same rows."""
    data = lines(rows_of(0, 300))
    async with World().running() as world:
        await world.do(data)
        again = await world.do(data + b'{"text": NaN}\n', mode=mode)
        assert (again.state, again.snapshot_number) == (Import.STATE_UNCHANGED, 1)
        assert (again.file.rows.quarantined, dict(again.file.quarantine_reasons)) == (
            1,
            {"NaN is no JSON: write null": 1},
        )


async def test_a_label_that_contradicts_the_rows_before_is_quarantined_as_inside_one_file() -> None:
    other = {"text": "row number 5", "label": "bad"}
    async with World().running() as world:
        await world.do(lines(rows_of(0, 300)))
        ended = await world.do(lines([other, *rows_of(300, 310)]), mode=APPEND)
        assert ended.changes == ImportChanges(rows_before=300, rows_after=310, added=10)
        assert dict((await world.snapshot()).quarantine_reasons) == {"label: conflicts with an earlier row": 1}
        assert [row["line"] for row in await world.rows("quarantine")] == [1]


async def test_an_append_of_no_usable_row_is_refused() -> None:
    async with World().running() as world:
        await world.do(lines(rows_of(0, 300)))
        for data, reason in ((b"", "has no rows"), (b"no JSON\n", "none of the 1 rows can be used")):
            refused = await world.do(data, mode=APPEND)
            assert refused.state == Import.STATE_REFUSED and reason in refused.refusal
        assert (await world.snapshot()).number == 1


async def test_a_split_that_the_file_names_is_kept_by_an_append() -> None:
    spec = DatasetSpec(split=SplitSpec(column="split"))
    named = [{"text": f"{split} {number}", "split": split} for split in SPLITS for number in range(3)]
    async with World().running() as world:
        await world.do(lines(named), spec=spec)
        before = await world.splits()
        await world.do(lines([{"text": "more", "split": "test"}]), spec=None, mode=APPEND)
        assert await world.splits() == {**before, "more": "test"}


async def test_a_replacement_says_what_came_and_what_went() -> None:
    relabelled = {"text": "row number 0", "label": "good"}
    async with World().running() as world:
        await world.do(lines(rows_of(0, 800)))
        ended = await world.do(lines([relabelled, *rows_of(1, 390), *rows_of(800, 810)]), mode=REPLACE)
        assert ended.changes == ImportChanges(rows_before=800, rows_after=400, added=11, removed=411)
        assert (await world.snapshot()).rows.carried == 0


async def test_damaged_rows_stop_an_append_and_no_replacement() -> None:
    async with World().running() as world:
        await world.do(lines(rows_of(0, 300)))
        part = next(part for part in (await world.snapshot()).parts if part.split == "train")
        await world.blobs.put(part.key, b"damaged")
    await world.ask(lines(rows_of(300, 400)), request_id="more", mode=APPEND)
    with pytest.raises(FailedPrecondition, match=r"train rows of snapshot 1 .*damaged or gone.*--replace"):
        await world.imports.reconcile(ImportKey("words", "more"))
    await world.imports.end(ImportKey("words", "more"), FailedPrecondition("damaged"))
    async with world.running():
        ended = await world.do(lines(rows_of(0, 300)), mode=REPLACE)
        assert ended.changes.rows_before == 300 and ended.changes.removed >= part.rows
        assert len(await world.splits()) == 300


async def test_rows_that_an_append_carries_are_not_counted_as_imported_again() -> None:
    def kept() -> float:
        return REGISTRY.get_sample_value("millstream_dataprep_rows_total", {"outcome": "kept"}) or 0.0

    async with World().running() as world:
        await world.do(lines(rows_of(0, 300)))
        before = kept()
        await world.do(lines(rows_of(300, 310)), mode=APPEND)
        assert kept() - before == 10


async def test_rows_without_a_recipe_are_appended_too() -> None:
    rows = [{"number": number, "deep": {"list": [number, None, 0.5]}} for number in range(300)]
    async with World().running() as world:
        await world.do(lines(rows[:200]), spec=PLAIN)
        ended = await world.do(lines(rows[100:]), spec=None, mode=APPEND)
        assert ended.changes == ImportChanges(rows_before=200, rows_after=300, added=100)


def peak_of(rows: int, folder: Path) -> int:
    """Most bytes that Python held while one row was appended to that many."""
    with ExitStack() as files:
        writers = {split: files.enter_context(PartWriter(folder, split)) for split in SPLITS}
        for split, writer in writers.items():
            writer.write(encode_row({"text": split, "label": "good"}))
        for row in rows_of(0, rows):
            writers["train"].write(encode_row(row))
    earlier = [EarlierPart(split, writer.path) for split, writer in writers.items()]
    new, made = folder / "new.jsonl", folder / "made"
    new.write_bytes(lines([{"text": "new", "label": "good"}]))
    made.mkdir(exist_ok=True)
    spec = DatasetSpec(split=SplitSpec(validation_share=0.1, test_share=0.1))
    job = Job(new, FORMAT_JSON_LINES, spec, TOY_SPEC, 1 << 30, earlier, append=True)
    tracemalloc.start()
    try:
        assert ingest(job, made, ImportProgress()).rows.carried == rows + 3
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_an_append_does_not_hold_the_rows_before_in_memory(tmp_path: Path) -> None:
    few, many = 5_000, 20_000
    assert peak_of(many, tmp_path) - peak_of(few, tmp_path) < 4 * (many - few)
