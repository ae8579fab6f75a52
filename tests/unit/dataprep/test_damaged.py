"""A damaged object of one dataset is named, and hurts no other dataset."""

import pytest

from millstream.dataset.v1.dataset_service_pb2 import ListDatasetsRequest, ListSnapshotsRequest
from millstream.dataset.v1.import_pb2 import Import
from millstream.errors import DataLoss
from services.dataprep.reconcile import ImportKey
from tests.worlds.damage import halved
from tests.worlds.dataprep import World, sample
from tests.worlds.waiting import until

HURT, WELL = "hurt", "well"


async def two_datasets() -> World:
    """A replica that has read nothing yet, on a store with a dataset that has two snapshots, and one with one."""
    async with World().running() as world:
        await world.do(sample(), dataset=HURT, request_id="first")
        await world.do(sample(50), dataset=HURT, request_id="second")
        await world.do(sample(), dataset=WELL, request_id="first")
    return World(world.blobs, world.bus)


async def test_a_damaged_snapshot_is_listed_by_number_and_hurts_no_other() -> None:
    world = await two_datasets()
    key = f"datasets/{HURT}/ledger/0000000001"
    async with halved(world.blobs, key):
        request = ListSnapshotsRequest(dataset=HURT)
        newest, damaged = (await world.service.ListSnapshots(request)).snapshots
        assert (damaged.number, damaged.dataset) == (1, HURT) and key in damaged.problem
        assert (newest.number, newest.problem) == (2, "")
        assert (await world.snapshot(dataset=HURT)).number == 2
        with pytest.raises(DataLoss, match=key):
            await world.snapshot(1, HURT)
    assert (await world.snapshot(1, HURT)).number == 1


async def test_a_dataset_whose_newest_snapshot_is_damaged_is_listed_with_its_key_and_its_imports_wait() -> None:
    world = await two_datasets()
    key = f"datasets/{HURT}/ledger/0000000002"
    async with world.running(), halved(world.blobs, key):
        hurt, well = (await world.service.ListDatasets(ListDatasetsRequest())).datasets
        assert hurt.name == HURT and key in hurt.problem
        assert (well.name, well.newest_number, well.problem) == (WELL, 1, "")
        with pytest.raises(DataLoss, match=key):
            await world.ask(sample(70), dataset=HURT)
        assert (await world.do(sample(70), dataset=WELL)).state == Import.STATE_SUCCEEDED
    hurt, _ = (await world.service.ListDatasets(ListDatasetsRequest())).datasets
    assert (hurt.newest_number, hurt.problem) == (2, "")


async def test_imports_behind_a_damaged_one_say_what_they_wait_for_and_end_in_order_once_it_is_restored() -> None:
    world = await two_datasets()
    first = await world.ask(sample(90), dataset=HURT, request_id="third")
    key = f"datasets/{HURT}/imports/third"
    async with World(world.blobs, world.bus).running() as other:
        async with halved(world.blobs, key, Import):
            second = await other.ask(sample(95), dataset=HURT, request_id="fourth")

            async def waits() -> bool:
                return key in (await other.get(second)).waits_for

            await until(waits)
            with pytest.raises(DataLoss, match=key):
                await other.get(first)
            assert (await other.do(sample(70), dataset=WELL)).state == Import.STATE_SUCCEEDED
            assert any(key in text for text in other.work.damage.texts())
        ended = [(await other.watch(asked))[-1].snapshot_number for asked in (first, second)]
        assert ended == [3, 4]


async def test_a_damaged_outcome_is_an_error_of_its_import_and_nothing_is_imported_again() -> None:
    world = await two_datasets()
    key = f"datasets/{HURT}/outcomes/first"
    async with halved(world.blobs, key, Import):
        with pytest.raises(DataLoss, match=key):
            await world.get(Import(dataset=HURT, request_id="first"))
        assert [found async for found in world.imports.pending()] == []
    assert (await world.get(Import(dataset=HURT, request_id="first"))).snapshot_number == 1


async def test_a_stray_object_keeps_no_other_import_from_being_found() -> None:
    world = World()
    await world.blobs.put("datasets/aaa/imports/x/y", b"a stray")
    asked = await world.ask(sample(20), dataset=WELL, request_id="first")
    async for marker in world.blobs.list("open/"):
        await world.blobs.delete(marker.key)  # as after an older version
    assert [found async for found in world.imports.pending()] == [ImportKey(WELL, asked.request_id)]
    assert [one.request_id for one in await world.store.pending(WELL)] == ["first"], "it is open from now on"
