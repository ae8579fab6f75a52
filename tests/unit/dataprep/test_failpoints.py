"""An import has one outcome, wherever its process dies, and also when two replicas do it at the same time."""

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from millstream.dataset.v1.events_pb2 import SnapshotCreated
from millstream.dataset.v1.import_pb2 import Import, ImportChanges
from millstream.errors import Unavailable
from servicekit.blobs.memory import MemoryBlobs
from servicekit.bus.memory import MemoryBus
from servicekit.facts.events import from_message
from services.dataprep.reconcile import ImportKey
from tests.recipes.toy_words.sample import rows as sample_rows
from tests.worlds.dataprep import World, lines, sample


class Died(Exception):
    """The process has died: it stores nothing more."""


class DyingBlobs:
    """A process's view of the store that dies at its n-th durable write, right before it or right after it."""

    def __init__(self, blobs: MemoryBlobs, writes: int, *, after: bool) -> None:
        self.blobs, self.left, self.after = blobs, writes, after

    @property
    def dead(self) -> bool:
        return self.left <= 0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.blobs, name)
        return self._write(method) if name in {"put", "put_if_absent", "upload", "delete"} else self._read(method)

    def _write(self, method: Any) -> Any:
        async def write(*arguments: Any) -> Any:
            if self.dead:
                raise Died
            self.left -= 1
            if self.dead and not self.after:
                raise Died
            result = await method(*arguments)
            if self.dead:
                raise Died
            return result

        return write

    def _read(self, method: Any) -> Any:
        def read(*arguments: Any) -> Any:
            if self.dead:
                raise Died
            return method(*arguments)

        return read


async def live(world: World, data: bytes) -> None:
    """One life of a process: it gets a request, and does the pending imports."""
    await world.ask(data, request_id="one")
    async for name in world.imports.pending():
        assert await world.imports.reconcile(name) is None
    await world.outbox.flush()


async def life_that_dies(blobs: MemoryBlobs, bus: MemoryBus, data: bytes, writes: int, *, after: bool) -> bool:
    dying = DyingBlobs(blobs, writes, after=after)
    world = World(dying, bus)  # type: ignore[arg-type]
    try:
        await live(world, data)
    except Died:
        await world.outbox.flush()
    return dying.dead


async def check_one_end(blobs: MemoryBlobs, bus: MemoryBus, state: Import.State.ValueType) -> None:
    """After a restart and a repeated request there is one import, one snapshot, one outcome and one published event."""
    world = World(blobs, bus)
    await live(world, sample())
    await world.outbox.sweep()
    await world.outbox.flush()
    keys = [listed.key async for listed in blobs.list("")]
    ledger = [key for key in keys if key.startswith("datasets/words/ledger/")]
    assert sum(key.startswith("datasets/words/outcomes/") for key in keys) == 1
    assert sum(key.startswith("datasets/words/imports/") for key in keys) == 1
    assert not [key for key in keys if key.startswith("outbox/")]
    ended = await world.get(Import(dataset="words", request_id="one"))
    assert ended.state == state
    assert len(ledger) == 1 and bus.log
    created = SnapshotCreated(dataset="words", number=1, snapshot_id=ended.snapshot_id)
    assert all(from_message(message).fact == created for message in bus.log)


async def snapshot_id_without_a_death() -> str:
    world = World()
    await live(world, sample())
    return (await world.snapshot()).snapshot_id


@pytest.mark.parametrize("after", [False, True], ids=["before-a-write", "after-a-write"])
async def test_an_import_whose_process_dies_at_any_write_ends_once(after: bool) -> None:
    expected, writes = await snapshot_id_without_a_death(), 0
    while True:
        writes += 1
        blobs, bus = MemoryBlobs(), MemoryBus()
        died = await life_that_dies(blobs, bus, sample(), writes, after=after)
        await check_one_end(blobs, bus, Import.STATE_SUCCEEDED)
        assert (await World(blobs, bus).snapshot()).snapshot_id == expected
        if not died:
            break
    assert writes > 10, "upload, spec, import, three parts, marker, ledger, outcome and the marker's removal"


async def test_an_import_whose_process_dies_repeatedly_ends_once() -> None:
    blobs, bus = MemoryBlobs(), MemoryBus()
    for writes in range(1, 9):
        await life_that_dies(blobs, bus, sample(), writes, after=writes % 2 == 0)
    await check_one_end(blobs, bus, Import.STATE_SUCCEEDED)


@pytest.mark.parametrize("after", [False, True], ids=["before-a-write", "after-a-write"])
async def test_a_refused_import_whose_process_dies_ends_once(after: bool) -> None:
    data = lines([{"text": "no label"}])
    for writes in range(1, 9):
        blobs, bus = MemoryBlobs(), MemoryBus()
        died = await life_that_dies(blobs, bus, data, writes, after=after)
        world = World(blobs, bus)
        await live(world, data)
        assert (await world.get(Import(dataset="words", request_id="one"))).state == Import.STATE_REFUSED
        assert not bus.log and await world.store.pending("words") == []
    assert not died


@pytest.mark.parametrize("after", [False, True], ids=["before-a-write", "after-a-write"])
async def test_an_unchanged_import_whose_process_dies_ends_once(after: bool) -> None:
    for writes in range(1, 12):
        blobs, bus = MemoryBlobs(), MemoryBus()
        first = World(blobs, bus)
        await first.ask(sample(), request_id="zero")
        await first.imports.reconcile(ImportKey("words", "zero"))
        await first.outbox.flush()
        died = await life_that_dies(blobs, bus, sample(), writes, after=after)
        world = World(blobs, bus)
        await live(world, sample())
        assert (await world.get(Import(dataset="words", request_id="one"))).state == Import.STATE_UNCHANGED
        assert len(await world.store.snapshots("words").entries()) == len(bus.log) == 1
    assert not died


@pytest.mark.parametrize("after", [False, True], ids=["before-a-write", "after-a-write"])
async def test_an_append_whose_process_dies_appends_once(after: bool) -> None:
    async def append(world: World) -> None:
        await world.ask(lines(sample_rows(250)[150:]), request_id="one", mode=Import.MODE_APPEND)
        await world.imports.reconcile(ImportKey("words", "one"))

    for writes in range(1, 16):
        blobs, bus = MemoryBlobs(), MemoryBus()
        first = World(blobs, bus)
        await first.ask(sample(), request_id="zero")
        await first.imports.reconcile(ImportKey("words", "zero"))
        dying = DyingBlobs(blobs, writes, after=after)
        with suppress(Died):
            await append(World(dying, bus))  # type: ignore[arg-type]
        world = World(blobs, bus)
        await append(world)
        ended = await world.get(Import(dataset="words", request_id="one"))
        assert (ended.state, ended.snapshot_number) == (Import.STATE_SUCCEEDED, 2)
        assert ended.changes == ImportChanges(rows_before=200, rows_after=250, added=50)
        assert len(await world.splits()) == 250 and (await world.snapshot()).number == 2
    assert not dying.dead


async def test_two_replicas_may_do_one_import_at_once() -> None:
    blobs, bus = MemoryBlobs(), MemoryBus()
    worlds = [World(blobs, bus) for _ in range(2)]
    await worlds[0].ask(sample(), request_id="one")
    await asyncio.gather(*(world.imports.reconcile(ImportKey("words", "one")) for world in worlds))
    await check_one_end(blobs, bus, Import.STATE_SUCCEEDED)


async def test_two_replicas_share_many_imports() -> None:
    blobs, bus = MemoryBlobs(), MemoryBus()
    first, second = World(blobs, bus), World(blobs, bus)
    async with first.running(), second.running():
        asked = [
            await world.ask(sample(150 + number), dataset=f"d{number % 3}", request_id=f"r{number}")
            for number, world in enumerate((first, second) * 5)
        ]
        await first.work.resync()
        await second.work.resync()
        ends = await asyncio.gather(*(first.watch(one) for one in asked))
    assert {end[-1].state for end in ends} == {Import.STATE_SUCCEEDED}
    for dataset in ("d0", "d1", "d2"):
        entries = await first.store.snapshots(dataset).entries()
        assert [entry.request_id for entry in entries] == [one.request_id for one in asked if one.dataset == dataset]


async def test_an_import_of_a_replica_that_died_is_done_by_another() -> None:
    blobs, bus = MemoryBlobs(), MemoryBus()
    asked = await World(blobs, bus).ask(sample())
    async with World(blobs, bus).running() as other:
        assert (await other.watch(asked))[-1].state == Import.STATE_SUCCEEDED


class FlakyBlobs(MemoryBlobs):
    """Every third write is stored and raises Unavailable; every fourth is not stored and raises it."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    async def put_if_absent(self, key: str, data: bytes) -> bool:
        self.count += 1
        made = self.count % 4 != 0 and await super().put_if_absent(key, data)
        if self.count % 4 == 0 or self.count % 3 == 0:
            raise Unavailable("the store does not answer")
        return made


async def test_a_flaky_store_only_delays_an_import() -> None:
    async with World(FlakyBlobs()).running() as world:
        for _ in range(20):
            try:
                asked = await world.ask(sample(), request_id="one")
                break
            except Unavailable:
                continue
        assert (await world.watch(asked))[-1].state == Import.STATE_SUCCEEDED
        assert len(await world.store.snapshots("words").entries()) == 1
