"""Ledgers: dense, one entry a request, time never back, under concurrent writers and failures."""

import asyncio
import time
from collections.abc import Sequence
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from threading import Thread

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.errors import Conflict, DataLoss, InvalidArgument, Unavailable
from millstream.operations.v1.stored_pb2 import LedgerEntry
from millstream.registry.v1.model_pb2 import AliasEntry
from millstream.training.v1.training_run_pb2 import Artifact
from servicekit.blobs.directory import DirectoryBlobs
from servicekit.blobs.memory import MemoryBlobs
from servicekit.facts.ledger import Entry, Ledger

PREFIX = "models/m/aliases/champion"


def entry(version: int) -> AliasEntry:
    return AliasEntry(model="m", version=version)


def ledger(blobs: MemoryBlobs | DirectoryBlobs) -> Ledger[AliasEntry]:
    return Ledger(blobs, PREFIX, AliasEntry)


class Flaky(MemoryBlobs):
    """Some puts raise: half of those after they have happened."""

    def __init__(self, plan: Sequence[str]) -> None:
        super().__init__()
        self.plan = list(plan)

    async def put_if_absent(self, key: str, data: bytes) -> bool:
        fault = self.plan.pop() if self.plan else "ok"
        if fault == "before":
            raise Unavailable("away")
        made = await super().put_if_absent(key, data)
        if fault == "after":
            raise Unavailable("the reply was lost")
        return made


def check(entries: Sequence[Entry[AliasEntry]], requests: set[str]) -> None:
    assert [each.number for each in entries] == list(range(1, len(entries) + 1))
    assert len(entries) == len({each.request_id for each in entries})
    assert {each.request_id for each in entries} == requests
    times = [each.time_ns for each in entries]
    assert all(later >= earlier + 1000 for earlier, later in pairwise(times))


@settings(max_examples=50, deadline=None)
@given(
    requests=st.lists(st.integers(0, 9), min_size=1, max_size=30),
    plan=st.lists(st.sampled_from(["ok", "before", "after"]), max_size=30),
    appenders=st.integers(1, 4),
)
def test_any_appenders_and_any_faults_make_one_dense_ledger(
    requests: list[int], plan: list[str], appenders: int
) -> None:
    async def append(mine: Ledger[AliasEntry], request: int) -> None:
        while True:
            try:
                made = await mine.append(entry(request), request_id=f"r{request}", actor="me")
                assert (made.message.version, made.actor) == (request, "me")
                return
            except Unavailable:
                await asyncio.sleep(0)

    async def run() -> Sequence[Entry[AliasEntry]]:
        blobs = Flaky(plan)
        ledgers = [ledger(blobs) for _ in range(appenders)]
        await asyncio.gather(*(append(ledgers[i % appenders], request) for i, request in enumerate(requests)))
        return await ledger(blobs).entries()

    check(asyncio.run(run()), {f"r{request}" for request in requests})


def _process(root: Path, process: int) -> None:
    def thread(number: int) -> None:
        async def run() -> None:
            mine = ledger(DirectoryBlobs(root))
            for each in range(3):
                # Every request is sent by two processes.
                await mine.append(entry(number), request_id=f"{process // 2}.{number}.{each}")

        asyncio.run(run())

    threads = [Thread(target=thread, args=(number,)) for number in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()


def test_four_processes_of_four_threads_make_one_dense_ledger(tmp_path: Path) -> None:
    context = get_context("spawn")
    processes = [context.Process(target=_process, args=(tmp_path, number)) for number in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    entries = asyncio.run(ledger(DirectoryBlobs(tmp_path)).entries())
    check(entries, {f"{a}.{b}.{c}" for a in range(2) for b in range(4) for c in range(3)})


async def test_a_lost_reply_and_the_same_request_again_give_the_same_entry() -> None:
    blobs = Flaky(["after"])
    with pytest.raises(Unavailable):
        await ledger(blobs).append(entry(1), request_id="r", expected=0)
    again = await ledger(blobs).append(entry(1), request_id="r", expected=0)
    assert again.number == 1
    assert len(await ledger(blobs).entries()) == 1


async def test_expected_is_the_newest_number_or_conflict() -> None:
    mine, other = ledger(blobs := MemoryBlobs()), ledger(blobs)
    await mine.append(entry(1), request_id="a", expected=0)
    with pytest.raises(Conflict, match="is at 1, not at 0"):
        await other.append(entry(2), request_id="b", expected=0)
    await other.append(entry(2), request_id="b", expected=1)
    results = await asyncio.gather(
        *(ledger(blobs).append(entry(9), request_id=f"race{i}", expected=2) for i in range(8)), return_exceptions=True
    )
    assert sum(isinstance(result, Entry) for result in results) == 1
    assert sum(isinstance(result, Conflict) for result in results) == 7


async def test_other_content_under_the_same_request_is_refused() -> None:
    mine = ledger(MemoryBlobs())
    await mine.append(entry(1), request_id="a")
    with pytest.raises(InvalidArgument, match="send a new one") as refused:
        await mine.append(entry(2), request_id="a")
    assert refused.value.field == "request_id"


async def test_a_callable_decides_on_the_newest_entry_and_again_after_a_lost_race() -> None:
    blobs = MemoryBlobs()
    mine, other = ledger(blobs), ledger(blobs)
    asked: list[int] = []

    async def next_version(newest: Entry[AliasEntry] | None) -> AliasEntry:
        number = newest.number if newest else 0
        asked.append(number)
        return entry(number + 100)

    await mine.append(entry(1), request_id="a")
    made = await asyncio.gather(mine.append(next_version, request_id="b"), other.append(next_version, request_id="c"))
    assert sorted(each.message.version for each in made) == [101, 102]
    assert 2 in asked

    async def nothing(newest: Entry[AliasEntry] | None) -> None:
        return None

    assert (await mine.append(nothing, request_id="d")).number == 3

    async def refuse(newest: Entry[AliasEntry] | None) -> AliasEntry:
        raise Conflict("no")

    with pytest.raises(Conflict):
        await mine.append(refuse, request_id="e")


async def test_times_of_entries_grow_although_the_clock_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = ledger(MemoryBlobs())
    first = await mine.append(entry(1), request_id="a")
    monkeypatch.setattr(time, "time_ns", lambda: first.time_ns - 10**12)
    second = await mine.append(entry(2), request_id="b")
    assert second.time_ns == first.time_ns + 1000


async def test_entries_are_read_once() -> None:
    class Counting(MemoryBlobs):
        reads = 0

        async def get(self, key: str) -> bytes:
            self.reads += 1
            return await super().get(key)

    blobs = Counting()
    mine = ledger(blobs)
    for number in range(10):
        await ledger(blobs).append(entry(number), request_id=str(number))
    assert len(await mine.entries()) == 10
    blobs.reads = 0
    await asyncio.gather(*(mine.entries() for _ in range(3)))
    assert blobs.reads == 0
    assert [each.number for each in await mine.entries()] == list(range(1, 11))


async def test_an_entry_of_another_message_type_is_damaged() -> None:
    blobs = MemoryBlobs()
    stored = LedgerEntry(number=1, request_id="x")
    stored.message.Pack(Artifact(digest="d"))
    await blobs.put(f"{PREFIX}/{1:010d}", stored.SerializeToString())
    with pytest.raises(DataLoss, match=f"{PREFIX}/{1:010d} is damaged"):
        await ledger(blobs).entries()
