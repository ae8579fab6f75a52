"""The order of imports: those of one dataset end as they were asked for, because the last one is its state."""

import pytest

from millstream.dataset.v1.import_pb2 import Import
from servicekit.facts.open_work import open_work_on
from services.dataprep.reconcile import ImportKey
from tests.worlds.dataprep import World, sample
from tests.worlds.waiting import until


async def test_imports_of_a_dataset_end_in_the_order_of_their_requests() -> None:
    world = World()
    for number, count in enumerate((200, 150, 180), 1):
        await world.ask(sample(count), request_id=f"z{9 - number}")
    async with world.running():
        await world.watch(Import(dataset="words", request_id="z6"))
        assert [len(await world.splits(number=n)) for n in (1, 2, 3)] == [200, 150, 180]


@pytest.mark.parametrize("seconds", [-10, 10])
async def test_an_import_that_two_replicas_recorded_at_once_waits_for_no_marker_of_its_own(seconds: int) -> None:
    """Each has put a marker with its own clock's time, and one of them has stored the import."""
    world = World()
    await world.ask(sample(), request_id="first")
    stored = await world.store.requested("words", "first")
    stored.create_time.seconds += seconds
    await open_work_on(world.blobs, "datasets/words/imports/first", stored)
    await world.ask(sample(150), request_id="second")
    async with world.running():
        for request_id in ("first", "second"):
            ended = (await world.watch(Import(dataset="words", request_id=request_id)))[-1]
            assert ended.state == Import.STATE_SUCCEEDED
        await until(lambda: not world.work._states)
    assert [key async for key in world.blobs.list("open/dataprep/")] == []


async def test_an_import_whose_turn_it_is_not_asks_again_after_seconds_for_each_before_it() -> None:
    """Another replica may end those. Asked ten times a second, 20 imports behind 2,000 took 47 s."""
    world = World()
    for number in range(40):
        await world.ask(sample(5), request_id=f"r{number:02d}")
    waits = [await world.imports.reconcile(ImportKey("words", f"r{number:02d}")) for number in (1, 2, 39)]
    assert waits == [2.0, 4.0, 60.0]


async def test_the_end_of_an_import_wakes_the_next_one() -> None:
    world = World()
    for name in ("first", "second", "third"):
        await world.ask(sample(5), request_id=name)
    for key in list(world.work._states):
        del world.work._states[key]
    await world.imports.reconcile(ImportKey("words", "first"))
    assert list(world.work._states) == [ImportKey("words", "second")]
