"""Each refusal, of the request or as the outcome of the import, with what to do next."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from millstream.dataset.v1.dataset_pb2 import DatasetSpec, SplitSpec
from millstream.dataset.v1.dataset_service_pb2 import ImportDatasetRequest, ImportHeader
from millstream.dataset.v1.import_pb2 import Import
from millstream.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable
from servicekit.work.finality import BUG_TRIES
from services.dataprep.reconcile import MACHINE_SECONDS, ImportKey
from tests.recipes.toy_words.sample import rows as sample_rows
from tests.worlds.dataprep import PLAIN, TOY, World, lines, sample, zipped
from tests.worlds.disk import largest_file


@pytest.mark.parametrize(
    ("more", "field", "text"),
    [
        ({"dataset": ""}, "dataset", "lower-case"),
        ({"dataset": "a/../b"}, "dataset", "lower-case"),
        ({"request_id": "../x"}, "request_id", "letters"),
        (
            {"file_name": "words.parquet"},
            "file_name",
            "no known ending: end its name in .jsonl, .jsonl.gz, .csv or .csv.gz",
        ),
        ({"file_name": ""}, "file_name", "no known ending"),
        ({"file_format": 9}, "format", "unknown"),
        ({"spec": None}, "spec", "first import of words"),
        ({"spec": DatasetSpec(recipe="nothing")}, "spec.recipe", "there are: .*toy_words"),
        ({"spec": DatasetSpec(split=SplitSpec(validation_share=0.1))}, "spec.split", "above 0"),
        ({"spec": DatasetSpec(split=SplitSpec(validation_share=0.5, test_share=0.5))}, "spec.split", "for training"),
        ({"spec": DatasetSpec(split=SplitSpec(validation_share=float("nan"), test_share=0.1))}, "spec.split", "nan"),
        ({"spec": DatasetSpec(split=SplitSpec(column="fold", test_share=0.1))}, "spec.split", "leave one"),
    ],
)
async def test_a_wrong_request_is_refused_and_leaves_nothing(more: dict, field: str, text: str) -> None:
    world = World()
    with pytest.raises(InvalidArgument, match=text) as caught:
        await world.ask(sample(), **more)
    assert caught.value.field == field
    assert [listed async for listed in world.blobs.list("")] == []


async def requests(*parts: ImportDatasetRequest) -> AsyncIterator[ImportDatasetRequest]:
    for part in parts:
        yield part


HEADER = ImportDatasetRequest(header=ImportHeader(dataset="words", file_name="a.csv", spec=PLAIN))
CHUNK = ImportDatasetRequest(chunk=b"a,b\n")


@pytest.mark.parametrize(("parts", "field"), [([], "header"), ([CHUNK], "header"), ([HEADER, CHUNK, HEADER], "header")])
async def test_a_stream_is_one_header_and_chunks(parts: list[ImportDatasetRequest], field: str) -> None:
    world = World()
    with pytest.raises(InvalidArgument) as caught:
        await world.service.ImportDataset(requests(*parts))
    assert caught.value.field == field


async def test_a_file_that_is_too_large_is_refused_on_the_way() -> None:
    world = World(upload_limit=5000)
    with pytest.raises(InvalidArgument, match="larger than 5,000 bytes"):
        await world.ask(sample())
    assert [listed async for listed in world.blobs.list("")] == []


CSV = b"text,label\n"
REFUSED = {
    "empty": ("a.jsonl", b"", "has no rows"),
    "blank lines": ("a.jsonl", b"\n \n\r\n", "has no rows"),
    "header only": ("a.csv", CSV, "has no rows"),
    "no row fits": ("a.jsonl", lines([{"text": "x"}] * 3), "none of the 3 rows can be used .3 × label: missing"),
    "not JSON": ("a.jsonl", b"text,label\nx,y\n", "2 × not JSON"),
    "JSON array": ("a.jsonl", b"[1]\n", "not a JSON object"),
    "too few rows": ("a.jsonl", sample(3), "3 of 3 rows can be used, which leaves none .* import 66 rows or more"),
    "cut gzip": ("a.jsonl.gz", zipped(sample())[:-20], "gzip cannot be read .* compress the file again"),
    "damaged gzip": ("a.jsonl.gz", zipped(sample())[:200] + b"?" * 50 + zipped(sample())[250:], "gzip cannot be read"),
    "UTF-16": ("a.csv", "text,label\nx,y\n".encode("utf-16"), "UTF-16: save it as UTF-8"),
    "Latin-1": ("a.csv", CSV + "café,good\n".encode("latin-1"), "line 2 is not UTF-8 .byte 0xe9.: save the file as UTF-8"),
    "semicolons": ("a.csv", b"text;label\nx;y\n", "separated by ';': save the file with commas"),
    "quoted semicolons": ("a.csv", b'"text";"label"\n"x";"y"\n', "separated by ';': save the file with commas"),
    "few fit": ("a.csv", CSV + b"x,good\n" + b"y,z,bad\n" * 99, "1 of 100 rows can be used .99 × too many cells"),
    "no name": ("a.csv", b",text,label\n0,x,y\n", "column 1 has no name"),
    "a name twice": ("a.csv", b"text,label,text\n0,x,y\n", "two columns are named 'text'"),
    "a long name": ("a.csv", b"text," + b"x" * 201 + b"\n0,x\n", "the name of column 2 has 201 characters, of 200 at most"),
    "quote in header": ("a.csv", b'"text"s,label\nx,y\n', "the header in line 1 is wrong or never closed"),
    "open header": ("a.csv", b'"text,label\nx,y\n', "the header in line 1 is wrong or never closed"),
}  # fmt: skip


@pytest.mark.parametrize("why", REFUSED)
async def test_a_file_without_rows_to_train_on_ends_refused(why: str) -> None:
    name, data, text = REFUSED[why]
    async with World().running() as world:
        ended = (await world.watch(await world.ask(data, file_name=name)))[-1]
        assert ended.state == Import.STATE_REFUSED
        assert re.search(text, ended.refusal), ended.refusal
        assert not ended.snapshot_id and ended.end_time.ToNanoseconds() > 0
        assert not world.bus.log and await world.store.snapshots("words").newest() is None


async def test_a_dataset_whose_imports_were_refused_says_why_it_has_no_snapshot() -> None:
    async with World().running() as world:
        await world.do(b"", file_name="empty.jsonl")
        ended = await world.do(b'{"text": "a"}\n', file_name="unlabelled.jsonl")
        assert ended.state == Import.STATE_REFUSED
        with pytest.raises(NotFound) as shown:
            await world.snapshot()
    text = str(shown.value)
    assert text.startswith("words has no snapshot yet: its newest import, of unlabelled.jsonl, was refused: ")
    assert ended.refusal in text
    assert text.endswith("`millstream datasets import FILE -d words --recipe toy_words --watch`")


async def test_a_dataset_whose_first_import_goes_on_says_so() -> None:
    world = World()
    asked = await world.ask(sample())
    with pytest.raises(NotFound, match=f"import {asked.request_id} of words.jsonl has not ended"):
        await world.snapshot()


@pytest.mark.parametrize(
    ("splits", "text"),
    [
        (["train", "dev", "test"], "line 2: fold is 'dev': use train, validation or test"),
        (["train", "test", "test"], "3 of 3 rows can be used, and none has validation in fold"),
        ([None, None, ""], "3 × fold: missing"),
    ],
)
async def test_a_split_column_must_name_the_splits(splits: list[str | None], text: str) -> None:
    rows = [{**row, "fold": fold} for row, fold in zip(sample_rows(), splits, strict=False)]
    async with World().running() as world:
        ended = await world.do(lines(rows), spec=DatasetSpec(recipe="toy_words", split=SplitSpec(column="fold")))
        assert ended.state == Import.STATE_REFUSED and text in ended.refusal


async def test_a_file_that_unpacks_to_too_much_is_refused() -> None:
    for data in (b'{"text": "x"}\n' * 100_000, b"x" * 10_000_000):
        async with World(unpacked_limit=100_000).running() as world:
            ended = await world.do(zipped(data), file_name="a.jsonl.gz")
            assert "more than 100,000 bytes" in ended.refusal


async def test_a_million_columns_are_refused() -> None:
    async with World().running() as world:
        ended = await world.do(lines({f"c{i}": 1} for i in range(1500)), spec=PLAIN)
        assert "more than 1000 different columns" in ended.refusal


async def test_an_upload_that_was_damaged_in_the_store_is_read_again_before_it_is_refused() -> None:
    received = World()
    asked = await received.ask(sample(), request_id="one")
    key, upload = ImportKey("words", "one"), f"uploads/{asked.source.digest}"
    stored = await received.blobs.get(upload)
    await received.blobs.put(upload, b"something else")
    other = World(received.blobs, received.bus)
    with pytest.raises(FailedPrecondition, match="damaged") as caught:
        await other.imports.reconcile(key)
    assert (await other.get(asked)).state == Import.STATE_PENDING
    assert "damaged" in (await other.get(asked)).waits_for
    await received.blobs.put(upload, stored)
    await other.imports.reconcile(key)
    assert (await other.get(asked)).state == Import.STATE_SUCCEEDED
    await received.ask(sample(100), request_id="two")
    await other.imports.end(ImportKey("words", "two"), caught.value)
    assert "damaged" in (await other.get(Import(dataset="words", request_id="two"))).refusal


async def test_an_import_whose_recipe_a_replica_lacks_waits_for_one_that_has_it() -> None:
    world = World()
    asked, key = await world.ask(sample(), spec=TOY, request_id="one"), ImportKey("words", "one")
    without = World(world.blobs, world.bus, recipes="recipes")
    assert await without.imports.reconcile(key) == MACHINE_SECONDS
    waits = await without.get(asked)
    assert waits.state == Import.STATE_PENDING
    assert "no recipe is named 'toy_words'" in waits.waits_for and "goes on" in waits.waits_for
    async with world.running():
        assert (await world.watch(asked))[-1].state == Import.STATE_SUCCEEDED
    assert not (await without.get(asked)).waits_for


async def test_a_full_disk_ends_no_import() -> None:
    world = World()
    asked, key = await world.ask(sample(), request_id="one"), ImportKey("words", "one")
    with largest_file(1 << 10):
        with pytest.raises(Unavailable, match=f"{world.uploads.folder}.*free space"):
            await world.ask(sample(100), request_id="two")
        for _ in range(2 * BUG_TRIES):
            assert await world.imports.reconcile(key) == MACHINE_SECONDS
        waits = await world.get(asked)
    assert waits.state == Import.STATE_PENDING
    assert "free space" in waits.waits_for and "then the import goes on" in waits.waits_for
    assert list(world.uploads.folder.iterdir()) == [world.uploads.path(key)]
    async with world.running():
        ended = (await world.watch(asked))[-1]
        assert ended.state == Import.STATE_SUCCEEDED and not ended.waits_for


async def test_a_disk_that_cannot_be_read_is_no_fault_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World()
    asked, key = await world.ask(sample(), request_id="one"), ImportKey("words", "one")
    # A folder opens and cannot be read, as a file on a failing disk.
    monkeypatch.setattr(world.uploads, "path", lambda key: tmp_path)
    assert await world.imports.reconcile(key) == MACHINE_SECONDS
    monkeypatch.undo()
    async with world.running():
        assert (await world.watch(asked))[-1].state == Import.STATE_SUCCEEDED
