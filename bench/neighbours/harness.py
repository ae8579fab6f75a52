"""A platform with well-behaved callers, the attackers one after the other, and what the callers and the services felt."""

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kafka import KafkaProducer

from bench.neighbours.attacks import ATTACKS
from bench.neighbours.memory import resident
from millstream import Client, Credentials
from millstream.defaults import SERVICES, TOPICS
from servicekit.bus.port import Message
from tests.e2e import scenario
from tests.worlds.platform import ROOT, World, publish, wait_until, world

QUIET_SECONDS = 20.0
SETTLE_SECONDS = 60.0
"""For memory to come back after an attack."""
GROWTH_BYTES, KEPT_BYTES = 200 << 20, 100 << 20
LARGE_ROWS = 200_000
MALFORMED = 200
OVERSIZE = 1_040_000
TOKENS = "s-secret services operator\nw-secret well-behaved writer\n"
OPERATOR = Credentials(token="s-secret")


@dataclass
class Felt:
    """One phase: the callers' figures, and each service's memory in bytes before it, at most during it, and after it."""

    name: str
    figures: dict[str, Any]
    before: dict[str, int]
    most: dict[str, int]
    after: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        memory = {
            service: {
                "before_mb": self.before[service] >> 20,
                "most_mb": self.most[service] >> 20,
                "after_mb": self.after[service] >> 20,
            }
            for service in SERVICES
        }
        return {**self.figures, "memory": memory}

    def problems(self) -> list[str]:
        """What broke the promise, apart from times."""
        found = [f"{self.name}: {text}" for text in self.figures["failed"]]
        for service in SERVICES:
            grown, kept = self.most[service] - self.before[service], self.after[service] - self.before[service]
            if grown > GROWTH_BYTES:
                found.append(f"{self.name}: {service} grew by {grown >> 20} MB")
            if kept > KEPT_BYTES:
                found.append(f"{self.name}: {service} kept {kept >> 20} MB")
        return found


class Callers:
    """The process of the well-behaved callers."""

    def __init__(self, platform: World, run_id: str) -> None:
        given = {
            "addresses": platform.addresses, "token": platform.credentials.token,
            "model": scenario.MODEL, "dataset": scenario.DATASET, "run_id": run_id,
        }  # fmt: skip
        command = [sys.executable, "-m", "bench.neighbours.callers", json.dumps(given)]
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def begin(self, name: str) -> dict[str, Any]:
        """Begin a phase; returns the figures of the one that it ends."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(f"{name}\n")
        self.process.stdin.flush()
        return dict(json.loads(self.process.stdout.readline()))

    def end(self) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()


def phases(state: Path, kind: str, seconds: float) -> Iterator[Felt]:
    """The quiet, then each attack for about this many seconds, in the world `local` or `kafka-minio`."""
    with _platform(state, kind) as platform:
        run_id = _prepare(platform)
        callers = Callers(platform, run_id)
        try:
            attacks: dict[str, Callable[[], None]] = {"quiet": lambda: time.sleep(QUIET_SECONDS)}
            attacks |= {name: lambda name=name: _attack(platform, name, seconds) for name in ATTACKS}  # type: ignore[misc]
            attacks["malformed messages"] = lambda: _publish_garbage(platform, kind, seconds)
            attacks["a model that cannot be loaded"] = lambda: _promote_broken(platform, seconds)
            callers.begin("warm-up")
            time.sleep(5)
            for name, attack in attacks.items():
                yield _phase(platform, callers, name, attack)
        finally:
            callers.end()


@contextmanager
def _platform(state: Path, kind: str) -> Iterator[World]:
    state.mkdir(parents=True, exist_ok=True)
    (state / "tokens").write_text(TOKENS)
    (state / "token").write_text(f"{OPERATOR.token}\n")
    settings = {"tokens_file": str(state / "tokens"), "token_file": str(state / "token")}
    with world(state / "state", settings=settings, credentials=Credentials(token="w-secret"), kind=kind) as platform:
        yield platform


def _prepare(platform: World) -> str:
    """A served model and a large dataset; returns the run of the model."""
    with tempfile.TemporaryDirectory() as folder:
        scenario.run(platform, scenario.a_file(Path(folder)))
        large = Path(folder) / "large.jsonl"
        with large.open("w") as file:
            for number in range(LARGE_ROWS):
                file.write(json.dumps({"text": f"row {number} {'word ' * 20}", "label": "ab"[number % 2]}) + "\n")
        with platform.client() as client:
            client.import_dataset(large, "large", recipe=scenario.SPEC["recipe"], request_id="large")
            client.wait_import("large", "large", timeout=300)
            return next(iter(client.runs(scenario.MODEL))).run_id


def _phase(platform: World, callers: Callers, name: str, attack: Callable[[], None]) -> Felt:
    before = _memory(platform)
    most = dict(before)
    callers.begin(name)
    with _watched(platform, most):
        attack()
    figures = callers.begin("between")
    after = _memory(platform)
    end = time.monotonic() + SETTLE_SECONDS
    while any(after[s] - before[s] > KEPT_BYTES for s in SERVICES) and time.monotonic() < end:
        time.sleep(1)
        after = _memory(platform)
    return Felt(name, figures, before, most, after)


@contextmanager
def _watched(platform: World, most: dict[str, int]) -> Iterator[None]:
    """Keep the most memory of each service meanwhile."""
    watch = subprocess.Popen(
        [sys.executable, "-m", "bench.neighbours.memory", json.dumps({s: platform.pids(s) for s in SERVICES})],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield
    finally:
        output, _ = watch.communicate()
        for service, size in json.loads(output).items():
            most[service] = max(most[service], size)


def _memory(platform: World) -> dict[str, int]:
    return {service: sum(resident(pid) for pid in platform.pids(service)) for service in SERVICES}


def _attack(platform: World, name: str, seconds: float) -> None:
    given = {
        "addresses": platform.addresses, "token": platform.credentials.token,
        "model": scenario.MODEL, "dataset": scenario.DATASET, "seconds": seconds,
    }  # fmt: skip
    command = [sys.executable, "-m", "bench.neighbours.attacks", name, json.dumps(given)]
    attacker = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        attacker.wait(seconds * 4 + 60)
    except subprocess.TimeoutExpired:
        attacker.kill()
        attacker.wait()


def _publish_garbage(platform: World, kind: str, seconds: float) -> None:
    """Malformed messages on every topic; on Kafka also some that are too large to bury whole."""
    publish(platform, *(Message(topic.name, f"{n}", b"\xff" * 1000) for topic in TOPICS for n in range(MALFORMED)))
    if kind == "kafka-minio":
        producer = KafkaProducer(
            bootstrap_servers=platform.settings["bus"].removeprefix("kafka:"), max_request_size=2 << 20
        )
        for topic in TOPICS:
            for number in range(4):
                producer.send(platform.settings["kafka_prefix"] + topic.name, b"\xff" * OVERSIZE, key=b"%d" % number)
        producer.flush(30)
        producer.close()
    time.sleep(seconds)


def _promote_broken(platform: World, seconds: float) -> None:
    """A version whose stored artifact is damaged becomes champion of another model, by hand."""
    name = f"broken-{time.monotonic_ns()}"
    with platform.client() as client:
        spec: Mapping[str, Any] = {**scenario.SPEC, "model": name, "promotion": {"automatic": False}}
        client.apply_model({**spec, "training": {"automatic": False}})
        client.wait_run(client.train(name).run_id, timeout=120)
        wait_until(lambda: list(client.versions(name)), "the version is registered", 60)
        version = client.version(name, 1)
        blobs = platform.blobs()
        key = f"artifacts/{version.artifact.digest}/files/model.json"

        async def damage() -> None:
            assert await blobs.exists(key), key
            await blobs.put(key, b"{}")

        asyncio.run(damage())
    with Client(credentials=OPERATOR, **platform.addresses) as operator:  # type: ignore[arg-type]
        operator.promote(name, 1, override="to see what a broken version does")
    time.sleep(seconds)
