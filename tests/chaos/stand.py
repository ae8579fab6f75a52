"""Where runs take place: one platform for as long as plans want the same kind, and a fresh one after a failure."""

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


class Stand:
    """`folder` is that of the platform that runs now or ran last; what a failed run leaves is in `failed-…`."""

    def __init__(self, world: str, state: Path) -> None:
        self.world, self.state = world, state
        self.folder = state
        self._running: Any = None
        self._is: tuple[int, str] = (0, "")

    def perform(self, plan: Plan) -> Record:
        wanted = (plan.replicas, plan.bus)
        if self._running is None or self._is != wanted:
            self.end()
            self._start(plan.seed, wanted)
        record = run(self._platform, plan, self._file, self._calm)
        if not record.good:
            self.end(record)
        return record

    def _start(self, seed: int, wanted: tuple[int, str]) -> None:
        self.folder = self.state / f"{self.world}-{seed}"
        shutil.rmtree(self.folder, ignore_errors=True)
        running = _calm_platform(self.world, self.folder, *wanted)
        self._platform, self._calm, self._file = running.__enter__()
        self._running, self._is = running, wanted

    def end(self, failed: Record | None = None) -> None:
        """Stop the platform. What it has kept and logged is removed, or kept under the seed that has failed."""
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
def _calm_platform(world: str, folder: Path, replicas: int, bus: str) -> Iterator[tuple[Platform, TrainingRun, Path]]:
    """A platform, an undisturbed training on it, and the file that it came from."""
    folder.mkdir(parents=True)
    with platform(world, folder / "state", replicas, bus) as made:
        file = scenario.a_file(folder)
        yield made, Flow(made.world, "calm", config=CONFIG).run(file), file
