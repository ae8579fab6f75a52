"""Performs runs on one platform, for as long as plans want the same kind; a fresh one follows a failed run."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from millstream.training.v1.training_run_pb2 import TrainingRun
from tests.chaos.plan import Plan
from tests.chaos.run import CONFIG, Record, run
from tests.chaos.scenario import Flow
from tests.chaos.target import Platform, platform
from tests.e2e import scenario


class Runner:
    """Performs plans. `folder` is that of the newest platform; that of a failed run is kept as `failed-WORLD-SEED`."""

    def __init__(self, world: str, state: Path) -> None:
        self.world, self.state = world, state
        self.folder = state
        self._running: Any = None
        self._kind: tuple[int, str] = (0, "")

    def perform(self, plan: Plan) -> Record:
        """Perform a plan, on the running platform if it fits."""
        wanted = (plan.replicas, plan.bus)
        if self._running is None or self._kind != wanted:
            self.end()
            self._start(plan.seed, wanted)
        record = run(self._platform, plan, self._file, self._undisturbed)
        if not record.good:
            self.end(record)
        return record

    def _start(self, seed: int, wanted: tuple[int, str]) -> None:
        self.folder = self.state / f"{self.world}-{seed}"
        shutil.rmtree(self.folder, ignore_errors=True)
        running = _with_reference(self.world, self.folder, *wanted)
        self._platform, self._undisturbed, self._file = running.__enter__()
        self._running, self._kind = running, wanted

    def end(self, failed: Record | None = None) -> None:
        """Stop the platform. Its objects and logs are removed, or kept under the seed of the failed run."""
        if self._running is None:
            return
        running, self._running = self._running, None
        running.__exit__(None, None, None)
        if failed is None:
            shutil.rmtree(self.folder)
            return
        left = self.state / f"failed-{self.world}-{failed.seed}"
        shutil.rmtree(left, ignore_errors=True)
        self.folder = self.folder.rename(left)
        (left / "record.json").write_text(json.dumps(failed.to_dict(), indent=1))


@contextmanager
def _with_reference(world: str, folder: Path, replicas: int, bus: str) -> Iterator[tuple[Platform, TrainingRun, Path]]:
    """A platform, an undisturbed training on it as the reference, and the file that it trained on."""
    folder.mkdir(parents=True)
    with platform(world, folder / "state", replicas, bus) as made:
        file = scenario.a_file(folder)
        yield made, Flow(made.world, "undisturbed", config=CONFIG).run(file), file
