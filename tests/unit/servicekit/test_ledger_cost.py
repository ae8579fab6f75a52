"""The cost of a ledger: what a call reads follows what it answers, and not how many entries there ever were."""

import asyncio

import pytest

from millstream.errors import Conflict, DataLoss, Unavailable
from millstream.registry.v1.model_pb2 import AliasEntry
from servicekit.blobs.memory import MemoryBlobs
from servicekit.facts.ledger import DamagedEntry, Ledger, intact
from servicekit.facts.ledger_index import BLOCK
from tests.worlds.counting import CountingBlobs

PREFIX = "models/m/aliases/champion"
MANY = 4 * BLOCK + 10


class Full(CountingBlobs):
    """Takes no puts but those of entries."""

    async def put(self, key: str, data: bytes) -> None:
        raise Unavailable("full")


def opened(blobs: MemoryBlobs) -> Ledger[AliasEntry]:
    """As a process that has just started."""
    return Ledger(blobs, PREFIX, AliasEntry)


async def filled(count: int) -> CountingBlobs:
    blobs = CountingBlobs()
    ledger = opened(blobs)
    for number in range(1, count + 1):
        await ledger.append(AliasEntry(version=number), request_id=f"r{number}")
    blobs.calls.clear()
    return blobs


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 8, 100, MANY])
async def test_a_process_that_starts_finds_the_newest_entry_in_a_few_looks(count: int) -> None:
    blobs = await filled(count)
    ledger = opened(blobs)
    newest = await ledger.newest()
    assert (newest.message.version if newest else 0) == count
    assert blobs.calls.total() <= 4 + 2 * count.bit_length(), blobs.calls
    blobs.calls.clear()
    await ledger.newest()
    assert blobs.calls.total() == 1, "whether another replica has appended one"


async def test_an_entry_is_read_without_the_others() -> None:
    blobs = await filled(MANY)
    ledger = opened(blobs)
    assert await ledger.has(500)
    blobs.calls.clear()
    assert intact(await ledger.entry(500)).message.version == 500
    assert await ledger.has(500)
    assert blobs.calls == {"get models": 1}


async def test_a_process_that_starts_reads_blocks_in_place_of_their_entries() -> None:
    blobs = await filled(MANY)
    ledger = opened(blobs)
    index = await ledger.index()
    assert [index.number_of(f"r{number}") for number in (1, BLOCK, BLOCK + 1, MANY)] == [1, BLOCK, BLOCK + 1, MANY]
    assert (blobs.calls["get ledger-blocks"], blobs.calls["get models"]) == (4, 10)
    made = await ledger.append(AliasEntry(version=1), request_id="r1")
    assert made.number == 1, "a repeated request is known"
    with pytest.raises(Conflict):
        await ledger.append(AliasEntry(version=0), request_id="new", expected=MANY - 1)
    blobs.calls.clear()
    assert (await ledger.append(AliasEntry(version=0), request_id="new")).number == MANY + 1
    assert blobs.calls.total() <= 2, blobs.calls


@pytest.mark.parametrize("damage", ["gone", "damaged"])
async def test_a_block_that_is_gone_or_damaged_is_written_again(damage: str) -> None:
    blobs = await filled(3 * BLOCK)
    key = f"ledger-blocks/{PREFIX}/{2:010d}"
    whole = await blobs.get(key)
    await (blobs.delete(key) if damage == "gone" else blobs.put(key, whole[:100] + b"\xff"))
    index = await opened(blobs).index()
    assert (index.covered, index.number_of(f"r{2 * BLOCK}")) == (3 * BLOCK, 2 * BLOCK)
    assert await blobs.get(key) == whole


async def test_a_store_that_takes_no_block_keeps_no_entry_from_being_appended() -> None:
    blobs = Full()
    ledger = opened(blobs)
    for number in range(BLOCK + 1):
        await ledger.append(AliasEntry(version=number), request_id=f"r{number}")
    assert (await opened(blobs).index()).covered == BLOCK + 1


async def test_the_entry_of_a_time_is_found_in_the_index() -> None:
    blobs = await filled(BLOCK + 5)
    ledger = opened(blobs)
    times = [entry.time_ns for entry in await ledger.entries()]
    index = await opened(blobs).index()
    for number, time in enumerate(times, 1):
        assert (index.number_at(time - 1), index.number_at(time), index.number_at(time + 1)) == (
            number - 1,
            number,
            number,
        )


async def test_entries_of_many_replicas_are_one_index() -> None:
    blobs = CountingBlobs()
    replicas = [opened(blobs) for _ in range(3)]
    for number in range(BLOCK + 20):
        await replicas[number % 3].append(AliasEntry(version=number), request_id=f"r{number}")
    for replica in (*replicas, opened(blobs)):
        index = await replica.index()
        assert [index.number_of(f"r{number}") for number in range(BLOCK + 20)] == list(range(1, BLOCK + 21))


async def test_one_block_that_is_gone_costs_its_own_entries_alone() -> None:
    blobs = await filled(MANY)
    await blobs.delete(f"ledger-blocks/{PREFIX}/{1:010d}")
    blobs.calls.clear()
    assert (await opened(blobs).index()).covered == MANY
    assert blobs.calls["get models"] == BLOCK + 10


async def test_an_entry_of_small_ones_that_a_block_has_may_be_damaged() -> None:
    blobs = CountingBlobs()
    small = Ledger(blobs, PREFIX, AliasEntry, small=True)
    for number in range(1, BLOCK + 2):
        await small.append(AliasEntry(version=number), request_id=f"r{number}")
    await blobs.put(small.key(7), b"damaged")
    again = Ledger(blobs, PREFIX, AliasEntry, small=True)
    assert (await again.append(AliasEntry(version=7), request_id="r7")).message.version == 7
    assert (await again.append(AliasEntry(version=0), request_id="new")).number == BLOCK + 2


async def test_calls_at_once_make_one_index() -> None:
    ledger = opened(await filled(BLOCK + 5))
    for index in await asyncio.gather(*(ledger.index() for _ in range(5))):
        assert index.covered == BLOCK + 5, "an entry is in the index twice, so each later one has another's number"


async def test_a_damaged_entry_gets_into_no_block() -> None:
    """Not even for a moment: once it is restored its request is known again, and the block is written."""
    blobs = CountingBlobs()
    small = Ledger(blobs, PREFIX, AliasEntry, small=True)
    for number in range(1, BLOCK + 1):
        await small.append(AliasEntry(version=number), request_id=f"r{number}")
    await small.index()
    times = [entry.time_ns for entry in await small.entries()]
    whole = await blobs.get(small.key(7))
    await blobs.delete(block := f"ledger-blocks/{PREFIX}/{1:010d}")
    await blobs.put(small.key(7), b"damaged")
    beside = await Ledger(blobs, PREFIX, AliasEntry, small=True).index()
    assert [beside.number_at(time) for time in times[3:6]] == [4, 5, 7], "it counts as of the time of the one before"
    assert not await blobs.exists(block)
    await blobs.put(small.key(7), whole)
    assert (await Ledger(blobs, PREFIX, AliasEntry, small=True).index()).number_of("r7") == 7
    assert await blobs.exists(block)


async def test_nothing_is_appended_after_a_newest_entry_that_is_damaged() -> None:
    """Not even where a block has all that an append needs but the state."""
    blobs = await filled(BLOCK)
    await opened(blobs).index()
    key = opened(blobs).key(BLOCK)
    await blobs.put(key, b"damaged")
    with pytest.raises(DataLoss, match=key):
        await opened(blobs).append(AliasEntry(version=1), request_id="new")


async def test_an_entry_that_is_gone_is_named_and_hurts_no_other() -> None:
    blobs = await filled(4)
    ledger = opened(blobs)
    assert await ledger.count() == 4
    await blobs.delete(ledger.key(2))
    listed = await ledger.listed(1, 4)
    assert [entry.number for entry in listed if isinstance(entry, DamagedEntry)] == [2]
    with pytest.raises(DataLoss, match="is gone: restore it from a backup"):
        intact(listed[1])
