"""ListRows: pages of a split that are as small as asked for, whatever the split holds."""

import asyncio
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from millstream.dataset.v1.dataset_service_pb2 import GetDatasetRequest, ListRowsRequest, ListRowsResponse, RowText
from millstream.errors import InvalidArgument, Unavailable
from services.dataprep import part_files, rows
from services.dataprep.rows import Place
from tests.worlds.dataprep import PLAIN, World, lines, sample

ROW = {"text": "x" * 100_000}


async def page(world: World, size: int = 5, token: str = "", split: str = "train", **more: Any) -> ListRowsResponse:
    return await world.service.ListRows(
        ListRowsRequest(dataset="words", split=split, page_size=size, page_token=token, **more)
    )


def files(world: World) -> list[Path]:
    """The parts on this replica's disk."""
    return list((world.uploads.folder / "rows").iterdir())


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The offsets at which parts were opened."""
    offsets: list[int] = []
    real = rows._open

    def opening(path: Path, offset: int) -> Any:
        offsets.append(offset)
        return real(path, offset)

    monkeypatch.setattr(rows, "_open", opening)
    return offsets


async def test_a_page_needs_the_memory_of_a_page() -> None:
    async with World().running() as world:
        await world.do(lines({**ROW, "id": number} for number in range(300)), spec=PLAIN)
        tracemalloc.start()
        first = await page(world)
        await page(world, token=first.next_page_token)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(first.texts) == 5
        # Python objects alone; those of protobuf are bounded by PAGE_BYTES.
        assert peak < 6_000_000 < 200 * len(ROW["text"])


async def test_paging_through_a_split_reads_it_once(opened: list[int]) -> None:
    async with World().running() as world:
        await world.do(sample())
        found: list[RowText] = []
        token = ""
        while len(found) < 3 or token:
            response = await page(world, 20, token)
            found, token = [*found, *response.texts], response.next_page_token
        assert len(found) == (await world.snapshot()).splits["train"] and opened == [0]


async def test_another_replica_goes_on_at_the_token(opened: list[int]) -> None:
    async with World().running() as world:
        await world.do(sample())
        first = await page(world)
        other = World(world.blobs, world.bus)
        rest = await page(other, 1000, first.next_page_token)
        whole = await page(world, 1000)
        assert [*first.texts, *rest.texts] == list(whole.texts) and not rest.next_page_token
        assert opened == [0, sum(text.size_bytes + 1 for text in first.texts), 0]


async def test_a_listing_of_the_newest_snapshot_stays_with_its_snapshot() -> None:
    async with World().running() as world:
        await world.do(sample(200))
        first, whole = await page(world), await page(world, 1000)
        await world.do(sample(100), spec=None)
        rest = await page(world, 1000, first.next_page_token)
        assert [*first.texts, *rest.texts] == list(whole.texts)


async def test_a_page_ends_early_where_rows_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "PAGE_BYTES", 500_000)
    async with World().running() as world:
        await world.do(lines({**ROW, "id": number} for number in range(60)), spec=PLAIN)
        response = await page(world, 100)
        assert 2 <= len(response.texts) <= 5 and response.next_page_token
        kept = (await world.snapshot()).splits["train"]
        assert len(await world.rows("train")) == kept


async def test_a_row_that_is_too_long_is_cut_and_does_not_block_the_listing(monkeypatch: pytest.MonkeyPatch) -> None:
    async with World(longest_text=1_000_000).running() as world:
        long = {"id": -1, "text": "చ" * 400_000}
        await world.do(lines([long, *({"id": number, "text": "short"} for number in range(200))]), spec=PLAIN)
        whole = {
            text.json: text
            for split in ("train", "validation", "test")
            for text in (await page(world, 1000, split=split)).texts
        }
        (text,) = (json for json in whole if len(json) > 100)
        monkeypatch.setattr(rows, "LONGEST_ROW", 1_000_000)
        monkeypatch.setattr(rows, "BEGINNING", 1_000)
        found = {
            row.json: row
            for split in ("train", "validation", "test")
            for row in (await page(world, 1000, split=split)).texts
        }
        (cut,) = (row for row in found.values() if row.cut)
        assert cut.size_bytes == len(text.encode()) == whole[text].size_bytes
        assert text.startswith(cut.json) and 990 < len(cut.json.encode()) <= 1000
        assert len(found) == 201


async def test_a_row_that_no_page_could_hold_is_quarantined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.dataprep.pipeline.rules.LONGEST_ROW", 50_000)
    async with World().running() as world:
        await world.do(lines([*({"id": number} for number in range(200)), {"id": "x" * 50_000}]), spec=PLAIN)
        assert dict((await world.snapshot()).quarantine_reasons) == {"row too long": 1}


async def test_values_that_no_double_holds_and_large_rows_are_in_the_text_alone() -> None:
    huge, large = {"id": 10**400}, {"id": list(range(200_000))}
    async with World().running() as world:
        await world.do(lines([*({"id": number} for number in range(200)), huge, large]), spec=PLAIN)
        empty = 0
        for split in ("train", "validation", "test"):
            response = await page(world, 1000, split=split)
            empty += sum(not row.fields for row in response.rows)
            assert len(response.rows) == len(response.texts)
        assert empty == 2
        rows_of_all = [row for split in ("train", "validation", "test") for row in await world.rows(split)]
        assert huge in rows_of_all and large in rows_of_all


async def test_other_calls_are_answered_while_rows_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, go_on = threading.Event(), threading.Event()
    real: Callable[..., bool] = rows._read

    def slow(*args: Any) -> bool:
        reading.set()
        assert go_on.wait(60)
        return real(*args)

    async with World().running() as world:
        await world.do(sample())
        monkeypatch.setattr(rows, "_read", slow)
        pages = [asyncio.create_task(page(world)) for _ in range(40)]
        assert await asyncio.to_thread(reading.wait, 60)
        # The threads that read rows are few, and are no one else's.
        assert (await world.service.GetDataset(GetDatasetRequest(dataset="words"))).dataset.name == "words"
        assert await asyncio.to_thread(lambda: 1) == 1
        assert (await world.do(sample(150), dataset="other")).snapshot_number == 1
        go_on.set()
        assert all(len(response.texts) == 5 for response in await asyncio.gather(*pages))


async def test_a_token_of_another_listing_is_refused() -> None:
    async with World().running() as world:
        await world.do(sample())
        await world.do(sample(150), dataset="other")
        snapshot = await world.snapshot()
        good = Place(1, snapshot.snapshot_id, "train", 0, 0)
        wrong = [
            "nonsense",
            "AAAA",
            good._replace(split="test").token(),
            good._replace(snapshot_id=(await world.snapshot(dataset="other")).snapshot_id).token(),
            good._replace(part=7).token(),
            good._replace(part=-1).token(),
            good._replace(offset=3).token(),
            good._replace(offset=10**9).token(),
            good._replace(offset=-5).token(),
        ]
        for token in wrong:
            with pytest.raises(InvalidArgument, match="not from this listing"):
                await page(world, token=token)
        with pytest.raises(InvalidArgument, match="not from this listing"):
            await page(world, token=(await page(world)).next_page_token, number=2)


async def test_a_part_that_was_damaged_in_the_store_is_refused() -> None:
    async with World().running() as world:
        await world.do(sample())
        part = next(part for part in (await world.snapshot()).parts if part.split == "train")
        await world.blobs.put(part.key, b"something else")
        with pytest.raises(InvalidArgument, match="damaged"):
            await page(world)
        assert files(world) == []


async def test_a_copy_that_was_damaged_or_removed_is_downloaded_again() -> None:
    async with World().running() as world:
        await world.do(sample())
        expected = await page(world, 1000)
        (copy,) = files(world)
        copy.write_bytes(copy.read_bytes()[:100])
        with pytest.raises(Unavailable, match="ask again"):
            await page(world, 1000)
        assert await page(world, 1000) == expected
        copy.unlink()
        assert await page(world, 1000) == expected


async def test_copies_and_open_files_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part_files, "KEPT_PARTS", 2)
    monkeypatch.setattr(rows, "OPEN_FILES", 3)
    async with World().running() as world:
        await world.do(sample())
        for split in ("train", "validation", "test", "train"):
            assert (await page(world, 1, split=split)).texts
            assert len(files(world)) <= 2
        tokens = [(await page(world, size)).next_page_token for size in range(1, 9)]
        assert len(world.service.rows._open) == 3
        monkeypatch.setattr(part_files, "KEPT_BYTES", 1)
        assert (await page(world, 1, split="validation")).texts and len(files(world)) == 1
        assert [len((await page(world, 2, token)).texts) for token in tokens] == [2] * 8


async def test_a_download_goes_on_when_its_caller_has_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    async with World().running() as world:
        await world.do(sample())
        started, go_on, downloads = asyncio.Event(), asyncio.Event(), []
        real = world.blobs.download

        async def slow(key: str, path: Path) -> None:
            downloads.append(key)
            started.set()
            await go_on.wait()
            await real(key, path)

        monkeypatch.setattr(world.blobs, "download", slow)
        first = asyncio.create_task(page(world))
        await started.wait()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        again = asyncio.create_task(page(world))
        await asyncio.sleep(0)
        go_on.set()
        assert len((await again).texts) == 5 and len(downloads) == 1
