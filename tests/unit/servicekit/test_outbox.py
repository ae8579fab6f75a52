"""The outbox: every fact is published at least once, no request waits for the bus, no marker is left."""

import asyncio
from typing import Any

import pytest

from millstream.dataset.v1.events_pb2 import SnapshotCreated
from millstream.errors import Unavailable
from millstream.operations.v1.stored_pb2 import OutboxMarker
from servicekit.blobs.memory import MemoryBlobs
from servicekit.bus.memory import MemoryBus
from servicekit.bus.port import Message
from servicekit.facts.markers import ORPHAN_SECONDS
from servicekit.facts.outbox import Fact, Outbox
from servicekit.ids import hash_of
from tests.worlds.clock import ClockedBlobs
from tests.worlds.waiting import HANG

KEY = "datasets/words/ledger/0000000001"
OTHER = "datasets/words/ledger/0000000002"
FACTS = {
    "datasets/*/ledger/*": lambda key, data: Fact(
        key.split("/")[1], SnapshotCreated(dataset=key.split("/")[1], snapshot_id=data.decode())
    )
}


class FlakyBlobs(MemoryBlobs):
    """Raises once at each operation in `faults`, before or after it takes effect."""

    def __init__(self) -> None:
        super().__init__()
        self.faults: set[tuple[str, str]] = set()

    async def _faulty(self, name: str, operation: Any) -> Any:
        if (name, "before") in self.faults:
            self.faults.remove((name, "before"))
            operation.close()
            raise Unavailable(f"{name} did not happen")
        result = await operation
        if (name, "after") in self.faults:
            self.faults.remove((name, "after"))
            raise Unavailable(f"{name} happened, and its reply was lost")
        return result

    async def put(self, key: str, data: bytes) -> None:
        await self._faulty("put", super().put(key, data))

    async def put_if_absent(self, key: str, data: bytes) -> bool:
        return bool(await self._faulty("put_if_absent", super().put_if_absent(key, data)))

    async def delete(self, key: str) -> None:
        await self._faulty("delete", super().delete(key))


class DownBus(MemoryBus):
    """Refuses, or does not answer, while it is down."""

    down = False
    silent = False

    async def publish(self, message: Message) -> None:
        if self.silent:
            await asyncio.sleep(3600)
        if self.down:
            raise Unavailable("no broker")
        await super().publish(message)


async def markers(blobs: MemoryBlobs) -> list[str]:
    return [listed.key async for listed in blobs.list("outbox/")]


async def settle(outbox: Outbox) -> None:
    await outbox.sweep()
    await outbox.flush()


async def test_a_fact_is_published_and_its_marker_deleted() -> None:
    blobs, bus = MemoryBlobs(), MemoryBus()
    outbox = Outbox(blobs, bus, "dataprep", FACTS)
    assert await outbox.put(KEY, b"s1")
    await outbox.flush()
    (message,) = bus.log
    assert (message.topic, message.key) == ("millstream.dataset.v1", "words")
    assert message.headers["ce_id"] == hash_of(KEY).encode()
    assert await markers(blobs) == []
    assert outbox._publishing == {}


@pytest.mark.parametrize("operation", ["put", "put_if_absent", "delete"])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_store_that_fails_anywhere_loses_no_fact(
    operation: str, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs, bus = FlakyBlobs(), MemoryBus()
    outbox = Outbox(blobs, bus, "dataprep", FACTS)
    blobs.faults = {(operation, when)}
    try:
        await outbox.put(KEY, b"s1")
    except Unavailable:
        assert operation != "delete"
        stored = await blobs.exists(KEY)
        assert stored == (operation == "put_if_absent" and when == "after")
    await outbox.flush()
    await settle(outbox)
    if await blobs.exists(KEY):
        assert {message.headers["ce_id"] for message in bus.log} == {hash_of(KEY).encode()}
        await settle(outbox)
        assert await markers(blobs) == []
    else:
        assert bus.log == []
    await outbox.put(KEY, b"s1")
    await outbox.flush()
    assert bus.log and await markers(blobs) == []


async def test_no_put_waits_for_the_bus() -> None:
    blobs, bus = MemoryBlobs(), DownBus()
    bus.silent = True
    outbox = Outbox(blobs, bus, "dataprep", FACTS)
    async with asyncio.timeout(HANG):
        for number in range(1, 50):
            assert await outbox.put(f"datasets/words/ledger/{number:010d}", b"s")
    await outbox.sweep()
    await outbox.sweep()
    assert len(outbox._publishing) == 49, "one task a fact, however often the sweep comes by"
    for task in outbox._publishing.values():
        task.cancel()
    await outbox.flush()
    await asyncio.sleep(0)
    assert outbox._publishing == {}
    bus.silent = False
    await settle(outbox)
    assert len({message.headers["ce_id"] for message in bus.log}) == 49
    assert await markers(blobs) == []


async def test_a_fact_that_is_being_published_is_not_read() -> None:
    class Unread(MemoryBlobs):
        async def get(self, key: str) -> bytes:
            raise AssertionError(f"{key} was read")

    blobs, bus = Unread(), DownBus()
    bus.silent = True
    outbox = Outbox(blobs, bus, "dataprep", FACTS)
    assert await outbox.put(KEY, b"s1")
    await outbox.sweep()
    assert outbox.pending == 1
    bus.silent = False
    assert await outbox.put(OTHER, b"s2")
    async with asyncio.timeout(HANG):
        while len(outbox._publishing) > 1:
            await asyncio.sleep(0.01)
    assert [message.headers["ce_id"] for message in bus.log] == [hash_of(OTHER).encode()]
    for task in outbox._publishing.values():
        task.cancel()


async def test_once_the_bus_is_back_every_fact_is_published() -> None:
    blobs, bus = MemoryBlobs(), DownBus()
    bus.down = True
    outbox = Outbox(blobs, bus, "dataprep", FACTS)
    await outbox.put(KEY, b"s1")
    await outbox.flush()
    assert len(await markers(blobs)) == 1
    bus.down = False
    sweeping = asyncio.create_task(outbox.run())
    async with asyncio.timeout(HANG):
        while await markers(blobs):
            outbox.sweep_soon()
            await asyncio.sleep(0.001)
    sweeping.cancel()
    await asyncio.wait([sweeping])
    assert [message.headers["ce_id"] for message in bus.log] == [hash_of(KEY).encode()]


async def test_the_loser_of_a_race_publishes_the_winners_fact() -> None:
    blobs, bus = MemoryBlobs(), MemoryBus()
    replicas = [Outbox(blobs, bus, "dataprep", FACTS) for _ in range(5)]
    made = await asyncio.gather(*(each.put(KEY, b"by %d" % i) for i, each in enumerate(replicas)))
    assert sum(made) == 1
    for each in replicas:
        await each.flush()
        await settle(each)
    assert await markers(blobs) == []
    assert {(message.value, message.headers["ce_id"]) for message in bus.log} == {
        (bus.log[0].value, hash_of(KEY).encode())
    }
    assert b"by %d" % made.index(True) in bus.log[0].value


async def test_a_worker_without_a_bus_leaves_the_marker_for_the_service() -> None:
    blobs, bus = MemoryBlobs(), MemoryBus()
    worker = Outbox(blobs, None, "dataprep", FACTS)
    assert await worker.put(KEY, b"s1")
    await worker.sweep()
    assert len(await markers(blobs)) == 1
    service = Outbox(blobs, bus, "dataprep", FACTS)
    await settle(service)
    assert len(bus.log) == 1 and await markers(blobs) == []


async def test_a_sweep_leaves_other_services_alone() -> None:
    blobs, bus = MemoryBlobs(), MemoryBus()
    await Outbox(blobs, None, "dataprep", FACTS).put(KEY, b"s1")
    await settle(Outbox(blobs, bus, "trainer", FACTS))
    assert bus.log == [] and len(await markers(blobs)) == 1


async def test_a_damaged_marker_delays_no_other_fact() -> None:
    blobs, bus = MemoryBlobs(), MemoryBus()
    outbox = Outbox(blobs, bus, "dataprep", FACTS)
    await Outbox(blobs, None, "dataprep", FACTS).put(KEY, b"s1")
    await blobs.put("outbox/dataprep/0", b"\xff no marker")
    await outbox.sweep()
    await outbox.flush()
    assert [message.key for message in bus.log] == ["words"]


async def test_a_marker_without_its_object_is_kept_for_an_hour_of_the_stores_clock() -> None:
    blobs, bus = ClockedBlobs(), MemoryBus()
    outbox = Outbox(blobs, bus, "dataprep", FACTS)
    await blobs.put(outbox._marker(KEY), OutboxMarker(key=KEY).SerializeToString())
    await settle(outbox)
    blobs.ahead = ORPHAN_SECONDS - 60
    await settle(outbox)
    assert len(await markers(blobs)) == 1
    blobs.ahead = ORPHAN_SECONDS + 60
    await settle(outbox)
    assert await markers(blobs) == [] and bus.log == []


async def test_an_object_stored_late_is_published_by_the_next_sweep() -> None:
    blobs, bus = MemoryBlobs(), MemoryBus()
    outbox = Outbox(blobs, bus, "dataprep", FACTS)
    await blobs.put(outbox._marker(KEY), OutboxMarker(key=KEY).SerializeToString())
    await settle(outbox)
    await blobs.put(KEY, b"late")
    await settle(outbox)
    assert len(bus.log) == 1 and await markers(blobs) == []


async def test_a_key_without_a_pattern_fails_before_anything_is_written() -> None:
    blobs = MemoryBlobs()
    with pytest.raises(LookupError, match="dataprep has no event for runs/x"):
        await Outbox(blobs, MemoryBus(), "dataprep", FACTS).put("runs/x", b"")
    assert await markers(blobs) == []


async def test_a_sweep_that_cannot_list_is_retried() -> None:
    class Unlisted(MemoryBlobs):
        failures = 3

        def list(self, prefix: str, after: str = "") -> Any:
            if self.failures:
                self.failures -= 1
                raise Unavailable("away")
            return super().list(prefix, after)

    blobs, bus = Unlisted(), MemoryBus()
    await Outbox(blobs, None, "dataprep", FACTS).put(KEY, b"s1")
    outbox = Outbox(blobs, bus, "dataprep", FACTS)
    sweeping = asyncio.create_task(outbox.run())
    async with asyncio.timeout(HANG):
        while not bus.log:
            outbox.sweep_soon()
            await asyncio.sleep(0.001)
    sweeping.cancel()
    await asyncio.wait([sweeping])


async def test_a_long_outage_of_the_bus_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    blobs, bus = MemoryBlobs(), DownBus()
    bus.down = True
    outbox = Outbox(blobs, bus, "dataprep", FACTS)
    for number in range(1, 20):
        await outbox.put(f"datasets/words/ledger/{number:010d}", b"s")
    for _ in range(5):
        await settle(outbox)
    assert (outbox.incident.problem, outbox.pending) == ("no broker", 19)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    bus.down = False
    await settle(outbox)
    assert not outbox.incident.problem
