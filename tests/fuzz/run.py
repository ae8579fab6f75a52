"""Fuzzing of a running platform: cases for some seconds, then what they did to logs, memory, descriptors and health."""

import json
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from grpc_health.v1 import health_pb2, health_pb2_grpc

from deploy.demo.flow import Flow
from millstream.channel import open_sync_channel
from millstream.defaults import SERVICES
from tests.fuzz.events import Events
from tests.fuzz.files import Commands, Imports
from tests.fuzz.rpcs import Rpcs
from tests.recipes.toy_words.sample import rows
from tests.worlds.platform import World, world

WEIGHTS = {"rpc": 80, "event": 5, "import": 5, "command": 10}
"""How often each kind of case comes."""
WARM_CASES = 200
"""After which growth is measured."""
MOST_GROWTH_MB, MOST_DESCRIPTORS = 200, 100
HEALTH_SECONDS = 5.0
MODEL = {
    "model": "toy",
    "dataset": "words",
    "recipe": "toy_words",
    "preset": "toy",
    "training": {"automatic": True},
    "promotion": {"automatic": True},
}


NAMES = {
    "model": ["toy"],
    "dataset": ["words"],
    "split": ["train", "test", "quarantine"],
    "alias": ["champion", ""],
    "text": ["a bright mill"],
    "texts": ["a bright mill", "a dull wheel"],
    "label": ["good", "bad"],
    "recipe": ["toy_words", ""],
    "preset": ["toy", ""],
    "metric": ["accuracy"],
    "page_token": [""],
    "service": ["", "readiness"],
}
"""Values that exist, by the name of a field; the ids of what the platform makes come beside."""


class Kind(Protocol):
    """One kind of cases."""

    def run(self, rng: random.Random) -> str:
        """Do one case. Returns what is wrong; "" if nothing is."""
        ...


@dataclass
class Result:
    """What a run of the fuzzer found."""

    cases: dict[str, int] = field(default_factory=dict)
    answers: dict[str, int] = field(default_factory=dict)
    """Of RPCs, by status."""
    findings: list[str] = field(default_factory=list)
    grown_mb: dict[str, float] = field(default_factory=dict)
    grown_descriptors: dict[str, int] = field(default_factory=dict)


class Fuzzer:
    """Cases by kind and number; each has a source of randomness of its own, so that one can be repeated alone."""

    def __init__(self, platform: World, rpcs: Rpcs, others: dict[str, Kind], seed: int) -> None:
        self.platform, self.rpcs, self.seed = platform, rpcs, seed
        self.kinds: dict[str, Kind] = {"rpc": rpcs, **others}
        self.result = Result()
        self._sizes: dict[str, tuple[float, int]] = {}

    def run(self, seconds: float) -> Result:
        """Cases for so many seconds, and the checks after them."""
        order, ends, number = random.Random(self.seed), time.monotonic() + seconds, 0
        while time.monotonic() < ends:
            kind = order.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
            self.case(kind, number)
            number += 1
            if number == WARM_CASES:
                self._sizes = self._measured()
            if number % 100 == 0:
                self._check_health(f"after case {number}")
        self.result.answers = dict(self.rpcs.answers)
        self._check_health("at the end")
        self._check_growth()
        self._check_logs()
        return self.result

    def case(self, kind: str, number: int) -> None:
        """One case."""
        self.result.cases[kind] = self.result.cases.get(kind, 0) + 1
        found = self.kinds[kind].run(random.Random(f"{self.seed}/{kind}/{number}"))
        if found:
            self.result.findings.append(f"{kind}/{number}: {found[:1500]}")
            print(f"FUZZ {self.result.findings[-1]}", flush=True)

    def _check_health(self, when: str) -> None:
        for service, address in self.platform.addresses.items():
            with open_sync_channel(address) as channel:
                try:
                    stub: Any = health_pb2_grpc.HealthStub(channel)
                    answer = stub.Check(health_pb2.HealthCheckRequest(service="liveness"), timeout=HEALTH_SECONDS)
                    text = "" if answer.status == health_pb2.HealthCheckResponse.SERVING else "its liveness is lost"
                except Exception as error:
                    text = f"its health does not answer: {error}"
            if text:
                self.result.findings.append(f"{when}: {service}: {text}")

    def _measured(self) -> dict[str, tuple[float, int]]:
        """Resident memory in MB and open descriptors of each service."""
        sizes = {}
        for service in SERVICES:
            (pid,) = self.platform.pids(service)
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            sizes[service] = (pages * 4096 / 1e6, len(list(Path(f"/proc/{pid}/fd").iterdir())))
        return sizes

    def _check_growth(self) -> None:
        for service, (megabytes, descriptors) in self._measured().items():
            before = self._sizes.get(service, (megabytes, descriptors))
            self.result.grown_mb[service] = round(megabytes - before[0], 1)
            self.result.grown_descriptors[service] = descriptors - before[1]
            if megabytes - before[0] > MOST_GROWTH_MB or descriptors - before[1] > MOST_DESCRIPTORS:
                self.result.findings.append(
                    f"{service} grew from {before} to {megabytes, descriptors} (MB, descriptors)"
                )

    def _check_logs(self) -> None:
        for log in sorted((self.platform.state / "logs").glob("*.log")):
            for line in log.read_text(errors="replace").splitlines():
                if "Traceback" in line or '"rpc failed"' in line:
                    self.result.findings.append(f"{log.name}: {line[:1500]}")


@contextmanager
def fuzzing(folder: Path, seed: int) -> Iterator[Fuzzer]:
    """A platform that serves a model, and its fuzzer."""
    with world(folder / "platform", resync_seconds=5) as platform, platform.client() as client:
        sample = folder / "words.jsonl"
        sample.write_text("".join(json.dumps(row) + "\n" for row in rows()))
        flow = Flow(client)
        ended, snapshot = flow.bring_in(sample, "words", "toy_words")
        flow.apply(MODEL)
        run = flow.train("toy", snapshot)
        version = flow.register("toy", run)
        report = flow.evaluate(version)
        flow.promote(version, report)
        flow.serve(version)
        names = {**NAMES, "run_id": [run.run_id], "report_id": [report.report_id], "request_id": [ended.request_id]}
        rpcs = Rpcs(platform.addresses, names)
        files = folder / "files"
        files.mkdir()
        try:
            yield Fuzzer(
                platform,
                rpcs,
                {
                    "event": Events(platform, names),
                    "import": Imports(client, files),
                    "command": Commands(platform.ports.base, files),
                },
                seed,
            )
        finally:
            rpcs.close()
