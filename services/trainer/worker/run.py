"""A training run as its recipe sees it, with checkpoints in the object store.

A worker writes checkpoints only under its own attempt, keeps its newest two, and removes nothing once a newer attempt
exists, whose worker may be reading.
"""

import asyncio
import json
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from google.protobuf.json_format import MessageToDict, ParseDict
from typing_extensions import override

from millstream.errors import DataLoss, FailedPrecondition, InvalidArgument, NotFound
from millstream.training.v1.attempt_pb2 import AttemptEnd, RunNumerics
from recipekit.remaining import RemainingTime
from recipekit.run import Progress, Run
from servicekit.blobs import artifacts
from servicekit.failpoints import failpoint
from services.trainer.checkpoints import folder_of, prefix_of, stored
from services.trainer.store import Store
from services.trainer.worker.origin import differences

log = logging.getLogger(__name__)
T = TypeVar("T")
KEPT = 2
"""Checkpoints that an attempt keeps."""
_UNREADABLE = (NotFound, InvalidArgument, DataLoss, ValueError, TypeError, FileNotFoundError)
METRICS = "reported-metrics.json"
"""In each checkpoint: an attempt that resumes after the last evaluation measures nothing again."""

DEPARTURES = "departures.json"
"""In each checkpoint: the attempts before that resumed with something else than the first."""


class Departure(NamedTuple):
    """From a step on, a run was trained with something else than its first attempt."""

    step: int
    difference: str


class StoredRun(Run):
    """A run over the object store. The recipe calls it from the training thread; its I/O happens on the event loop."""

    stop_requested = False

    def __init__(
        self,
        store: Store,
        run_id: str,
        attempt: int,
        folder: Path,
        origin: Callable[[], RunNumerics],
        require_exact: bool,
    ) -> None:
        self.store, self.run_id, self.attempt, self.folder = store, run_id, attempt, folder
        self.origin, self.require_exact = origin, require_exact
        self.artifact = folder / "artifact"
        self.artifact.mkdir()
        self.loop = asyncio.get_running_loop()
        self.progress: Progress | None = None
        self.remaining = RemainingTime()
        self.metrics: dict[str, float] = {}
        self.resumed_from = 0
        self.untried = ""
        """Prefix of the checkpoint that was handed to the recipe, until the recipe has trained on from it."""
        self.fixed = RunNumerics()
        self.departures: list[Departure] = []
        self._differs = ""
        """In what this attempt differs from the first."""

    @override
    def report(self, progress: Progress) -> None:
        self.remaining.add(time.monotonic(), progress.step)
        self.progress, self.untried = progress, ""
        if progress.metrics:
            self.metrics = dict(progress.metrics)

    @override
    def numerics(self, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        found, mine = self._wait(self.store.numerics(self.run_id)), self.origin()
        if found is None:
            ParseDict(measure(), mine.numerics)
            failpoint("worker.numerics-measured")
            found = self._wait(self.store.fix_numerics(self.run_id, mine))
        self.fixed, self._differs = found, differences(found, mine)
        if self.require_exact and self._differs:
            raise FailedPrecondition(
                f"the run cannot continue bit for bit here ({self._differs}), and MILLSTREAM_REQUIRE_EXACT is set: train "
                "again; before an upgrade, wait for trainings that have begun"
            )
        return {name: _whole(value) for name, value in MessageToDict(found.numerics).items()}

    @override
    def latest_checkpoint(self) -> Path | None:
        return self._wait(self._download_newest())

    @override
    def save_checkpoint(self, step: int, write: Callable[[Path], None]) -> None:
        self.untried = ""
        fresh = Path(tempfile.mkdtemp(dir=self.folder))
        try:
            write(fresh)
            (fresh / METRICS).write_text(json.dumps(self.metrics))
            (fresh / DEPARTURES).write_text(json.dumps(self.departures))
            self._wait(self._store(step, fresh))
        finally:
            shutil.rmtree(fresh)

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    async def _store(self, step: int, folder: Path) -> None:
        await artifacts.store(self.store.blobs, folder, prefix_of(self.run_id, self.attempt, step))
        failpoint("worker.checkpoint")
        await self._prune()

    async def _prune(self) -> None:
        """Remove all but the newest two of this attempt."""
        blobs = self.store.blobs
        steps = [int(step) async for step in blobs.children(f"{folder_of(self.run_id, self.attempt)}/")]
        if await self.store.attempts(self.run_id).newest() != self.attempt:
            return
        for step in steps[:-KEPT]:
            await artifacts.delete(blobs, prefix_of(self.run_id, self.attempt, step))

    async def _download_newest(self) -> Path | None:
        """The checkpoint with the most steps, of whatever attempt, that can be read and that no attempt failed to load."""
        endings = await self.store.endings(self.run_id, self.attempt - 1)
        unreadable = {ending.unusable_checkpoint for ending in endings if isinstance(ending, AttemptEnd)}
        while True:
            every = await stored(self.store.blobs, self.run_id)
            newest = max((one for one in every if one.prefix not in unreadable), default=None)
            if newest is None:
                self._note_departure()
                return None
            folder = Path(tempfile.mkdtemp(dir=self.folder))
            try:
                await artifacts.download(self.store.blobs, newest.prefix, folder)
                self.metrics, self.departures = _read_metrics(folder / METRICS), _read_departures(folder / DEPARTURES)
            except _UNREADABLE as error:
                # Its worker pruned it meanwhile, and has a newer one; or it is damaged, and an older one may be whole.
                log.warning("checkpoint not readable", extra={"checkpoint": newest.prefix, "error": str(error)})
                unreadable.add(newest.prefix)
                shutil.rmtree(folder)
                continue
            self.resumed_from, self.untried = newest.step, newest.prefix
            log.info("resuming", extra={"from_attempt": newest.attempt, "step": newest.step})
            self._note_departure()
            return folder

    def _note_departure(self) -> None:
        """Keep, and log, in what the run is no longer as it began, unless the attempt before said the same."""
        if self._differs:
            log.warning(
                "this attempt is not as the first: not bit-exact from here",
                extra={"step": self.resumed_from, "difference": self._differs},
            )
            if not self.departures or self.departures[-1].difference != self._differs:
                self.departures.append(Departure(self.resumed_from, self._differs))


def _read_metrics(path: Path) -> dict[str, float]:
    """Raises ValueError or FileNotFoundError."""
    return {str(name): float(value) for name, value in dict(json.loads(path.read_text())).items()}


def _read_departures(path: Path) -> list[Departure]:
    """Raises ValueError or TypeError. Checkpoints of before have none."""
    found = json.loads(path.read_text()) if path.exists() else []
    return [Departure(int(step), str(difference)) for step, difference in found]


def _whole(value: Any) -> Any:
    """A protobuf Struct has only floating-point numbers; whole ones are counts."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
