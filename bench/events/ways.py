"""The paths of an event, each by two processes: one publishes, one handles."""

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
from bench.events.workload import Round
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
    """A publishing and a handling process."""

    publisher: Process
    handler: Process

    async def play(self, round_: Round) -> tuple[Sequence[int], Sequence[int], Sequence[int]]:
        """When each publish began, when it returned, and when its event was handled, in nanoseconds."""
        assert self.publisher.stdin
        self.publisher.stdin.write(json.dumps(asdict(round_)).encode() + b"\n")
        async with asyncio.timeout(LOST_SECONDS):
            published, handled = await asyncio.gather(line(self.publisher), line(self.handler))
        return published["sent"], published["returned"], handled


@dataclass(frozen=True)
class Way:
    """One path that is measured."""

    name: str
    pair: Pair
    way: str
    burst: int
    """How many events are published at once."""

    async def measure(self, round_number: int) -> Figures:
        """Milliseconds from publish to handled, and until the publish returns; events handled per second of a burst."""
        name = f"{self.name}-{round_number}"
        sent, returned, handled = await self.pair.play(Round(self.way, f"{name}-paced", PACED, pause=True))
        took = [(end - start) / MS for start, end in zip(sent, handled, strict=True)]
        waited = [(end - start) / MS for start, end in zip(sent, returned, strict=True)]
        (start,), _, handled = await self.pair.play(Round(self.way, f"{name}-burst", self.burst, pause=False))
        return {
            "p50_ms": statistics.median(took),
            "p99_ms": statistics.quantiles(took, n=100)[98],
            "call_p50_ms": statistics.median(waited),
            "events_per_s": self.burst / ((max(handled) - start) / 1e9),
        }


async def line(process: Process) -> Any:
    assert process.stdout
    if not (printed := await process.stdout.readline()):
        raise SystemExit(f"a process of the benchmark ended with {await process.wait()}")
    return json.loads(printed)


async def started(side: str, job: str, argument: str) -> Process:
    command = (sys.executable, "-m", f"bench.events.{side}", job, argument)
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdin=PIPE, stdout=PIPE, limit=LINE_BYTES)
    assert process.stdout and (await process.stdout.readline()).strip() == b"ready"
    return process


@asynccontextmanager
async def pairs(address: str, worlds: Mapping[str, Mapping[str, str]]) -> AsyncIterator[Mapping[str, Pair]]:
    """Two processes for bare kafka-python on the broker at this address, and two for each world's settings."""
    peers = {"bare": ("bare", address), **{name: ("ours", json.dumps(world)) for name, world in worlds.items()}}
    await asyncio.to_thread(ensure, link([address], KafkaOptions()), [TOPIC])
    made: dict[str, Pair] = {}
    try:
        for name, (side, argument) in peers.items():
            handler = await started(side, "handle", argument)
            made[name] = Pair(await started(side, "publish", argument), handler)
        yield made
    finally:
        for pair in made.values():
            for process in (pair.publisher, pair.handler):
                process.kill()
                await process.wait()
