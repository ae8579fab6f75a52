"""An import continues with the file that its replica received; any other replica downloads it."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from millstream.dataset.v1.dataset_service_pb2 import ImportDatasetRequest, ImportHeader
from millstream.dataset.v1.import_pb2 import Import
from millstream.errors import InvalidArgument, Unavailable
from servicekit.blobs.memory import MemoryBlobs
from services.dataprep.reconcile import ImportKey
from services.dataprep.uploads import KEPT_FILES, Uploads
from tests.worlds.dataprep import World, sample


class CountingBlobs(MemoryBlobs):
    """Counts downloads, by their key."""

    def __init__(self) -> None:
        super().__init__()
        self.downloads: list[str] = []

    async def download(self, key: str, path: Path) -> None:
        self.downloads.append(key)
        await super().download(key, path)


def files(world: World) -> list[Path]:
    return list(world.uploads.folder.iterdir())


async def test_the_replica_that_received_the_file_downloads_nothing() -> None:
    blobs = CountingBlobs()
    async with World(blobs).running() as world:
        assert (await world.do(sample(), request_id="one")).state == Import.STATE_SUCCEEDED
    assert blobs.downloads == []
    assert len(await world.splits()) == 200


async def test_another_replica_downloads_the_file_and_makes_the_same_snapshot() -> None:
    blobs = CountingBlobs()
    received = World(blobs)
    asked = await received.ask(sample())
    async with World(blobs, received.bus).running() as other:
        ended = (await other.watch(asked))[-1]
    assert blobs.downloads == [f"uploads/{asked.source.digest}"]
    async with World().running() as world:
        assert (await world.do(sample())).snapshot_id == ended.snapshot_id


async def test_a_file_waits_on_disk_until_its_import_has_ended() -> None:
    world = World()
    await world.ask(sample(), request_id="one")
    await world.ask(sample(150), request_id="two")
    assert sorted(path.stat().st_size for path in files(world)) == sorted(map(len, (sample(), sample(150))))
    await world.imports.reconcile(ImportKey("words", "one"))
    assert [path.stat().st_size for path in files(world)] == [len(sample(150))]
    await world.imports.reconcile(ImportKey("words", "two"))
    assert files(world) == []


async def test_a_file_is_removed_when_its_import_is_refused_given_up_or_ended_elsewhere() -> None:
    world = World()
    key = ImportKey("words", "one")
    await world.ask(b'{"text": "no label"}\n', request_id="one")
    await world.imports.reconcile(key)
    assert (await world.get(Import(dataset="words", request_id="one"))).state == Import.STATE_REFUSED
    assert files(world) == []
    await world.ask(sample(), request_id="two")
    await world.imports.end(ImportKey("words", "two"), Unavailable("the store does not answer"))
    assert files(world) == []
    await world.ask(sample(), request_id="three")
    assert await World(world.blobs, world.bus).imports.reconcile(ImportKey("words", "three")) is None
    assert len(files(world)) == 1
    await world.imports.reconcile(ImportKey("words", "three"))
    assert files(world) == []


async def test_a_file_is_kept_for_the_next_try_of_an_import_that_failed() -> None:
    class Full(CountingBlobs):
        async def upload(self, key: str, path: Path) -> None:
            if "/parts/" in key and self.full:
                raise Unavailable("the store is full")
            await super().upload(key, path)

        full = True

    blobs = Full()
    world = World(blobs)
    await world.ask(sample(), request_id="one")
    with pytest.raises(Unavailable):
        await world.imports.reconcile(ImportKey("words", "one"))
    blobs.full = False
    await world.imports.reconcile(ImportKey("words", "one"))
    assert (await world.get(Import(dataset="words", request_id="one"))).state == Import.STATE_SUCCEEDED
    assert blobs.downloads == []


async def test_a_file_beyond_the_bound_is_not_kept_and_is_downloaded_when_its_turn_comes() -> None:
    blobs = CountingBlobs()
    world = World(blobs, kept_bytes=len(sample()) + 1)
    for request_id in ("one", "two"):
        await world.ask(sample(), request_id=request_id)
    assert len(files(world)) == 1
    async with world.running():
        for request_id in ("one", "two"):
            await world.watch(Import(dataset="words", request_id=request_id))
    assert len([key for key in blobs.downloads if key.startswith("uploads/")]) == 1 and files(world) == []


async def test_a_kept_file_that_a_cleaner_removed_is_downloaded() -> None:
    blobs = CountingBlobs()
    world = World(blobs)
    asked = await world.ask(sample())
    for path in files(world):
        path.unlink()
    async with world.running():
        assert (await world.watch(asked))[-1].state == Import.STATE_SUCCEEDED
    assert len(blobs.downloads) == 1


async def test_a_folder_that_a_cleaner_removed_is_made_again() -> None:
    world = World()
    world.uploads.folder.rmdir()
    asked = await world.ask(sample())
    shutil.rmtree(world.uploads.folder)
    async with world.running():
        assert (await world.watch(asked))[-1].state == Import.STATE_SUCCEEDED
    assert files(world) == []


async def test_a_request_that_is_refused_or_repeated_leaves_no_second_file() -> None:
    world = World(upload_limit=10_000)
    with pytest.raises(InvalidArgument, match="larger than"):
        await world.ask(sample(2000), request_id="large")
    assert files(world) == []
    await world.ask(sample(100), request_id="one")
    await world.ask(sample(100), request_id="one")
    with pytest.raises(InvalidArgument, match="used before"):
        await world.ask(sample(101), request_id="one")
    assert len(files(world)) == 1


async def chunk(data: bytes) -> AsyncIterator[ImportDatasetRequest]:
    yield ImportDatasetRequest(chunk=data)


async def test_many_small_files_are_bounded_by_their_number(tmp_path: Path) -> None:
    uploads = Uploads(tmp_path, 10)
    keys = [ImportKey("words", f"r{number}") for number in range(KEPT_FILES + 1)]
    for key in keys:
        async with uploads.receive(chunk(b"x")) as file:
            uploads.keep(key, file)
    assert uploads.path(keys[-2]) and uploads.path(keys[-1]) is None
    assert len(list(tmp_path.iterdir())) == KEPT_FILES


async def test_a_received_file_has_its_digest_and_size(tmp_path: Path) -> None:
    async with Uploads(tmp_path, 10).receive(chunk(b"abc")) as file:
        assert file.path.read_bytes() == b"abc" and file.size_bytes == 3
        assert file.digest == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    with pytest.raises(InvalidArgument, match="only the first message is a header"):
        header = ImportDatasetRequest(header=ImportHeader(dataset="words"))

        async def two_headers() -> AsyncIterator[ImportDatasetRequest]:
            yield header

        async with Uploads(tmp_path, 10).receive(two_headers()):
            pass
    assert list(tmp_path.iterdir()) == []
