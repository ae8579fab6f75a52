"""What a service has stored is known by kind, and what nobody needs any more is deleted when its time has come."""

import asyncio
from collections.abc import Sequence

import pytest

from millstream.errors import Unavailable
from servicekit import metrics
from servicekit.blobs.port import Listed
from servicekit.work.storage import Kind, Storage
from tests.contract.old_messages.kinds import OBJECTS
from tests.worlds.clock import ClockedBlobs
from tests.worlds.waiting import until

DAY = 86_400.0


async def of_done(old: Sequence[Listed]) -> list[str]:
    return [listed.key for listed in old if listed.key.startswith("scratch/done/")]


SCRATCH = Kind("scratch", ("scratch/**",), DAY, of_done)
FACTS = Kind("facts", ("facts/*",))


class Keys:
    """A store with some objects, and the names of those that are left."""

    def __init__(self) -> None:
        self.blobs = ClockedBlobs()
        self.storage = Storage(self.blobs, "thing", [SCRATCH, FACTS], seconds=0.01)

    async def put(self, *keys: str) -> None:
        for key in keys:
            await self.blobs.put(key, b"12345")

    async def left(self) -> list[str]:
        return [listed.key async for listed in self.blobs.list("") if not listed.key.startswith("clock/")]


@pytest.fixture
async def keys() -> Keys:
    made = Keys()
    await made.put("facts/a", "facts/b", "scratch/done/1/files/a", "scratch/done/1/manifest", "scratch/open/1/files/a")
    return made


async def test_objects_and_bytes_are_counted_by_kind(keys: Keys) -> None:
    await keys.put("open/thing/0", "outbox/thing/0", "open/another/0")
    await keys.storage.look()
    found = {name: (stored.total.objects, stored.total.size_bytes) for name, stored in keys.storage.stored.items()}
    assert found == {"scratch": (3, 15), "facts": (2, 10), "markers": (2, 10), "dead-letters": (0, 0), "clock": (1, 0)}
    assert metrics.STORED_BYTES.labels("scratch")._value.get() == 15
    assert metrics.STORED_OBJECTS.labels("facts")._value.get() == 2


async def test_what_is_young_stays(keys: Keys) -> None:
    keys.blobs.ahead = DAY - 60
    before = await keys.left()
    await keys.storage.look()
    assert await keys.left() == before


async def test_what_is_old_goes_once_what_it_belongs_to_has_ended(keys: Keys) -> None:
    keys.blobs.ahead = DAY
    await keys.storage.look()
    assert await keys.left() == ["facts/a", "facts/b", "scratch/open/1/files/a"]
    scratch = keys.storage.stored["scratch"]
    assert (scratch.total.objects, scratch.total.size_bytes) == (1, 5), "what was deleted is stored no more"
    assert (scratch.deleted.objects, scratch.deleted.size_bytes) == (2, 10)


async def test_what_was_written_again_counts_from_then_on(keys: Keys) -> None:
    keys.blobs.ahead = DAY
    await keys.put("scratch/done/1/files/a")
    await keys.storage.look()
    assert "scratch/done/1/files/a" in await keys.left()


async def test_a_manifest_goes_before_its_files(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    gone: list[str] = []

    async def fail(key: str) -> None:
        gone.append(key)
        raise Unavailable("the store went away")

    monkeypatch.setattr("servicekit.concurrency.AT_ONCE", 1)
    monkeypatch.setattr(keys.blobs, "delete", fail)
    keys.blobs.ahead = DAY
    with pytest.raises(Unavailable):
        await keys.storage.look()
    assert gone == ["scratch/done/1/manifest"], "a reader would take the rest for a whole"


async def test_many_old_objects_are_asked_about_in_bounded_lists(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    async def of_all(old: Sequence[Listed]) -> list[str]:
        asked.append(len(old))
        return [listed.key for listed in old]

    monkeypatch.setattr("servicekit.work.storage.AT_ONCE", 1000)
    many = Kind("many", ("many/*",), 0.0, of_all)
    await keys.put(*(f"many/{number:04d}" for number in range(2500)))
    storage = Storage(keys.blobs, "thing", [many])
    await storage.look()
    assert asked == [1000, 1000, 500]
    assert storage.stored["many"].deleted.objects == 2500 and not [key async for key in keys.blobs.list("many/")]


async def test_a_store_that_is_away_is_listed_when_it_is_back(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0

    async def of_nobody(old: Sequence[Listed]) -> list[str]:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise Unavailable("away")
        return [listed.key for listed in old]

    storage = Storage(keys.blobs, "thing", [Kind("facts", ("facts/*",), 0.0, of_nobody)], seconds=0.01)
    task = asyncio.create_task(storage.run())
    await until(lambda: storage.listed_at > 0)
    task.cancel()
    assert storage.stored["facts"].deleted.objects == 2


async def test_two_replicas_may_delete_the_same(keys: Keys) -> None:
    keys.blobs.ahead = DAY
    another = Storage(keys.blobs, "thing", [SCRATCH, FACTS])
    await asyncio.gather(keys.storage.look(), another.look())
    assert await keys.left() == ["facts/a", "facts/b", "scratch/open/1/files/a"]


def test_every_kind_of_object_of_the_platform_belongs_to_one_service() -> None:
    from servicekit.work.storage import of_every_service
    from services.dataprep.storage import kinds as dataprep
    from services.evaluator.storage import kinds as evaluator
    from services.inference.storage import KINDS as INFERENCE
    from services.registry.storage import KINDS as REGISTRY
    from services.trainer.storage import kinds as trainer

    blobs = ClockedBlobs()
    services = {
        "dataprep": dataprep(None, 1.0),  # type: ignore[arg-type]
        "trainer": trainer(None, 1.0, 1.0),  # type: ignore[arg-type]
        "evaluator": evaluator(blobs),
        "registry": REGISTRY,
        "inference": INFERENCE,
    }
    for described in OBJECTS:
        patterns = [described.pattern]
        if described.pattern == "ledger-blocks/**":  # each of its ledgers has a folder of its own there
            patterns = [f"ledger-blocks/{one.pattern}" for one in OBJECTS if one.in_ledger]
        for pattern in patterns:
            owners = []
            for service, own in services.items():
                key = pattern.replace("**", "a/b").replace("*", "thing")
                if key.split("/")[0] in ("open", "outbox", "outbox-parked", "dead-letters"):
                    key = key.replace("/thing", f"/{service}", 1)
                owners += [service for kind in (*own, *of_every_service(service)) if kind.has(key)][:1]
            expected = 5 if pattern.split("/")[0] in ("open", "outbox", "outbox-parked", "dead-letters") else 1
            assert len(owners) == expected, f"{pattern}: it belongs to {owners or 'no service'} (services/*/storage.py)"
