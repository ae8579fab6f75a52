"""Well-behaved callers at a steady rate on every service, in a process of their own.

`python -m bench.neighbours.callers JSON`. Each line on stdin names a phase, and ends the one before, whose figures are
printed as one JSON line.
"""

import asyncio
import json
import random
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from millstream import AsyncClient, Credentials
from millstream.errors import MillstreamError

CALLERS = 16
"""On each service."""
PAUSE_SECONDS = 1.0
"""Between two calls of one caller."""
HEALTH_PAUSE_SECONDS = 0.5
SERVING = health_pb2.HealthCheckResponse.SERVING


@dataclass
class Phase:
    """What the callers saw while one attacker was at work. Seconds by service."""

    name: str
    calls: dict[str, list[float]] = field(default_factory=dict)
    health: dict[str, list[float]] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        """By service: the number of calls, their median and longest seconds, and the longest of the health checks."""
        services = {
            service: {
                "calls": len(seconds),
                "p50": round(statistics.median(seconds), 4),
                "longest": round(max(seconds), 3),
                "health_longest": round(max(self.health.get(service, [0.0])), 3),
            }
            for service, seconds in self.calls.items()
        }
        return {"phase": self.name, "services": services, "failed": self.failed}


class Callers:
    """All callers of one platform."""

    def __init__(self, addresses: Mapping[str, str], token: str, model: str, dataset: str, run_id: str) -> None:
        self.addresses = addresses
        self.client = AsyncClient(credentials=Credentials(token=token), **addresses)  # type: ignore[arg-type]
        self.phase = Phase("start")
        client = self.client
        self.calls: Mapping[str, Callable[[], Awaitable[object]]] = {
            "inference": lambda: client.classify(model, ["the mill was kind and sweet"]),
            "registry": lambda: client.model(model),
            "trainer": lambda: client.run(run_id),
            "evaluator": lambda: _first(client.reports(model)),
            "dataprep": lambda: client.dataset(dataset),
        }

    async def run(self) -> None:
        """Call until stdin ends."""
        tasks = [asyncio.create_task(self._call(name)) for name in self.calls for _ in range(CALLERS)]
        tasks += [asyncio.create_task(self._check(name)) for name in self.calls]
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            for task in tasks:
                if task.done():
                    task.result()
            ended, self.phase = self.phase, Phase(line.strip())
            print(json.dumps(ended.figures()), flush=True)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.client.close()

    async def _call(self, service: str) -> None:
        await asyncio.sleep(random.uniform(0, PAUSE_SECONDS))
        while True:
            phase, began = self.phase, time.perf_counter()
            try:
                await self.calls[service]()
            except MillstreamError as error:
                phase.failed.append(f"{service}: {type(error).__name__}: {error}"[:300])
            phase.calls.setdefault(service, []).append(time.perf_counter() - began)
            await asyncio.sleep(PAUSE_SECONDS)

    async def _check(self, service: str) -> None:
        async with aio.insecure_channel(self.addresses[service]) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            while True:
                phase, began = self.phase, time.perf_counter()
                try:
                    answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=30, wait_for_ready=True)
                    if answer.status != SERVING:
                        phase.failed.append(f"{service}: not serving")
                except aio.AioRpcError as error:
                    phase.failed.append(f"{service}: health: {error.code().name}")
                phase.health.setdefault(service, []).append(time.perf_counter() - began)
                await asyncio.sleep(HEALTH_PAUSE_SECONDS)


async def _first(reports: Any) -> object:
    async for report in reports:
        return report
    return None


async def main() -> None:
    """Call the platform that the argument names."""
    await Callers(**json.loads(sys.argv[1])).run()


if __name__ == "__main__":
    asyncio.run(main())
