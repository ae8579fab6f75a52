"""A reconciler that records its calls, and Work around it."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from millstream.dataset.v1.events_pb2 import SnapshotCreated
from millstream.errors import DataLoss, MillstreamError
from servicekit import backoff
from servicekit.blobs.memory import MemoryBlobs
from servicekit.blobs.port import Blobs
from servicekit.bus.memory import MemoryBus
from servicekit.bus.port import Bus, Message
from servicekit.facts.events import to_message
from servicekit.work.keys import Handlers, Key
from servicekit.work.queue import Work

TOPIC = "millstream.dataset.v1"


@dataclass(frozen=True)
class ThingKey(Key):
    kind = "thing"
    name: str


HANDLERS: Handlers = {SnapshotCreated: lambda event: [ThingKey(event.dataset)]}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "FIRST_SECONDS", 0.0001)
    monkeypatch.setattr(backoff, "LONGEST_SECONDS", 0.002)


class Thing:
    """Records its calls; `do` is its reconcile(), `open_keys` what pending() lists."""

    kind = ThingKey.kind

    def __init__(self, do: Callable[[str], Awaitable[float | None]] | None = None) -> None:
        self.open_keys: list[str] = []
        self.resync_errors: list[Exception] = []
        self.resyncs = 0
        self.done: Counter[str] = Counter()
        self.ended: dict[str, MillstreamError] = {}
        self.end_errors: list[Exception] = []
        self.records_ends = True
        self.running: set[str] = set()
        self._do = do

    async def pending(self) -> AsyncIterator[ThingKey | DataLoss]:
        self.resyncs += 1
        for name in list(self.open_keys):
            yield ThingKey(name)
        if self.resync_errors:
            raise self.resync_errors.pop(0)

    async def reconcile(self, key: ThingKey) -> float | None:
        name = key.name
        assert name not in self.running, "two workers on one key"
        self.running.add(name)
        try:
            self.done[name] += 1
            return await self._do(name) if self._do else None
        finally:
            self.running.discard(name)

    async def end(self, key: ThingKey, error: MillstreamError) -> bool:
        if self.end_errors:
            raise self.end_errors.pop(0)
        self.ended[key.name] = error
        return self.records_ends


@asynccontextmanager
async def working(
    thing: Thing,
    bus: Bus | None = None,
    resync_seconds: float = 3600,
    *,
    blobs: Blobs | None = None,
    **more: Any,
) -> AsyncIterator[Work]:
    handlers = more.pop("handlers", HANDLERS)
    work = Work(
        blobs or MemoryBlobs(), bus or MemoryBus(), "group", handlers, [thing], resync_seconds=resync_seconds, **more
    )
    task = asyncio.create_task(work.run())
    try:
        yield work
        assert not task.done(), "Work stopped by itself"
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


def snapshot(dataset: str, number: int = 1) -> Message:
    return to_message(SnapshotCreated(dataset=dataset, number=number), dataset, f"id-{dataset}-{number}", "dataprep")
