"""However many imports wait or hang, dataprep answers: their threads are their own, and bounded."""

import asyncio
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from millstream.dataset.v1.dataset_service_pb2 import GetDatasetRequest, ListDatasetsRequest
from millstream.dataset.v1.import_pb2 import Import
from servicekit.blobs.directory import DirectoryBlobs
from services.dataprep.reconcile import ImportKey
from tests.worlds.dataprep import World, sample
from tests.worlds.waiting import HANG


@asynccontextmanager
async def hanging(
    world: World, names: list[str], folder: Path, patch: pytest.MonkeyPatch
) -> AsyncIterator[list[Import]]:
    """One import into each dataset, each of a file on a disk that gives no byte until the block ends."""
    asked = [await world.ask(sample(), dataset=name, request_id="one") for name in names]
    pipes = {ImportKey(name, "one"): folder / f"{name}.pipe" for name in names}
    for path in pipes.values():
        os.mkfifo(path)
    # Opened for reading too, so that neither side of the pipe waits for the other here.
    opened = [os.open(path, os.O_RDWR) for path in pipes.values()]
    patch.setattr(world.uploads, "path", pipes.get)
    try:
        yield asked
    finally:
        for pipe in opened:
            os.write(pipe, b"no JSON\n")
            os.close(pipe)


async def running(world: World, count: int) -> None:
    """Return once that many imports are being read."""
    while len(world.imports.running) < count:
        await asyncio.sleep(0.01)


async def test_dataprep_answers_while_every_import_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    world = World(DirectoryBlobs(tmp_path / "blobs"), slots=2)
    async with hanging(world, ["a", "b", "c", "d"], tmp_path, monkeypatch) as asked, world.running():
        async with asyncio.timeout(HANG):
            await running(world, 2)
            found = await world.service.GetDataset(GetDatasetRequest(dataset="c"))
            listed = await world.service.ListDatasets(ListDatasetsRequest())
            states = [(await world.get(one)).state for one in asked]
            await world.blobs.check()
    assert found.dataset.name == "c" and [one.name for one in listed.datasets] == ["a", "b", "c", "d"]
    assert sorted(states) == [Import.STATE_PENDING] * 2 + [Import.STATE_RUNNING] * 2


async def test_imports_beyond_the_slots_wait_in_order_and_all_end() -> None:
    world = World(slots=1)
    asked = [await world.ask(sample(), dataset=f"d{number}", request_id="one") for number in range(5)]
    async with world.running():
        ended = [(await world.watch(one))[-1] for one in asked]
    assert [one.state for one in ended] == [Import.STATE_SUCCEEDED] * 5
    times = [one.end_time.ToNanoseconds() for one in ended]
    assert times == sorted(times)
