"""An uploaded file is deleted once its import has ended and its time is over, and no earlier."""

import pytest

from millstream.dataset.v1.dataset_pb2 import Source
from millstream.dataset.v1.import_pb2 import Import
from millstream.timestamps import now
from servicekit.work.storage import Storage
from services.dataprep.storage import kinds
from tests.worlds.clock import ClockedBlobs
from tests.worlds.dataprep import World, sample

DAY = 86_400.0


class Dataprep:
    """A dataprep whose clock is moved by hand."""

    def __init__(self) -> None:
        self.blobs = ClockedBlobs()
        self.world = World(self.blobs)
        self.storage = Storage(self.blobs, "dataprep", kinds(self.world.store, 7 * DAY))

    async def look(self, days: float) -> None:
        self.blobs.ahead = days * DAY
        await self.storage.look()

    async def keys(self, prefix: str) -> list[str]:
        return [listed.key async for listed in self.blobs.list(prefix)]

    async def record(self, request_id: str, digest: str) -> None:
        """An import that waits, because no dataprep runs."""
        await self.world.store.record(
            Import(dataset="words", request_id=request_id, source=Source(digest=digest), create_time=now())
        )


@pytest.fixture
def dataprep() -> Dataprep:
    return Dataprep()


async def test_it_goes_a_week_after_its_import_and_the_snapshot_stays(dataprep: Dataprep) -> None:
    async with dataprep.world.running():
        ended = await dataprep.world.do(sample())
    assert ended.state == Import.STATE_SUCCEEDED
    facts = [key for key in await dataprep.keys("datasets/") if "/attempts/" not in key]
    await dataprep.look(6)
    assert await dataprep.keys("uploads/")
    assert not [key for key in await dataprep.keys("datasets/") if "/attempts/" in key], "they go after a day"
    await dataprep.look(8)
    assert not await dataprep.keys("uploads/")
    assert await dataprep.keys("datasets/") == facts
    snapshot = await dataprep.world.store.snapshot("words", 1)
    assert snapshot.source.digest == ended.source.digest


@pytest.mark.parametrize("marked", [True, False], ids=["with its marker", "without a marker of open work"])
async def test_one_whose_import_waits_stays(dataprep: Dataprep, marked: bool) -> None:
    await dataprep.blobs.put("uploads/d1", b"rows")
    await dataprep.blobs.put("uploads/d2", b"rows of nobody")
    await dataprep.record("r1", "d1")
    if not marked:
        for key in await dataprep.keys("open/"):
            await dataprep.blobs.delete(key)
    await dataprep.look(400)
    assert await dataprep.keys("uploads/") == ["uploads/d1"]


async def test_one_that_two_imports_share_stays_until_both_have_ended(dataprep: Dataprep) -> None:
    await dataprep.blobs.put("uploads/d1", b"rows")
    for request_id in ("r1", "r2"):
        await dataprep.record(request_id, "d1")
    await dataprep.world.store.end(Import(dataset="words", request_id="r1", state=Import.STATE_REFUSED))
    await dataprep.look(8)
    assert await dataprep.keys("uploads/") == ["uploads/d1"]
    await dataprep.world.store.end(Import(dataset="words", request_id="r2", state=Import.STATE_REFUSED))
    await dataprep.look(8)
    assert not await dataprep.keys("uploads/")


async def test_none_goes_while_nobody_knows_what_a_damaged_import_needs(dataprep: Dataprep) -> None:
    await dataprep.blobs.put("uploads/d1", b"rows")
    await dataprep.record("r1", "d1")
    await dataprep.blobs.put("datasets/words/imports/r1", b"\xff\xff damaged")
    await dataprep.look(8)
    assert await dataprep.keys("uploads/") == ["uploads/d1"]


async def test_one_that_was_sent_again_meanwhile_stays(dataprep: Dataprep, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its import is recorded after the upload: in between nothing but its age tells that it is needed."""
    await dataprep.blobs.put("uploads/d1", b"rows")
    names = dataprep.world.store.names

    async def sent_again() -> list[str]:
        await dataprep.blobs.put("uploads/d1", b"rows")
        return await names()

    monkeypatch.setattr(dataprep.world.store, "names", sent_again)
    await dataprep.look(8)
    assert await dataprep.keys("uploads/") == ["uploads/d1"]
