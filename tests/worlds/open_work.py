"""A trainer's work around a store in memory, and what is open in it."""

import asyncio

from millstream.dataset.v1.events_pb2 import SnapshotCreated
from millstream.dataset.v1.import_pb2 import Import
from servicekit.blobs.memory import MemoryBlobs
from servicekit.bus.port import Bus
from servicekit.facts.outbox import Announce, Fact
from servicekit.work.queue import Work
from tests.worlds.waiting import until
from tests.worlds.work import Thing, ThingKey

KEY = "datasets/words/ledger/0000000001"
FACTS: Announce = {
    "datasets/*/ledger/*": lambda key, data: Fact("words", SnapshotCreated(dataset="words", number=1)),
    "datasets/*/imports/*": lambda key, data: Fact("words", Import.FromString(data)),
}
HANDLERS = {SnapshotCreated: lambda event: [ThingKey(event.dataset)]}
FACT = SnapshotCreated(dataset="words", number=1)
IMPORT = Import(dataset="words", request_id="r1")


async def open_keys(blobs: MemoryBlobs) -> list[str]:
    return [listed.key async for listed in blobs.list("open/")]


async def until_none_is_open(blobs: MemoryBlobs) -> None:
    async def none() -> bool:
        return not await open_keys(blobs)

    await until(none)


def trainer(blobs: MemoryBlobs, bus: Bus, thing: Thing, resync_seconds: float = 3600) -> Work:
    return Work(blobs, bus, "trainer", HANDLERS, [thing], resync_seconds=resync_seconds)


class Running:
    """Work that runs inside the block."""

    def __init__(self, work: Work) -> None:
        self.work = work

    async def __aenter__(self) -> Work:
        self.task = asyncio.create_task(self.work.run())
        return self.work

    async def __aexit__(self, *error: object) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])
