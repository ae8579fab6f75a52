"""The platform's own side: a process that says facts, on a bus or by an outbox, and one that handles them as services do.

`python -m bench.events.ours say|hear SETTINGS` (JSON); each prints `ready` first.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial

from bench.events.said import PATTERN, SOURCE, Heard, Order, a_pause, facts, message, orders, read_fact, report
from deploy.local.child import end_with
from millstream.dataset.v1.events_pb2 import SnapshotCreated
from millstream.errors import MillstreamError
from servicekit.blobs.memory import MemoryBlobs
from servicekit.facts.outbox import Outbox
from servicekit.runtime.backends import open_blobs, open_bus
from servicekit.runtime.settings import Settings
from servicekit.work.keys import Key
from servicekit.work.queue import Work
from tests.worlds.servers import settings_of

CALLERS = 256
"""How many callers of a service say something at the same time, in a burst."""
Say = Callable[[], Awaitable[object]]


async def say(settings: Settings) -> None:
    bus = open_bus(settings)
    outbox = Outbox(open_blobs(settings), bus, SOURCE, {PATTERN: read_fact})
    sweep = asyncio.create_task(outbox.run())

    def says(order: Order) -> Sequence[Say]:
        made = facts(order.name, order.count)
        if order.way == "outbox":
            return [partial(outbox.put, key, fact.SerializeToString()) for key, fact in made.items()]
        return [partial(bus.publish, message(key, fact)) for key, fact in made.items()]

    print("ready", flush=True)
    told = orders()
    while order := await asyncio.to_thread(next, told, None):
        report(*await (one_by_one if order.pause else all_at_once)(says(order)))
    sweep.cancel()
    await bus.close()


async def one_by_one(says: Sequence[Say]) -> tuple[list[int], list[int]]:
    sent, returned = [], []
    for each in says:
        await asyncio.sleep(a_pause())
        sent.append(time.monotonic_ns())
        await each()
        returned.append(time.monotonic_ns())
    return sent, returned


async def all_at_once(says: Sequence[Say]) -> tuple[list[int], list[int]]:
    sent = time.monotonic_ns()
    waiting = iter(says)

    async def caller() -> None:
        for each in waiting:
            await each()

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return [sent], [time.monotonic_ns()]


@dataclass(frozen=True, order=True)
class FactKey(Key):
    """The fact of one event."""

    kind = "fact"
    snapshot_id: str
    number: int


class Handle:
    """A service's work on a fact: to note the time."""

    kind = FactKey.kind

    def __init__(self) -> None:
        self.heard = Heard()

    async def pending(self) -> AsyncIterator[FactKey]:
        for key in list[FactKey]():
            yield key

    async def reconcile(self, key: FactKey) -> None:
        self.heard.note(key.snapshot_id, key.number)

    async def end(self, key: FactKey, error: MillstreamError) -> None:
        raise error


async def hear(settings: Settings) -> None:
    def keys(event: SnapshotCreated) -> Sequence[Key]:
        return [FactKey(event.snapshot_id, event.number)]

    work = Work(MemoryBlobs(), open_bus(settings), SOURCE, {SnapshotCreated: keys}, [Handle()], resync_seconds=3600)
    working = asyncio.create_task(work.run())
    await work.consumer.positioned.wait()
    print("ready", flush=True)
    await working


if __name__ == "__main__":
    end_with(os.getppid())
    asyncio.run({"say": say, "hear": hear}[sys.argv[1]](settings_of(json.loads(sys.argv[2]))))
