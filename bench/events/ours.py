"""The platform's side: a process that publishes events, on a bus or by an outbox, and one that handles them as a service.

`python -m bench.events.ours publish|handle SETTINGS` (JSON); each prints `ready` first.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial

from bench.events.workload import (
    PATTERN,
    SOURCE,
    HandledTimes,
    Round,
    facts,
    jitter,
    message,
    read_fact,
    report,
    rounds,
)
from millstream.dataset.v1.events_pb2 import SnapshotCreated
from millstream.errors import MillstreamError
from servicekit.blobs.memory import MemoryBlobs
from servicekit.children import end_with
from servicekit.facts.outbox import Outbox
from servicekit.runtime.backends import open_blobs, open_bus
from servicekit.runtime.settings import Settings
from servicekit.work.keys import Key
from servicekit.work.queue import Work
from tests.worlds.servers import settings_of

CALLERS = 256
"""Concurrent callers of a service in a burst."""
Publish = Callable[[], Awaitable[object]]


async def publish(settings: Settings) -> None:
    """Publish the rounds of stdin."""
    bus = open_bus(settings)
    outbox = Outbox(open_blobs(settings), bus, SOURCE, {PATTERN: read_fact})
    sweep = asyncio.create_task(outbox.run())

    def publishes(each_round: Round) -> Sequence[Publish]:
        made = facts(each_round.name, each_round.count)
        if each_round.way == "outbox":
            return [partial(outbox.put, key, fact.SerializeToString()) for key, fact in made.items()]
        return [partial(bus.publish, message(key, fact)) for key, fact in made.items()]

    print("ready", flush=True)
    given = rounds()
    while each_round := await asyncio.to_thread(next, given, None):
        report(*await (one_by_one if each_round.pause else all_at_once)(publishes(each_round)))
    sweep.cancel()
    await bus.close()


async def one_by_one(publishes: Sequence[Publish]) -> tuple[list[int], list[int]]:
    sent, returned = [], []
    for each in publishes:
        await asyncio.sleep(jitter())
        sent.append(time.monotonic_ns())
        await each()
        returned.append(time.monotonic_ns())
    return sent, returned


async def all_at_once(publishes: Sequence[Publish]) -> tuple[list[int], list[int]]:
    sent = time.monotonic_ns()
    waiting = iter(publishes)

    async def caller() -> None:
        for each in waiting:
            await each()

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return [sent], [time.monotonic_ns()]


@dataclass(frozen=True)
class FactKey(Key):
    """The fact of one event."""

    kind = "fact"
    snapshot_id: str
    number: int


class Handle:
    """A service's reconciler: it records the time."""

    kind = FactKey.kind

    def __init__(self) -> None:
        self.handled = HandledTimes()

    async def pending(self) -> AsyncIterator[FactKey]:
        for key in list[FactKey]():
            yield key

    async def reconcile(self, key: FactKey) -> None:
        self.handled.record(key.snapshot_id, key.number)

    async def end(self, key: FactKey, error: MillstreamError) -> bool:
        raise error


async def handle(settings: Settings) -> None:
    """Handle the events as a service does."""

    def keys(event: SnapshotCreated) -> Sequence[Key]:
        return [FactKey(event.snapshot_id, event.number)]

    work = Work(MemoryBlobs(), open_bus(settings), SOURCE, {SnapshotCreated: keys}, [Handle()], resync_seconds=3600)
    working = asyncio.create_task(work.run())
    await work.consumer.positioned.wait()
    print("ready", flush=True)
    await working


if __name__ == "__main__":
    end_with(os.getppid())
    asyncio.run({"publish": publish, "handle": handle}[sys.argv[1]](settings_of(json.loads(sys.argv[2]))))
