"""Uploads that never end, over loopback: each is given up, their number is bounded, and none leaves a file."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from millstream.channel import open_channel
from millstream.client.aio import AsyncClient
from millstream.credentials import Credentials
from millstream.dataset.v1.dataset_service_pb2 import ImportDatasetRequest, ImportHeader
from millstream.dataset.v1.dataset_service_pb2_grpc import DatasetServiceStub
from millstream.dataset.v1.import_pb2 import Import
from millstream.errors import DeadlineExceeded, InvalidArgument, Overloaded
from tests.worlds.dataprep import TOY, World, sample
from tests.worlds.rpc import serving
from tests.worlds.waiting import HANG, until

HEADER = ImportDatasetRequest(header=ImportHeader(dataset="words", file_name="words.jsonl", spec=TOY))
SOME = ImportDatasetRequest(chunk=sample(10))


async def endless(*messages: ImportDatasetRequest) -> AsyncIterator[ImportDatasetRequest]:
    """These messages, then nothing, for ever."""
    for message in messages:
        yield message
    await asyncio.Event().wait()


@asynccontextmanager
async def dataprep(world: World) -> AsyncIterator[tuple[Any, str]]:
    """Its stub and its address."""
    async with (
        world.running(),
        serving(world.service) as address,  # type: ignore[arg-type]
        open_channel(address, Credentials()) as channel,
    ):
        yield DatasetServiceStub(channel), address


async def imported(address: str, folder: Path) -> Import:
    """A whole import through the client."""
    path = folder / "words.jsonl"
    path.write_bytes(sample())
    async with AsyncClient(dataprep=address) as client:
        asked = await client.import_dataset(path, "words", recipe="toy_words")
        return await client.wait_import("words", asked.request_id)


@pytest.mark.parametrize("messages", [(), (HEADER,), (HEADER, SOME)], ids=["nothing", "header", "chunk"])
async def test_an_upload_that_pauses_too_long_is_given_up_and_leaves_no_file(
    tmp_path: Path, messages: tuple[ImportDatasetRequest, ...]
) -> None:
    world = World(upload_pause_seconds=0.2)
    async with dataprep(world) as (stub, address):
        async with asyncio.timeout(HANG):
            with pytest.raises(DeadlineExceeded, match=r"paused for 0\.2 s.*import the file again"):
                await stub.ImportDataset(endless(*messages))
        assert list(world.uploads.folder.iterdir()) == [] and world.uploads.admitted == 0
        assert (await imported(address, tmp_path)).state == Import.STATE_SUCCEEDED


async def test_uploads_at_once_are_bounded_and_a_cancelled_one_makes_room(tmp_path: Path) -> None:
    world = World(uploads_at_once=3)
    async with dataprep(world) as (stub, address):
        calls = [stub.ImportDataset(endless(*messages)) for messages in ((), (HEADER,), (HEADER, SOME))]
        await until(lambda: world.uploads.admitted == 3)
        with pytest.raises(Overloaded, match="MILLSTREAM_UPLOADS_AT_ONCE") as refused:
            await stub.ImportDataset(endless(HEADER, SOME))
        assert refused.value.retry_after > 0
        for call in calls:
            call.cancel()
        await until(lambda: world.uploads.admitted == 0)
        assert list(world.uploads.folder.iterdir()) == []
        assert (await imported(address, tmp_path)).state == Import.STATE_SUCCEEDED


async def test_an_upload_cannot_be_kept_open_by_empty_chunks() -> None:
    world = World()

    async def empty() -> AsyncIterator[ImportDatasetRequest]:
        yield HEADER
        while True:
            await asyncio.sleep(0)
            yield ImportDatasetRequest(chunk=b"")

    async with dataprep(world) as (stub, _):
        async with asyncio.timeout(HANG):
            with pytest.raises(InvalidArgument, match="a chunk is empty"):
                await stub.ImportDataset(empty())
        assert list(world.uploads.folder.iterdir()) == []


async def test_an_upload_is_told_why_it_was_refused_however_fast_it_goes_on() -> None:
    """Of 300 such uploads about 10 saw "Internal error from Core" in place of the refusal (grpc/grpc#36066)."""

    async def refused() -> AsyncIterator[ImportDatasetRequest]:
        for _ in range(200):
            yield ImportDatasetRequest(chunk=b"x" * 65_536)

    async with dataprep(World()) as (stub, _):
        for _ in range(300):
            with pytest.raises(InvalidArgument, match="header"):
                await stub.ImportDataset(refused())
