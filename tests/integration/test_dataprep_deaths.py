"""Real processes of dataprep die while they work on an import: the third death ends it, and no scratch is left."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, Process
from contextlib import suppress
from pathlib import Path

from millstream.dataset.v1.import_pb2 import Import
from servicekit.blobs.directory import DirectoryBlobs
from services.dataprep.attempts import MOST_DEATHS
from tests.recipes.toy_words.spec import FATAL
from tests.worlds.dataprep import World, sample


async def dataprep(folder: Path) -> Process:
    """A process of dataprep on the store of `folder`."""
    own = {
        "MILLSTREAM_BLOBS": f"directory:{folder / 'blobs'}",
        "MILLSTREAM_BUS": f"sqlite:{folder / 'bus.sqlite'}",
        "MILLSTREAM_LISTEN": "127.0.0.1:0",
        "MILLSTREAM_METRICS_LISTEN": "",
        "MILLSTREAM_RECIPES": "tests.recipes",
        "MILLSTREAM_STATE": str(folder / "state"),
        "TEST_FAILPOINTS": str(folder / "failpoints"),
    }
    command = (sys.executable, "-m", "services.dataprep")
    return await asyncio.create_subprocess_exec(*command, env={**os.environ, **own}, stdout=DEVNULL, stderr=DEVNULL)


async def test_an_import_that_kills_its_processes_is_refused_and_leaves_no_scratch(tmp_path: Path) -> None:
    (tmp_path / "failpoints").mkdir()
    world = World(DirectoryBlobs(tmp_path / "blobs"))
    await world.ask(sample(), request_id="one")
    for _ in range(MOST_DEATHS):
        (tmp_path / "failpoints" / "dataprep.part-stored").touch()
        process = await dataprep(tmp_path)
        assert await asyncio.wait_for(process.wait(), 120) == -signal.SIGKILL
        assert len(list((tmp_path / "state" / "scratch").iterdir())) == 1, (
            "of the process that died, and no earlier one"
        )
    process = await dataprep(tmp_path)
    async with asyncio.timeout(120):
        while not (ended := await world.store.outcome("words", "one")):
            await asyncio.sleep(0.05)
    assert ended.state == Import.STATE_REFUSED
    assert ended.refusal.startswith("3 processes died while they worked on it: ")
    process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(process.wait(), 120) == 0
    assert list((tmp_path / "state" / "scratch").iterdir()) == []


async def test_an_import_beside_a_deadly_one_is_not_counted_out_with_it(tmp_path: Path) -> None:
    """Both are at work when the process dies; from then on each runs alone."""
    world = World(DirectoryBlobs(tmp_path / "blobs"), slots=2)
    deadly = f'{{"text": "{FATAL}", "label": "good"}}\n'.encode() + sample()
    await world.ask(deadly, dataset="deadly", request_id="one")
    names = [f"innocent-{number}" for number in range(3)]
    for name in names:
        await world.ask(sample(), dataset=name, request_id="one")
    try:
        while await world.store.outcome("deadly", "one") is None:
            process = await dataprep(tmp_path)
            ended = asyncio.create_task(process.wait())
            async with asyncio.timeout(120):
                while not ended.done() and await world.store.outcome("deadly", "one") is None:
                    await asyncio.sleep(0.05)
        async with asyncio.timeout(120):
            while None in (outcomes := [await world.store.outcome(name, "one") for name in names]):
                await asyncio.sleep(0.05)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    assert [outcome.state for outcome in outcomes if outcome] == [Import.STATE_SUCCEEDED] * 3
    assert (found := await world.store.outcome("deadly", "one")) and found.state == Import.STATE_REFUSED
