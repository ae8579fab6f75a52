"""From a file to a snapshot, as a caller sees it."""

import asyncio
import random
from itertools import pairwise

import pytest
from prometheus_client import REGISTRY

from millstream.dataset.v1.dataset_pb2 import FORMAT_CSV, FORMAT_JSON_LINES, Cleaning, DatasetSpec, SplitSpec
from millstream.dataset.v1.dataset_service_pb2 import (
    GetDatasetRequest,
    GetImportRequest,
    GetSnapshotRequest,
    ListDatasetsRequest,
    ListRowsRequest,
    ListSnapshotsRequest,
)
from millstream.dataset.v1.events_pb2 import SnapshotCreated
from millstream.dataset.v1.import_pb2 import Import
from millstream.errors import FailedPrecondition, InvalidArgument, NotFound
from servicekit.blobs.parts import read_split
from servicekit.facts.events import from_message
from services.dataprep.pipeline.ingest import ImportProgress
from services.dataprep.reconcile import ImportKey
from tests.recipes.toy_words.sample import rows as sample_rows
from tests.worlds.dataprep import PLAIN, TOY, World, lines, sample, zipped


async def test_a_file_becomes_a_snapshot() -> None:
    async with World().running() as world:
        asked = await world.ask(sample(), request_id="first")
        assert (asked.state, asked.request_id, asked.actor) == (Import.STATE_PENDING, "first", "local")
        seen = await world.watch(asked)
        ended, snapshot = seen[-1], await world.snapshot()
        assert ended.state == Import.STATE_SUCCEEDED
        assert (ended.snapshot_number, ended.snapshot_id) == (1, snapshot.snapshot_id)
        assert ended.end_time.ToNanoseconds() >= ended.create_time.ToNanoseconds() > 0
        assert all(later != earlier for earlier, later in pairwise(seen))
        assert (snapshot.dataset, snapshot.number, snapshot.request_id) == ("words", 1, "first")
        assert (snapshot.rows.read, snapshot.rows.kept) == (200, 200)
        assert sum(snapshot.splits.values()) == 200 and min(snapshot.splits.values()) > 0
        assert snapshot.source.format == FORMAT_JSON_LINES and snapshot.source.size_bytes == len(sample())
        assert snapshot.spec.split.validation_share == 0.1
        rows = [row for split in snapshot.splits for row in await world.rows(split)]
        assert sorted(row["text"] for row in rows) == sorted(row["text"] for row in sample_rows())


async def test_the_parts_of_a_snapshot_are_read_back_verified() -> None:
    async with World().running() as world:
        await world.do(sample())
        snapshot = await world.snapshot()
        for part in snapshot.parts:
            rows = await read_split(world.blobs, snapshot, part.split)
            assert (len(rows), part.size_bytes) == (part.rows, len(await world.blobs.get(part.key)))


async def test_the_event_names_the_snapshot() -> None:
    async with World().running() as world:
        ended = await world.do(sample())
        await world.outbox.flush()
        (message,) = world.bus.log
        fact = from_message(message).fact
        assert isinstance(fact, SnapshotCreated)
        assert (fact.dataset, fact.number, fact.snapshot_id) == ("words", 1, ended.snapshot_id)
        assert message.key == "words"


@pytest.mark.parametrize("name", ["words.jsonl.gz", "WORDS.JSONL", "words.csv", "words.csv.gz"])
async def test_every_format_of_a_file_gives_the_same_rows(name: str) -> None:
    rows = sample_rows()
    data = sample()
    if "csv" in name:
        data = b"\xef\xbb\xbftext,label\r\n" + b"".join(f'"{r["text"]}",{r["label"]}\r\n'.encode() for r in rows)
    async with World().running() as world:
        await world.do(sample(), dataset="plain")
        await world.do(zipped(data) if name.endswith("gz") else data, file_name=name)
        assert (await world.snapshot()).snapshot_id == (await world.snapshot(dataset="plain")).snapshot_id


async def test_the_format_may_be_named_without_a_file_name_ending() -> None:
    async with World().running() as world:
        ended = await world.do(sample(), file_name="export", file_format=FORMAT_JSON_LINES)
        assert ended.state == Import.STATE_SUCCEEDED


async def test_an_import_replaces_the_rows() -> None:
    async with World().running() as world:
        await world.do(sample(200))
        await world.do(sample(150), spec=None)
        assert (await world.snapshot()).number == 2
        assert len(await world.splits()) == 150
        assert len(await world.splits(number=1)) == 200
        listed = await world.service.ListSnapshots(ListSnapshotsRequest(dataset="words", page_size=1))
        assert [snapshot.number for snapshot in listed.snapshots] == [2]
        rest = await world.service.ListSnapshots(
            ListSnapshotsRequest(dataset="words", page_token=listed.next_page_token)
        )
        assert [snapshot.number for snapshot in rest.snapshots] == [1] and not rest.next_page_token


async def test_equal_rows_are_no_new_snapshot() -> None:
    async with World().running() as world:
        first = await world.do(sample())
        again = await world.do(zipped(sample()), file_name="words.jsonl.gz")
        assert again.state == Import.STATE_UNCHANGED
        assert (again.snapshot_number, again.snapshot_id) == (1, first.snapshot_id)
        assert (await world.snapshot()).number == 1


async def test_a_request_id_names_one_import() -> None:
    async with World().running() as world:
        first = await world.do(sample(), request_id="one")
        assert await world.ask(sample(), request_id="one") == first
        assert await world.ask(sample(), request_id="one", spec=None) == first
        with pytest.raises(InvalidArgument, match="send a new one") as caught:
            await world.ask(sample(150), request_id="one")
        assert caught.value.field == "request_id"
        with pytest.raises(InvalidArgument, match="send a new one"):
            await world.ask(sample(), request_id="one", spec=PLAIN)
        assert await world.get(first) == first
        assert (await world.snapshot()).number == 1


async def test_two_requests_at_once_with_one_request_id_are_one_import() -> None:
    world = World()
    first, second = await asyncio.gather(*(world.ask(sample(), request_id="one") for _ in range(2)))
    assert first == second


async def test_the_spec_is_fixed_by_the_first_import() -> None:
    other = DatasetSpec(recipe="toy_words", cleaning=Cleaning(strip_html=True))
    async with World().running() as world:
        await world.do(sample(), spec=TOY)
        for same in (
            None,
            TOY,
            PLAIN,
            DatasetSpec(recipe="toy_words", split=SplitSpec(validation_share=0.1, test_share=0.1)),
        ):
            assert (await world.do(sample(), spec=same)).state == Import.STATE_UNCHANGED
        with pytest.raises(FailedPrecondition, match="fixed by its first import") as caught:
            await world.ask(sample(), spec=other)
        assert caught.value.field == "spec"


async def test_a_refused_first_import_fixes_no_spec() -> None:
    async with World().running() as world:
        refused = await world.do(lines([{"words": "no such column"}]))
        assert refused.state == Import.STATE_REFUSED
        assert (await world.do(sample(), spec=PLAIN)).state == Import.STATE_SUCCEEDED
        dataset = (await world.service.GetDataset(GetDatasetRequest(dataset="words"))).dataset
        assert (dataset.spec.recipe, dataset.newest_number) == ("", 1)


async def test_two_first_imports_at_once_cannot_mix_specs() -> None:
    world = World()
    await asyncio.gather(
        world.ask(sample(), spec=TOY, request_id="toy"), world.ask(sample(), spec=PLAIN, request_id="plain")
    )
    async with world.running():
        ends = [(await world.watch(Import(dataset="words", request_id=name)))[-1] for name in ("toy", "plain")]
        assert sorted(end.state for end in ends) == [Import.STATE_SUCCEEDED, Import.STATE_REFUSED]
        assert "another spec" in next(end.refusal for end in ends if end.refusal)


async def test_the_same_row_has_the_same_split_in_every_import() -> None:
    shuffled = sample_rows(300)
    random.Random(1).shuffle(shuffled)
    async with World().running() as world:
        await world.do(sample())
        before = await world.splits()
        await world.do(lines(shuffled))
        after = await world.splits()
        assert all(after[text] == split for text, split in before.items() if text in after)


async def test_datasets_are_listed() -> None:
    async with World().running() as world:
        for name in ("c", "a", "b"):
            await world.ask(sample(), dataset=name)
        first = await world.service.ListDatasets(ListDatasetsRequest(page_size=2))
        rest = await world.service.ListDatasets(ListDatasetsRequest(page_token=first.next_page_token))
        assert [d.name for d in (*first.datasets, *rest.datasets)] == ["a", "b", "c"]
        assert first.datasets[0].create_time.ToNanoseconds() > 0


async def test_an_unknown_dataset_snapshot_import_or_split_is_refused() -> None:
    world = World()
    with pytest.raises(NotFound, match="no dataset unknown"):
        await world.service.GetDataset(GetDatasetRequest(dataset="unknown"))
    await world.ask(sample())
    with pytest.raises(NotFound, match="no snapshot yet"):
        await world.service.GetSnapshot(GetSnapshotRequest(dataset="words"))
    with pytest.raises(NotFound, match="has no import"):
        await world.service.GetImport(GetImportRequest(dataset="words", request_id="other"))
    with pytest.raises(InvalidArgument, match="request_id is missing"):
        await world.service.GetImport(GetImportRequest(dataset="words"))
    with pytest.raises(InvalidArgument, match="dataset"):
        await world.service.GetImport(GetImportRequest(dataset="../x", request_id="other"))
    async with world.running():
        await world.do(sample())
        with pytest.raises(NotFound, match="its newest is 1"):
            await world.snapshot(7)
        with pytest.raises(InvalidArgument, match="split is 'dev'"):
            await world.service.ListRows(ListRowsRequest(dataset="words", split="dev"))


async def test_the_longest_text_is_a_setting() -> None:
    rows = [{"text": f"{i:05}", "label": ("good", "bad")[i % 2]} for i in range(200)]
    async with World(longest_text=5).running() as world:
        await world.do(lines([*rows, {"text": "123456", "label": "good"}]))
        snapshot = await world.snapshot()
    assert dict(snapshot.quarantine_reasons) == {"text: more than 5 characters": 1}


async def test_a_page_of_large_rows_fits_into_a_message() -> None:
    texts = [f"{i} " + "x" * 3_000_000 for i in range(7)]
    splits = ["validation", "test", *["train"] * 5]
    data = lines({"text": text, "split": split} for text, split in zip(texts, splits, strict=True))
    async with World(longest_text=3_000_010).running() as world:
        await world.do(data, spec=DatasetSpec(split=SplitSpec(column="split")))
        response = await world.service.ListRows(ListRowsRequest(dataset="words", split="train"))
        assert 6_000_000 < response.ByteSize() < 16 << 20 and response.next_page_token
        assert [row["text"] for row in await world.rows("train")] == texts[2:]


async def test_csv_cells_are_read_by_the_schema() -> None:
    data = b'text,label,extra\n"two\nlines, one cell",good,\n'
    more = b"".join(f"{r['text']},{r['label']},1\n".encode() for r in sample_rows())
    async with World().running() as world:
        ended = await world.do(
            data + more,
            file_name="words.csv",
            spec=DatasetSpec(recipe="toy_words", cleaning=Cleaning(keep_whitespace=True)),
        )
        snapshot = await world.snapshot()
        assert ended.rows_read == 201 and snapshot.source.format == FORMAT_CSV
        assert "two\nlines, one cell" in await world.splits()
        columns = {column.name: column for column in snapshot.columns}
        assert not columns["extra"].kept and (columns["extra"].present, columns["extra"].empty) == (200, 1)
        assert dict(columns["label"].frequent) == {"good": 101, "bad": 100}
        assert columns["text"].kept and columns["text"].distinct == 201 and not columns["text"].frequent
        assert "extra" not in (await world.rows("train"))[0]


async def test_outcomes_of_imports_and_of_rows_are_counted() -> None:
    def counted(name: str, **labels: str) -> float:
        return REGISTRY.get_sample_value(f"millstream_dataprep_{name}", labels) or 0.0

    names = [("rows_total", "outcome", name) for name in ("kept", "duplicate", "quarantined")]
    names += [("imports_total", "state", name) for name in ("succeeded", "unchanged", "refused")]
    before = [counted(name, **{label: value}) for name, label, value in names]
    seconds = counted("import_seconds_count")
    async with World().running() as world:
        await world.do(sample() + sample(3) + b"no JSON\n")
        await world.do(sample() + sample(3) + b"no JSON\n")
        await world.do(b"", dataset="empty")
    after = [counted(name, **{label: value}) for name, label, value in names]
    assert [b - a for a, b in zip(before, after, strict=True)] == [400, 6, 2, 1, 1, 1]
    assert counted("import_seconds_count") == seconds + 3


async def test_a_running_import_reports_its_progress() -> None:
    world = World()
    asked = await world.ask(sample())
    assert (await world.get(asked)).state == Import.STATE_PENDING
    world.imports.running[ImportKey("words", asked.request_id)] = progress = ImportProgress()
    progress.report(42)
    seen = await world.get(asked)
    assert (seen.state, seen.rows_read, seen.create_time) == (Import.STATE_RUNNING, 42, asked.create_time)


async def test_an_import_stops_when_its_service_ends() -> None:
    rows = [{"text": f"row {i}", "label": "good"} for i in range(200_000)]
    world = World()
    asked = await world.ask(lines(rows))
    async with world.running():
        while not (await world.get(asked)).rows_read:
            await asyncio.sleep(0.01)
        (progress,) = world.imports.running.values()
    assert progress.stop and progress.rows_read < 200_000
    assert (await world.get(asked)).state == Import.STATE_PENDING


async def test_a_dataset_does_not_exist_before_its_first_import_is_recorded() -> None:
    world = World()
    world.store.specs("words")
    with pytest.raises(NotFound, match="no dataset words"):
        await world.store.dataset("words")
