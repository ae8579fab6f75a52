"""Our callers: `python -m bench.registry.calls '{"registry": …}'` prints the calls per second of each kind as JSON.

Each caller is a task with a client and a model of its own; it sends its next call once it has the answer to the last.
"""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.registry.neighbours import new_run
from millstream.client.aio import AsyncClient
from millstream.defaults import CHAMPION, topic_of
from millstream.registry.v1.events_pb2 import ModelVersionRegistered
from servicekit.blobs.directory import DirectoryBlobs
from servicekit.bus.sqlite.bus import SqliteBus
from servicekit.facts.events import from_message
from servicekit.facts.outbox import Outbox
from services.trainer.store import FACTS, Store

Call = Callable[[int], Awaitable[object]]


@dataclass
class Runs:
    """Ends runs as the trainer does: durably in the store, then by an event; and learns from the bus of their versions."""

    folder: Path
    waiting: dict[str, "asyncio.Future[int]"] = field(default_factory=dict)

    def __post_init__(self) -> None:
        blobs, self.bus = DirectoryBlobs(self.folder / "blobs"), SqliteBus(self.folder / "bus.sqlite")
        self.outbox = Outbox(blobs, self.bus, "trainer", FACTS)
        self.store = Store(blobs, self.outbox, 30)

    async def registered(self, model: str) -> int:
        """End another run of the model; the number of its version, once the registry has made it."""
        outcome = new_run(model)
        version = self.waiting[outcome.run_id] = asyncio.get_running_loop().create_future()
        await self.store.end(outcome)
        return await version

    async def follow(self) -> None:
        """Wake those that wait for the versions that are made."""
        tail = self.bus.tail([topic_of(ModelVersionRegistered.DESCRIPTOR.full_name).name])
        while True:
            for fact in [from_message(message).fact for message in await tail.batch()]:
                if isinstance(fact, ModelVersionRegistered) and (waits := self.waiting.pop(fact.run_id, None)):
                    waits.set_result(fact.version)


class Caller:
    """One user with a client and a model."""

    def __init__(self, registry: str, model: str, runs: Runs) -> None:
        self.client, self.model, self.runs = AsyncClient(registry=registry), model, runs

    async def begin(self) -> None:
        """Declare the model; two versions, and the champion."""
        await self.client.apply_model({"model": self.model, "recipe": "toy_words", "dataset": "words"})
        for number in (1, 2):
            await self.register(number)
        await self.move(1)

    async def register(self, _: int) -> None:
        """From the end of a run to the answer that has its version."""
        version = await self.runs.registered(self.model)
        found = await self.client.version(self.model, version)
        if found.version != version:
            raise SystemExit(f"version {found.version} of {self.model} was answered, not {version}")

    async def move(self, number: int) -> None:
        """The champion becomes the other version."""
        await self.client.promote(self.model, 1 + number % 2, override="bench")

    async def by_number(self, _: int) -> None:
        """Look a version up."""
        await self.client.version(self.model, 1)

    async def by_alias(self, _: int) -> None:
        """Look the champion up."""
        await self.client.version(self.model, alias=CHAMPION)

    @property
    def kinds(self) -> Mapping[str, Call]:
        """What is measured."""
        return {"register": self.register, "alias": self.move, "get_version": self.by_number, "by_alias": self.by_alias}


async def _until(end: float, call: Call) -> int:
    done = 0
    while time.perf_counter() < end:
        await call(done)
        done += 1
    return done


async def measure(asked: Mapping[str, Any]) -> dict[str, float]:
    """Calls per second by kind, of all callers together."""
    runs, figures = Runs(Path(asked["folder"])), dict[str, float]()
    following = asyncio.create_task(runs.follow())
    callers = [Caller(asked["address"], f"{asked['name']}-{number}", runs) for number in range(asked["callers"])]
    await asyncio.gather(*(caller.begin() for caller in callers))
    for kind in callers[0].kinds:
        began = time.perf_counter()
        end = began + asked["seconds"]
        done = await asyncio.gather(*(_until(end, caller.kinds[kind]) for caller in callers))
        figures[kind] = sum(done) / (time.perf_counter() - began)
    following.cancel()
    await runs.outbox.flush()
    await asyncio.gather(*(caller.client.close() for caller in callers))
    await runs.bus.close()
    return figures


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measure(json.loads(sys.argv[1])))))
