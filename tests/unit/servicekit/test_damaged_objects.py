"""Stored objects that cannot be decoded: each is named, and is an error of what it belongs to."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from millstream.dataset.v1.dataset_pb2 import DatasetSpec
from millstream.dataset.v1.events_pb2 import SnapshotCreated
from millstream.errors import DataLoss, to_status
from millstream.operations.v1.stored_pb2 import DeadLetterResolution, Heartbeat, LedgerEntry
from servicekit.blobs import artifacts
from servicekit.blobs.memory import MemoryBlobs
from servicekit.blobs.stored import decode
from servicekit.bus.memory import MemoryBus
from servicekit.facts.lease import Leases
from servicekit.facts.ledger import DamagedEntry, Ledger, intact, read_entry
from servicekit.facts.outbox import Fact, Outbox
from servicekit.work.deadletters import DeadLetters
from tests.unit.servicekit.test_deadletters import letters, place
from tests.worlds.damage import half_of, halved
from tests.worlds.waiting import until
from tests.worlds.work import Thing, ThingKey, quick, working

__all__ = ["quick"]
PREFIX = "datasets/words/spec"
FIRST, SECOND = f"{PREFIX}/{1:010d}", f"{PREFIX}/{2:010d}"


async def ledger_of_two(blobs: MemoryBlobs) -> Ledger[DatasetSpec]:
    ledger = Ledger(blobs, PREFIX, DatasetSpec)
    for recipe in ("one", "two"):
        await ledger.append(DatasetSpec(recipe=recipe), request_id=recipe)
    return Ledger(blobs, PREFIX, DatasetSpec)


@pytest.mark.parametrize(
    "data", [b"", b"\0" * 40, b"\xff no message", half_of(LedgerEntry(request_id="x").SerializeToString())]
)
def test_damaged_bytes_are_an_error_that_names_the_key_and_what_to_do(data: bytes) -> None:
    with pytest.raises(DataLoss, match=f"{FIRST} is damaged.* restore it from a backup") as error:
        decode(LedgerEntry, data, FIRST)
    assert error.value.metadata == {"key": FIRST}
    assert to_status(error.value).code == 15


async def test_a_ledger_with_a_damaged_entry_names_it_and_goes_on_once_it_is_restored() -> None:
    blobs = MemoryBlobs()
    ledger = await ledger_of_two(blobs)
    async with halved(blobs, FIRST):
        with pytest.raises(DataLoss, match=FIRST):
            await ledger.entries()
        first, second = await ledger.listed(1, 2)
        assert isinstance(first, DamagedEntry) and first.number == 1 and FIRST in first.problem
        assert intact(second).message.recipe == "two"
        newest = await ledger.newest()
        assert newest and newest.message.recipe == "two", "the state itself is whole"
        with pytest.raises(DataLoss, match=FIRST):
            await ledger.append(DatasetSpec(recipe="three"), request_id="three")
    assert [entry.message.recipe for entry in await ledger.entries()] == ["one", "two"]
    assert (await ledger.append(DatasetSpec(recipe="three"), request_id="three")).number == 3


async def test_a_ledger_whose_newest_entry_is_damaged_has_no_older_state() -> None:
    blobs = MemoryBlobs()
    ledger = await ledger_of_two(blobs)
    async with halved(blobs, SECOND):
        with pytest.raises(DataLoss, match=SECOND):
            await ledger.newest()
    newest = await ledger.newest()
    assert newest and newest.message.recipe == "two"


async def test_a_damaged_heartbeat_counts_as_none_because_a_live_holder_replaces_it() -> None:
    blobs = MemoryBlobs()
    leases = Leases(blobs, "runs/attempts/r", lease_seconds=60)
    assert await leases.claim(1)
    await blobs.put(f"{leases.folder(1)}/heartbeat", b"\xff")
    assert await leases.is_alive(1), "its lease has just begun"
    await blobs.put(f"{leases.folder(1)}/heartbeat", Heartbeat(count=2).SerializeToString())
    assert await leases.is_alive(1)


async def test_a_damaged_manifest_is_named() -> None:
    blobs = MemoryBlobs()
    await blobs.put("artifacts/a/manifest", b"\xff")
    with pytest.raises(DataLoss, match="artifacts/a/manifest"):
        await artifacts.manifest(blobs, "artifacts/a")


def created(key: str, data: bytes) -> Fact:
    read_entry(data, DatasetSpec, key)
    return Fact("words", SnapshotCreated(dataset="words"))


async def test_a_damaged_fact_is_an_incident_and_is_published_once_it_is_restored() -> None:
    blobs, bus = MemoryBlobs(), MemoryBus()
    outbox = Outbox(blobs, None, "dataprep", {"datasets/*/spec/*": created})
    await Ledger(blobs, PREFIX, DatasetSpec, outbox.put).append(DatasetSpec(), request_id="one")
    outbox.bus = bus
    async with halved(blobs, FIRST):
        await outbox.sweep()
        await outbox.flush()
        assert bus.log == [] and FIRST in outbox.incident.problem and outbox.parked == 0
    await outbox.sweep()
    await outbox.flush()
    assert len(bus.log) == 1 and outbox.incident.problem == ""


async def test_a_dead_letter_whose_resolution_is_damaged_is_listed_with_it() -> None:
    blobs, bus = MemoryBlobs(), MemoryBus()
    group = DeadLetters(blobs, bus, "group")
    for offset in (1, 2):
        await group.add(place(offset), "no event")
    first, second = await letters(group)
    for letter in (first, second):
        await group.drop(letter.id, "ada", "garbage")
    key = f"dead-letters/group/{first.id}"
    async with halved(blobs, key, DeadLetterResolution):
        listed = {letter.id: letter.resolution.note for letter in await letters(group, show_resolved=True)}
        assert key in listed[first.id] and listed[second.id] == "garbage"
        assert key in (await group.find(first.id)).resolution.note
        with pytest.raises(DataLoss, match=key):
            await group.replay(first.id, "ada", "")
    assert (await group.find(first.id)).resolution.note == "garbage"


async def test_work_on_a_damaged_object_is_tried_until_it_is_restored_and_never_ended(
    quick: None, caplog: pytest.LogCaptureFixture
) -> None:
    whole = asyncio.Event()

    async def do(name: str) -> None:
        if name == "damaged" and not whole.is_set():
            raise DataLoss("the stored object a/b is damaged")

    thing = Thing(do)
    thing.open_keys = ["damaged", "sound"]
    async with working(thing) as work:
        await until(lambda: thing.done["damaged"] > 20)
        assert thing.done["sound"] and not thing.ended
        assert work.damage.texts() == ["the stored object a/b is damaged"]
        whole.set()
        await until(lambda: not work.damage.texts())
    assert len(damage_logged(caplog)) == 1, "once, not at each try"


class Listing(Thing):
    async def pending(self) -> AsyncIterator[Any]:
        self.resyncs += 1
        if self.resyncs < 3:
            yield DataLoss("the stored object a/b is damaged")
            yield DataLoss("the stored object a/b is damaged")
        yield ThingKey("sound")


async def test_a_resync_goes_on_past_a_damaged_object_and_logs_it_once(caplog: pytest.LogCaptureFixture) -> None:
    thing = Listing()
    async with working(thing) as work:
        await until(lambda: thing.done["sound"] == 1)
        assert work.damage.texts() == ["the stored object a/b is damaged"]
        await work.resync()
        assert len(damage_logged(caplog)) == 2, "once for each resync"
        await work.resync()
        assert work.damage.texts() == []


def damage_logged(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    found = [record for record in caplog.records if record.message == "stored object damaged"]
    assert {record.levelname for record in found} == {"ERROR"}
    return found
