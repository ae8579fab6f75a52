"""A file that kills its dataprep is given up after three deaths in a row; nothing else counts as one."""

import asyncio

import pytest

from millstream.dataset.v1.import_pb2 import Import
from millstream.errors import Unavailable
from millstream.operations.v1.stored_pb2 import Claim, Process
from servicekit.blobs.memory import MemoryBlobs
from servicekit.processes import this_process
from services.dataprep.attempts import Attempts
from services.dataprep.reconcile import ATTEMPT_SECONDS, ImportKey
from tests.worlds.dataprep import World, lines, sample

KEY = ImportKey("words", "one")
ASKED = Import(dataset="words", request_id="one")
FOLDER = "datasets/words/attempts/one"


def dead_process() -> Process:
    """A process of this host that is gone."""
    dead = Process()
    dead.CopyFrom(this_process())
    dead.start_time -= 1
    return dead


async def claimed(world: World, number: int, process: Process, *, released: bool = False) -> None:
    claim = Claim(number=number, process=process).SerializeToString()
    assert await world.blobs.put_if_absent(f"{FOLDER}/{number:010d}/claim", claim)
    if released:
        await world.blobs.put(f"{FOLDER}/{number:010d}/released", claim)


async def claims(world: World) -> list[str]:
    return [listed.key async for listed in world.blobs.list(FOLDER) if listed.key.endswith("/claim")]


async def test_two_deaths_are_followed_by_a_third_try() -> None:
    world = World()
    await world.ask(sample(), request_id="one")
    for number in (1, 2):
        await claimed(world, number, dead_process())
    async with world.running():
        assert (await world.watch(ASKED))[-1].state == Import.STATE_SUCCEEDED
    assert len(await claims(world)) == 3


async def test_three_deaths_end_the_import_and_the_next_one_goes_on() -> None:
    world = World()
    await world.ask(sample(), request_id="one")
    await world.ask(sample(150), request_id="two")
    for number in (1, 2, 3):
        await claimed(world, number, dead_process())
    async with world.running():
        ended = (await world.watch(ASKED))[-1]
        assert ended.state == Import.STATE_REFUSED
        assert ended.refusal.startswith("3 processes died while they worked on it: ")
        assert (await world.watch(Import(dataset="words", request_id="two")))[-1].state == Import.STATE_SUCCEEDED


async def test_deaths_that_a_process_that_lived_on_came_between_are_not_in_a_row() -> None:
    world = World()
    await world.ask(sample(), request_id="one")
    for number in (1, 2, 4, 5):
        await claimed(world, number, dead_process())
    await claimed(world, 3, dead_process(), released=True)
    async with world.running():
        assert (await world.watch(ASKED))[-1].state == Import.STATE_SUCCEEDED


async def test_a_service_that_is_stopped_releases_its_attempt() -> None:
    world = World()
    await world.ask(lines({"text": f"row {i}", "label": "good"} for i in range(200_000)), request_id="one")
    async with world.running():
        while not (await world.get(ASKED)).rows_read:
            await asyncio.sleep(0.01)
    assert await world.blobs.exists(f"{FOLDER}/0000000001/released")
    status = await Attempts(world.blobs, "words", "one", 10.0).status()
    assert (status.newest, status.in_progress, status.deaths) == (1, False, 0)


class PartsAway(MemoryBlobs):
    """Stores no part while `away`."""

    away = True

    async def put(self, key: str, data: bytes) -> None:
        if self.away and "/parts/" in key:
            raise Unavailable("the store is full")
        await super().put(key, data)


async def test_an_outage_of_the_store_is_one_attempt_however_often_it_is_tried() -> None:
    blobs = PartsAway()
    world = World(blobs)
    await world.ask(sample(), request_id="one")
    for _ in range(10):
        with pytest.raises(Unavailable):
            await world.imports.reconcile(KEY)
        assert await blobs.exists(f"{FOLDER}/0000000001/released")
    assert (await world.get(ASKED)).waits_for == "the store is full"
    assert len(await claims(world)) == 1
    blobs.away = False
    assert await world.imports.reconcile(KEY) is None
    assert (await world.get(ASKED)).state == Import.STATE_SUCCEEDED
    assert not await blobs.exists(f"{FOLDER}/0000000001/released")


async def test_an_import_that_another_process_works_on_is_left_to_it() -> None:
    world = World()
    await world.ask(sample(), request_id="one")
    elsewhere = Process(host="elsewhere", boot_id="b", pid_namespace="pid:[1]", pid=1, start_time=1)
    await claimed(world, 1, elsewhere)
    assert await world.imports.reconcile(KEY) == ATTEMPT_SECONDS
    assert not world.imports.running and (await world.get(ASKED)).state == Import.STATE_PENDING
    await world.blobs.put(f"{FOLDER}/0000000001/released", b"")
    assert await world.imports.reconcile(KEY) is None
    assert (await world.get(ASKED)).state == Import.STATE_SUCCEEDED
