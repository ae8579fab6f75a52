"""The ways that an event takes, each by two processes: one says, one handles."""

import asyncio
import json
import statistics
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any

from bench.events.bare import TOPIC
from bench.events.figures import Figures
from bench.events.said import Order
from deploy.servers.process import ROOT
from servicekit.bus.kafka.connection import link
from servicekit.bus.kafka.options import KafkaOptions
from servicekit.bus.kafka.topics import ensure

PACED = 200
LINE_BYTES = 1 << 22
LOST_SECONDS = 120.0
MS = 1e6


@dataclass(frozen=True)
class Pair:
    says: Process
    hears: Process

    async def tell(self, order: Order) -> tuple[Sequence[int], Sequence[int], Sequence[int]]:
        """When each fact was sent, when whoever said it could go on, and when it was handled."""
        assert self.says.stdin
        self.says.stdin.write(json.dumps(asdict(order)).encode() + b"\n")
        async with asyncio.timeout(LOST_SECONDS):
            said, handled = await asyncio.gather(line(self.says), line(self.hears))
        return said["sent"], said["returned"], handled


@dataclass(frozen=True)
class Way:
    name: str
    pair: Pair
    way: str
    burst: int
    """How many facts are said at once."""

    async def measure(self, round_number: int) -> Figures:
        """Milliseconds from saying to handled, and until whoever says it may go on; facts handled per second of a burst."""
        name = f"{self.name}-{round_number}"
        sent, returned, handled = await self.pair.tell(Order(self.way, f"{name}-paced", PACED, pause=True))
        took = [(end - start) / MS for start, end in zip(sent, handled, strict=True)]
        waited = [(end - start) / MS for start, end in zip(sent, returned, strict=True)]
        (start,), _, handled = await self.pair.tell(Order(self.way, f"{name}-burst", self.burst, pause=False))
        return {
            "p50_ms": statistics.median(took),
            "p99_ms": statistics.quantiles(took, n=100)[98],
            "call_p50_ms": statistics.median(waited),
            "events_per_s": self.burst / ((max(handled) - start) / 1e9),
        }


async def line(process: Process) -> Any:
    assert process.stdout
    if not (told := await process.stdout.readline()):
        raise SystemExit(f"a process of the benchmark ended with {await process.wait()}")
    return json.loads(told)


async def started(side: str, job: str, argument: str) -> Process:
    command = (sys.executable, "-m", f"bench.events.{side}", job, argument)
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdin=PIPE, stdout=PIPE, limit=LINE_BYTES)
    assert process.stdout and (await process.stdout.readline()).strip() == b"ready"
    return process


@asynccontextmanager
async def pairs(address: str, worlds: Mapping[str, Mapping[str, str]]) -> AsyncIterator[Mapping[str, Pair]]:
    """Two processes for bare kafka-python on the broker at this address, and two for each world's settings."""
    asked = {"bare": ("bare", address), **{name: ("ours", json.dumps(world)) for name, world in worlds.items()}}
    await asyncio.to_thread(ensure, link([address], KafkaOptions()), [TOPIC])
    made: dict[str, Pair] = {}
    try:
        for name, (side, argument) in asked.items():
            hears = await started(side, "hear", argument)
            made[name] = Pair(await started(side, "say", argument), hears)
        yield made
    finally:
        for pair in made.values():
            for process in (pair.says, pair.hears):
                process.kill()
                await process.wait()
