"""What a platform costs once it holds much: idle, at its start, in memory and by request, beside one that holds little.

`python -m bench.growth [--sizes 100,1000,10000] [--world local] [--seconds 60]`: for each size a platform is started on a
store that holds so many runs, versions and imports (state.py). The first keeps running, and each call is made to it and to
the other in turn, since a machine is not equally fast for minutes. `RATIO growth_…` is the worst of the largest size over
the smallest: of all services for idle CPU, start and memory, of all calls for requests.
"""

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import grpc

from bench.growth.state import ALIAS, DATASET, MODEL, Grown, Size, into_folder, into_store
from bench.neighbours.memory import resident
from millstream import Client
from millstream.defaults import SERVICES
from millstream.registry.v1.registry_service_pb2 import ListModelVersionsRequest
from millstream.registry.v1.registry_service_pb2_grpc import RegistryServiceStub
from millstream.training.v1.training_service_pb2 import ListTrainingRunsRequest
from millstream.training.v1.training_service_pb2_grpc import TrainingServiceStub
from tests.recipes.toy_words.sample import rows
from tests.worlds.platform import World, wait_until, world

T = TypeVar("T")
CALLS, TRAININGS, PAGE = 200, 3, 50
SETTLED_SECONDS = 600
TICKS = 100
"""Of /proc/{pid}/stat in a second (sysconf SC_CLK_TCK on Linux)."""


def cpu_seconds(pid: int) -> float:
    """User and system time of a process."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / TICKS


def metric_lines(platform: World, service: str) -> list[str]:
    """What a service shows at /metrics."""
    url = f"http://{platform.ports.metrics(service, 0)}/metrics"
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode()).splitlines()


def resynced(platform: World, service: str) -> bool:
    """Whether each kind of work has been compared in full."""
    kinds: dict[str, set[str]] = {"millstream_work_queued": set(), "millstream_work_resynced_timestamp_seconds": set()}
    for line in metric_lines(platform, service):
        name, _, rest = line.partition("{")
        if name in kinds:
            kinds[name].add(rest.partition("}")[0])
    kinds_of_work, compared = kinds.values()
    return bool(kinds_of_work) and kinds_of_work <= compared


def store_calls(platform: World, service: str) -> float:
    """Calls of a service to the store since its start."""
    return sum(
        float(line.split()[-1])
        for line in metric_lines(platform, service)
        if line.startswith("millstream_blobs_calls_total")
    )


def p50_ms(*calls: Callable[[], object]) -> list[float]:
    """Medians of many calls that are made in turn, after some that fill the caches."""
    figures: list[list[float]] = [[] for _ in calls]
    for turn in range(10 + CALLS):
        for call, found in zip(calls, figures, strict=True):
            began = time.perf_counter()
            call()
            if turn >= 10:
                found.append(1000 * (time.perf_counter() - began))
    return [statistics.median(found) for found in figures]


def first(items: Iterable[T]) -> T:
    """The first of some items, such as of a listing's first page."""
    return next(iter(items))


def requests(grown: "Running") -> dict[str, Callable[[], object]]:
    """The calls by name; a page has as many items at every size."""
    client, middle = grown.client, grown.size.runs // 2
    moment = client.alias(MODEL, ALIAS).time.ToDatetime(UTC)
    registry = RegistryServiceStub(grpc.insecure_channel(grown.platform.addresses["registry"]))
    trainer = TrainingServiceStub(grpc.insecure_channel(grown.platform.addresses["trainer"]))
    versions = ListModelVersionsRequest(model=MODEL, page_size=PAGE)
    runs = ListTrainingRunsRequest(model=MODEL, page_size=PAGE)
    return {
        "GetModelVersion": lambda: client.version(MODEL, middle),
        "ListModelVersions": lambda: registry.ListModelVersions(versions),
        "ListTrainingRuns": lambda: trainer.ListTrainingRuns(runs),
        "AliasAt": lambda: client.alias_at(MODEL, moment, ALIAS),
        "GetSnapshot": lambda: client.snapshot(DATASET),
    }


def asked_to_registered(client: Client, folder: Path) -> float:
    """Median seconds from a request for a run to its version, on rows of the toy recipe."""
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows(60, seed=1)))
    asked = client.import_dataset(file, "bench", recipe="toy_words")
    client.wait_import("bench", asked.request_id, timeout=60)
    client.apply_model(
        {"model": MODEL, "recipe": "toy_words", "preset": "toy", "dataset": "bench", "config": {"steps": 1}}
    )
    figures = []
    for _ in range(TRAININGS):
        began = time.perf_counter()
        registered = partial(_is_newest, client, client.train(MODEL).run_id)
        wait_until(registered, "its version")
        figures.append(time.perf_counter() - began)
    return statistics.median(figures)


def _is_newest(client: Client, run_id: str) -> bool:
    return first(client.versions(MODEL)).run_id == run_id


@dataclass(frozen=True)
class Running:
    """A platform that holds much; `start` is the seconds to ready."""

    size: Size
    platform: World
    client: Client
    objects: int
    start: float


@contextmanager
def running(kind: str, size: Size) -> Iterator[Running]:
    """Start a platform on a store of this size."""
    objects = asyncio.run(Grown(size).make())
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder) / "state"
        if kind == "local":
            into_folder(objects, state / "blobs")
            os.sync()  # what the machine has still to write is no cost of the platform
        with world(state, kind=kind) as platform:
            platform.stop()
            if kind != "local":
                asyncio.run(into_store(objects, platform.blobs()))
            began = time.perf_counter()
            platform.start()
            start = time.perf_counter() - began
            with platform.client() as client:
                yield Running(size, platform, client, len(objects), start)


def measured(grown: Running, beside: Running, seconds: float) -> dict[str, Any]:
    """The figures of one platform; its calls are made in turn with those of the smallest."""
    platform, began = grown.platform, time.perf_counter()
    wait_until(lambda: all(resynced(platform, s) for s in SERVICES), "all was compared", SETTLED_SECONDS)
    compared = time.perf_counter() - began
    time.sleep(5)
    pids = {service: platform.pids(service)[0] for service in SERVICES}
    cpu = {service: cpu_seconds(pids[service]) for service in SERVICES}
    calls = {service: store_calls(platform, service) for service in SERVICES}
    time.sleep(seconds)
    idle = {service: (cpu_seconds(pids[service]) - cpu[service]) / seconds for service in SERVICES}
    idle_calls = {service: (store_calls(platform, service) - calls[service]) / seconds for service in SERVICES}
    own, smallest = requests(grown), requests(beside)
    p50 = {name: p50_ms(own[name], smallest[name]) for name in own}
    memory = {service: resident(pids[service]) / 1e6 for service in SERVICES}
    return {
        "objects": grown.objects,
        "start": grown.start,
        "compared_seconds": compared,
        "idle_cpu": idle,
        "idle_store_calls": idle_calls,
        "memory_mb": memory,
        "p50_ms": {name: found[0] for name, found in p50.items()},
        "p50_ms_of_smallest": {name: found[1] for name, found in p50.items()},
        "asked_to_registered": asked_to_registered(grown.client, platform.state),
    }


def worst(large: Mapping[str, float], small: Mapping[str, float], least: float = 0.0) -> float:
    """The greatest ratio of two figures by the same name; figures below `least` count as that."""
    return max(max(large[name], least) / max(small[name], least) for name in small)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", default="100,1000,10000")
    parser.add_argument("--world", default="local")
    parser.add_argument("--seconds", type=float, default=60.0)
    options = parser.parse_args()
    sizes = [int(text) for text in options.sizes.split(",")]
    results = {}
    with running(options.world, Size(sizes[0])) as smallest:
        for runs in sizes:
            others = running(options.world, Size(runs)) if runs != sizes[0] else nullcontext(smallest)
            with others as grown:
                results[runs] = measured(grown, smallest, options.seconds)
            print(json.dumps({runs: results[runs]}), flush=True)
    small, large = results[sizes[0]], results[sizes[-1]]
    print(f"RATIO growth_idle_cpu {worst(large['idle_cpu'], small['idle_cpu'], 0.002):.2f}")
    print(f"RATIO growth_start {max(0.0, large['start'] - 3) / small['start']:.2f}")
    print(f"RATIO growth_memory {worst(large['memory_mb'], small['memory_mb']):.2f}")
    print(f"RATIO growth_request {worst(large['p50_ms'], large['p50_ms_of_smallest']):.2f}")
    file = Path(__file__).parent / "results.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(
        json.dumps({**known, options.world: {"at": datetime.now(UTC).isoformat(), **results}}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
