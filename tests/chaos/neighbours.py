"""Faults that are obligations beside the flow: they fail at each attempt, must end with the reason, and harm nobody."""

import asyncio
import os
import random
import signal
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from millstream.dataset.v1.import_pb2 import Import
from millstream.errors import MillstreamError
from millstream.operations.v1.stored_pb2 import Claim
from millstream.training.v1.training_run_pb2 import TrainingRun
from tests.chaos.target import Platform
from tests.e2e import invariants, scenario
from tests.recipes.toy_words.spec import FATAL
from tests.worlds.platform import wait_until

T = TypeVar("T")
ENDED_SECONDS = 240.0
GONE_SECONDS = 60.0
"""After the end of a run, for its worker to be gone."""
STEPS = 40
RUN_REASONS: Mapping[str, str] = {
    "kill": "SIGKILL", "segfault": "SIGSEGV", "exit": "exit code 7", "memory": "memory", "hang": "heartbeat",
    "stop": "heartbeat",
}  # fmt: skip
"""How a worker breaks, and what the reason of its run then names."""


class DoomedRun:
    """A training that breaks at the same step of each attempt, of another model than the flow's."""

    resources: Sequence[str] = ()
    readers: Sequence[str] = ()

    def __init__(self, platform: Platform, chance: random.Random) -> None:
        self.world = platform.world
        self.how = chance.choice(sorted(RUN_REASONS))
        self.name = f"doomed-{uuid4().hex[:8]}"

    def begin(self) -> bool:
        spec: dict[str, Any] = {"model": self.name, "recipe": "toy_words", "dataset": "undisturbed"}
        breaks = {"breaks_by": "hang" if self.how == "stop" else self.how, "breaks_after": 3}
        config = {"steps": STEPS, "step_seconds": 0.3} if self.how == "stop" else {"steps": STEPS, **breaks}
        with self.world.client() as client:
            _persist(lambda: client.apply_model({**spec, "config": config}))
            self.run_id = _persist(lambda: client.train(self.name, request_id=self.name)).run_id
        return True

    def heal(self) -> None:
        """The run has ended with the reason, and its worker is gone."""
        with self.world.client() as client:

            def ended() -> TrainingRun | None:
                if self.how == "stop":
                    self._stop_workers()
                with suppress(MillstreamError):
                    run = client.run(self.run_id)
                    return run if run.state not in (TrainingRun.STATE_PENDING, TrainingRun.STATE_RUNNING) else None
                return None

            wait_until(ended, f"the run that breaks by {self.how} has ended", ENDED_SECONDS)
            run = _persist(lambda: client.run(self.run_id))
        assert run.state == TrainingRun.STATE_FAILED, f"the run that breaks by {self.how} ended as {run.state}"
        assert RUN_REASONS[self.how] in run.reason, f"the reason does not name {RUN_REASONS[self.how]}: {run.reason}"
        wait_until(lambda: not self._pids(), f"no worker is left of the run that breaks by {self.how}", GONE_SECONDS)

    def _pids(self) -> list[int]:
        return [worker.process.pid for worker in self.world.workers.running() if worker.run_id == self.run_id]

    def _stop_workers(self) -> None:
        """Those that hold an attempt: the trainer waits two minutes for one that was stopped before it claimed any."""
        blobs = self.world.blobs()
        with suppress(MillstreamError):
            claims = [key for key in invariants.keys(blobs, f"runs/attempts/{self.run_id}/") if key.endswith("/claim")]
            holders = {Claim.FromString(asyncio.run(blobs.get(key))).process.pid for key in claims}
            for pid in holders.intersection(self._pids()):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)


class DoomedImport:
    """A file with a row that kills whoever reads it, into another dataset than the flow's."""

    resources: Sequence[str] = ()
    readers: Sequence[str] = ()

    def __init__(self, platform: Platform) -> None:
        self.world = platform.world
        self.name = f"doomed-{uuid4().hex[:8]}"

    def begin(self) -> bool:
        with tempfile.TemporaryDirectory() as folder, self.world.client() as client:
            file = scenario.a_file(Path(folder))
            file.write_text(f'{file.read_text()}{{"text": "{FATAL}", "label": "good"}}\n')
            _persist(lambda: client.import_dataset(file, self.name, recipe="toy_words", request_id=self.name))
        return True

    def heal(self) -> None:
        with self.world.client() as client:

            def ended() -> Import | None:
                with suppress(MillstreamError):
                    return client.wait_import(self.name, self.name, timeout=5)
                return None

            wait_until(ended, "the import that kills its reader has ended", ENDED_SECONDS)
            imported = _persist(lambda: client.wait_import(self.name, self.name, timeout=5))
        assert imported.state == Import.STATE_REFUSED and "died" in imported.refusal, (
            f"{imported.state}: {imported.refusal}"
        )


def _persist(call: Callable[[], T]) -> T:
    """Call until the service answers."""
    found: list[T] = []

    def answered() -> bool:
        with suppress(MillstreamError):
            found.append(call())
        return bool(found)

    wait_until(answered, "an answer", GONE_SECONDS)
    return found[0]
