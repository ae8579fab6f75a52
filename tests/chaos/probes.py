"""Whether events flow, by the services' own counters.

Reading is probed with events of an unknown type on every partition. Publishing is probed with a model whose dataset never
exists: registry publishes its spec, and trainer reads that.
"""

import asyncio
import time
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

from millstream.errors import MillstreamError
from servicekit.bus.port import Bus, Message
from servicekit.runtime.backends import open_bus
from servicekit.runtime.settings import Settings
from tests.chaos.target import Platform

KEYS = [f"probe-{number}" for number in range(7)]
"""With these, every partition of four gets a message, by Kafka's hash and by SqliteBus's."""
TOPICS: Mapping[str, Sequence[str]] = {
    "trainer": ("millstream.dataset.v1", "millstream.registry.v1", "millstream.training.v1"),
    "registry": ("millstream.evaluation.v1", "millstream.registry.v1", "millstream.training.v1"),
    "evaluator": ("millstream.registry.v1",),
    "inference": ("millstream.registry.v1",),
}
"""What each reader reads (tests/chaos/test_plan.py compares it with the services' handlers)."""
TIMES = {"duplicating": 3}
UNKNOWN = "millstream_events_unknown_total"
APPLIED = 'millstream_events_handled_total{type="ModelApplied"}'
MODEL = "probe"
PUBLISH_SECONDS = 20.0
POLL_SECONDS, AGAIN_SECONDS = 0.02, 3.0
"""A reader without a group that restarts begins at the end of the log and misses earlier messages: publish again."""


def flowing(platform: Platform, readers: Sequence[str], timeout: float) -> float | None:
    """Seconds until events are published and read again; None at the timeout."""
    with ThreadPoolExecutor() as pool:
        probes = [pool.submit(reading, platform, readers, timeout)]
        if "registry" in readers:
            probes.append(pool.submit(publishing, platform, timeout))
        took = [probe.result() for probe in probes]
    return None if None in took else max(seconds for seconds in took if seconds is not None)


def publishing(platform: Platform, timeout: float) -> float | None:
    """Apply a model; returns the seconds until a trainer has handled its event, None at the timeout."""
    began = time.monotonic()
    spec = {"model": MODEL, "recipe": "toy_words", "preset": "toy", "dataset": MODEL, "training": {"automatic": False}}
    with platform.world.client() as client:
        while time.monotonic() - began < timeout:
            before = sum(_read(platform, "trainer", APPLIED))
            try:
                client.apply_model({**spec, "config": {"seed": time.monotonic_ns() % 1_000_000}})
            except MillstreamError:
                time.sleep(POLL_SECONDS)
                continue
            again = time.monotonic() + AGAIN_SECONDS
            while time.monotonic() < again:
                if sum(_read(platform, "trainer", APPLIED)) > before:
                    return time.monotonic() - began
                time.sleep(POLL_SECONDS)
    return None


def reading(platform: Platform, readers: Sequence[str], timeout: float) -> float | None:
    """Publish on every partition; returns the seconds until all readers have read all of it, None at the timeout."""
    began = time.monotonic()
    while time.monotonic() - began < timeout:
        before = {reader: _read(platform, reader, UNKNOWN) for reader in readers}
        try:
            asyncio.run(_publish(platform, sorted({topic for reader in readers for topic in TOPICS[reader]})))
        except (MillstreamError, TimeoutError):
            continue
        if _wait(platform, before):
            return time.monotonic() - began
    return None


def _wait(platform: Platform, before: Mapping[str, Sequence[float]]) -> bool:
    """Whether all was read in time. False may mean that a reader has restarted, and its counter with it."""
    times = TIMES.get(platform.world.environment.get("TEST_BUS", ""), 1)
    end = time.monotonic() + AGAIN_SECONDS
    left = dict(before)
    while left and time.monotonic() < end:
        for reader, counts in list(left.items()):
            grown = [now - then for now, then in zip(_read(platform, reader, UNKNOWN), counts, strict=True)]
            # A group shares the partitions; inference's replicas read all of them, each.
            least = min(grown) if reader == "inference" else sum(grown)
            if least >= times * len(KEYS) * len(TOPICS[reader]):
                del left[reader]
        time.sleep(POLL_SECONDS)
    return not left


async def _publish(platform: Platform, topics: Sequence[str]) -> None:
    bus = open_bus(Settings(bus=platform.bus))
    try:
        async with asyncio.timeout(PUBLISH_SECONDS):
            for topic in topics:
                await asyncio.gather(*(_publish_unknown(bus, topic, key) for key in KEYS))
    finally:
        await bus.close()


async def _publish_unknown(bus: Bus, topic: str, key: str) -> None:
    """An event of a type that no version knows: counted and skipped."""
    headers = {"ce_specversion": "1.0", "ce_id": str(uuid4()), "ce_type": "millstream.Probe", "ce_source": "/chaos"}
    await bus.publish(Message(topic, key, b"", {name: value.encode() for name, value in headers.items()}))


def _read(platform: Platform, reader: str, counter: str) -> list[float]:
    """A counter of each replica; 0 for one that does not answer."""
    ports = platform.world.ports
    return [_count(ports.metrics(reader, number), counter) for number in range(ports.replicas)]


def _count(address: str, counter: str) -> float:
    try:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
    except OSError:
        return 0.0
    return sum(float(line.removeprefix(counter)) for line in lines if line.startswith(f"{counter} "))
