"""Measure SqliteBus between real processes: `python -m bench.bus [--out results.json]`, about 35 s.

Claims: a waiting subscriber wakes within 50 ms (p99) of a publish by another process; an idle bus costs at most 1 % of a
core although five services renew their leases on the same file; a killed member's partitions have a new owner after
about 3 s. Times are CLOCK_MONOTONIC, which all processes of a host share. A line reads `RATIO name value limit`: value
as a share of what is allowed, so that below 1 is kept.
"""

import argparse
import asyncio
import json
import os
import random
import statistics
import sys
import tempfile
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping
from pathlib import Path

from servicekit.bus.port import Message
from servicekit.bus.sqlite.bus import SqliteBus

WAKES = 300
IDLE_SECONDS = 10.0
SERVICES = 5
KILLS = 3
MESSAGES = 5000
LIMITS = {"wakeup_p50_ms": 50.0, "wakeup_p99_ms": 50.0, "idle_core_percent": 1.0, "takeover_max_s": 3.5}


async def child(job: str, path: Path) -> Process:
    return await asyncio.create_subprocess_exec(sys.executable, "-m", "bench.bus", "--job", job, str(path), stdout=PIPE)


async def line(process: Process) -> str:
    assert process.stdout
    return (await process.stdout.readline()).decode().strip()


async def publish_now_and_then(path: Path) -> None:
    """Each message holds the time before its publish. Pauses are longer than a poll of the bus."""
    bus = SqliteBus(path)
    for _ in range(WAKES):
        await asyncio.sleep(random.uniform(0.025, 0.06))
        await bus.publish(Message("wake", "key", repr(time.monotonic()).encode()))
    await bus.close()


async def idle(path: Path) -> None:
    """Subscribe as a service does while nothing happens; print the share of a core in percent."""
    bus = SqliteBus(path)
    member, tail = bus.subscribe("idle", ["idle"]), bus.tail(["idle"])
    waits = [asyncio.create_task(subscription.batch()) for subscription in (member, tail)]
    await asyncio.sleep(1)
    started, used = time.monotonic(), time.process_time()
    await asyncio.sleep(IDLE_SECONDS)
    print(100 * (time.process_time() - used) / (time.monotonic() - started), flush=True)
    for wait in waits:
        wait.cancel()
    await bus.close()


async def hold(path: Path) -> None:
    subscription = SqliteBus(path).subscribe("takeover", ["takeover"])
    await subscription.start()
    print("started", flush=True)
    while True:
        await subscription.batch()
        print("holds", flush=True)


async def wakeup(folder: Path) -> Mapping[str, float]:
    bus = SqliteBus(folder / "wakeup")
    member = bus.subscribe("group", ["wake"])
    await member.start()
    publisher = await child("publish", folder / "wakeup")
    took: list[float] = []
    while len(took) < WAKES:
        messages = await member.batch()
        now = time.monotonic()
        took += [1000 * (now - float(message.value)) for message in messages]
        await member.commit()
    await publisher.wait()
    await bus.close()
    cuts = statistics.quantiles(took, n=100)
    return {"wakeup_p50_ms": cuts[49], "wakeup_p99_ms": cuts[98], "wakeup_max_ms": max(took)}


async def idleness(folder: Path) -> Mapping[str, float]:
    services = [await child("idle", folder / "idle") for _ in range(SERVICES)]
    shares = [float(await line(service)) for service in services]
    for service in services:
        await service.wait()
    return {"idle_core_percent": statistics.mean(shares), "idle_core_percent_max": max(shares)}


async def takeover(folder: Path) -> Mapping[str, float]:
    """From kill -9 until the survivor has every message that the dead one held."""
    took = []
    for attempt in range(KILLS):
        path = folder / f"takeover-{attempt}"
        bus = SqliteBus(path)
        doomed = await child("hold", path)
        await line(doomed)
        member = bus.subscribe("takeover", ["takeover"])
        await member.start()
        for key in range(40):
            await bus.publish(Message("takeover", str(key), b""))
        await line(doomed)
        doomed.kill()
        killed = time.monotonic()
        found: set[str] = set()
        while len(found) < 40:
            found |= {message.key for message in await member.batch()}
        took.append(time.monotonic() - killed)
        await doomed.wait()
        await bus.close()
    return {"takeover_mean_s": statistics.mean(took), "takeover_max_s": max(took)}


async def throughput(folder: Path) -> Mapping[str, float]:
    bus = SqliteBus(folder / "throughput")
    started = time.monotonic()
    for number in range(MESSAGES):
        await bus.publish(Message("topic", f"key-{number % 100}", b"x" * 300))
    published = time.monotonic()
    member = bus.subscribe("group", ["topic"])
    count = 0
    while count < MESSAGES:
        count += len(await member.batch())
        await member.commit()
    read = time.monotonic()
    await bus.close()
    return {"publish_per_s": MESSAGES / (published - started), "read_per_s": MESSAGES / (read - published)}


async def measure(out: Path) -> None:
    results: dict[str, float] = {"load_per_core": os.getloadavg()[0] / (os.cpu_count() or 1)}
    for part in (wakeup, idleness, takeover, throughput):
        with tempfile.TemporaryDirectory() as folder:
            results |= await part(Path(folder))
    for name, value in results.items():
        print(f"{name} {value:.2f}")
    for name, limit in LIMITS.items():
        print(f"RATIO {name} {results[name] / limit:.3f} of {limit:g}")
    out.write_text(json.dumps({"results": results, "limits": LIMITS}, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results.json"))
    parser.add_argument("--job", nargs=2, metavar=("JOB", "PATH"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        jobs = {"publish": publish_now_and_then, "idle": idle, "hold": hold}
        asyncio.run(jobs[options.job[0]](Path(options.job[1])))
    else:
        asyncio.run(measure(options.out))


if __name__ == "__main__":
    main()
