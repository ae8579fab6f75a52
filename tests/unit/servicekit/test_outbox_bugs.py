"""Facts that cannot be published are parked with an error, and retried at the next start."""

import asyncio
from typing import Any

import pytest

from millstream.dataset.v1.events_pb2 import SnapshotCreated
from millstream.operations.v1.stored_pb2 import OutboxMarker
from servicekit.blobs.memory import MemoryBlobs
from servicekit.bus.memory import MemoryBus
from servicekit.bus.port import MAX_VALUE
from servicekit.facts.outbox import Fact, Outbox
from servicekit.metrics import OUTBOX_PARKED
from tests.unit.servicekit.test_outbox import FACTS, KEY, markers, settle
from tests.worlds.waiting import HANG

TOO_LARGE = "datasets/large/ledger/0000000001"


def too_large(key: str, data: bytes) -> Fact:
    return Fact(key.split("/")[1], SnapshotCreated(dataset="x" * (MAX_VALUE + 1)))


def impossible(key: str, data: bytes) -> Fact:
    raise KeyError("a bug")


@pytest.mark.parametrize(("build", "reason"), [(too_large, "at most 1000000"), (impossible, "KeyError: 'a bug'")])
async def test_an_event_that_cannot_be_published_is_parked_until_the_next_start(
    build: Any, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    blobs, bus, before = MemoryBlobs(), MemoryBus(), OUTBOX_PARKED._value.get()
    outbox = Outbox(blobs, bus, "dataprep", {"datasets/large/ledger/*": build, **FACTS})
    assert await outbox.put(TOO_LARGE, b"s1"), "the fact itself is stored"
    await outbox.flush()
    await settle(outbox)
    await settle(outbox)
    assert bus.log == [] and await markers(blobs) == [], "it is not retried without end"
    assert (outbox.parked, outbox.pending, OUTBOX_PARKED._value.get()) == (1, 0, before + 1)
    (record,) = [record for record in caplog.records if "fact parked" in record.message]
    assert record.levelname == "ERROR" and reason in record.reason and TOO_LARGE in record.reason  # type: ignore[attr-defined]
    await outbox.put(KEY, b"s1")
    await outbox.flush()
    assert [message.key for message in bus.log] == ["words"], "others are published as always"

    fixed = Outbox(blobs, bus, "dataprep", FACTS)
    sweeping = asyncio.create_task(fixed.run())
    async with asyncio.timeout(HANG):
        while len(bus.log) < 2:
            await asyncio.sleep(0.001)
    await fixed.flush()
    sweeping.cancel()
    await asyncio.wait([sweeping])
    assert [message.key for message in bus.log] == ["words", "large"]
    assert [listed.key async for listed in blobs.list("outbox")] == []


@pytest.mark.parametrize("marker", [b"\xff no marker", OutboxMarker(key="datasets/../x/ledger/1").SerializeToString()])
async def test_a_damaged_marker_is_parked(marker: bytes) -> None:
    blobs = MemoryBlobs()
    outbox = Outbox(blobs, MemoryBus(), "dataprep", FACTS)
    await blobs.put("outbox/dataprep/0", marker)
    await settle(outbox)
    assert [listed.key async for listed in blobs.list("outbox")] == ["outbox-parked/dataprep/0"]
