"""A training run as its recipe sees it, with checkpoints in the object store.

`checkpoints/{run_id}/{attempt}/{step}/files/{name}` first, `…/manifest` last. A worker writes only under its own attempt,
keeps its newest two, and removes nothing once a newer attempt exists, whose worker may be reading.
"""

import asyncio
import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf.json_format import MessageToDict, ParseDict

from millstream.errors import FailedPrecondition, NotFound
from millstream.training.v1.attempt_pb2 import RunNumerics
from millstream.training.v1.training_run_pb2 import Artifact
from recipekit.hardware import processor
from recipekit.run import Progress
from servicekit.blobs.artifacts import describe
from servicekit.failpoints import failpoint
from services.trainer.store import Store

log = logging.getLogger(__name__)
T = TypeVar("T")
KEPT = 2
METRICS = "reported-metrics.json"
"""Beside the recipe's own files: an attempt that resumes after the last evaluation has nothing to measure anew."""


class StoredRun:
    """recipekit.run.Run over the object store. The recipe calls it from the training thread; it works on the loop."""

    def __init__(self, store: Store, run_id: str, attempt: int, folder: Path, require_exact: bool) -> None:
        self.store, self.run_id, self.attempt, self.folder = store, run_id, attempt, folder
        self.require_exact = require_exact
        self.artifact = folder / "artifact"
        self.artifact.mkdir()
        self.loop = asyncio.get_running_loop()
        self.stop_requested = False
        self.progress: Progress | None = None
        self.metrics: dict[str, float] = {}
        self.resumed_from = 0
        self.fixed = RunNumerics()

    def report(self, progress: Progress) -> None:
        self.progress = progress
        if progress.metrics:
            self.metrics = dict(progress.metrics)

    def numerics(self, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        found = self._wait(self.store.numerics(self.run_id))
        if found is None:
            mine = RunNumerics(processor=processor())
            ParseDict(measure(), mine.numerics)
            failpoint("worker.numerics-measured")
            found = self._wait(self.store.fix_numerics(self.run_id, mine))
        self.fixed = found
        if self.require_exact and self.is_elsewhere:
            raise FailedPrecondition(
                f"the run began on {found.processor} and this is {processor()}, where it would not go on bit for bit; "
                "MILLSTREAM_REQUIRE_EXACT forbids that"
            )
        return {name: _whole(value) for name, value in MessageToDict(found.numerics).items()}

    @property
    def is_elsewhere(self) -> bool:
        """Another kind of processor than the first attempt's."""
        return bool(self.fixed.processor) and self.fixed.processor != processor()

    def latest_checkpoint(self) -> Path | None:
        return self._wait(self._download_newest())

    def save_checkpoint(self, step: int, write: Callable[[Path], None]) -> None:
        fresh = Path(tempfile.mkdtemp(dir=self.folder))
        try:
            write(fresh)
            (fresh / METRICS).write_text(json.dumps(self.metrics))
            self._wait(self._upload(step, fresh))
        finally:
            shutil.rmtree(fresh)

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    async def _upload(self, step: int, folder: Path) -> None:
        blobs, prefix = self.store.blobs, self._prefix(self.attempt, step)
        manifest = await asyncio.to_thread(describe, folder)
        for file in manifest.files:
            await blobs.upload(f"{prefix}/files/{file.path}", folder / file.path)
        failpoint("worker.checkpoint-files")
        await blobs.put(f"{prefix}/manifest", manifest.SerializeToString())
        failpoint("worker.checkpoint")
        await self._prune()

    async def _prune(self) -> None:
        """Remove all but the newest two of this attempt, manifest first, so that no reader finds half of one."""
        blobs, own = self.store.blobs, f"checkpoints/{self.run_id}/{self.attempt:010d}/"
        steps = [int(step) async for step in blobs.children(own)]
        if await self.store.attempts(self.run_id).newest() != self.attempt:
            return
        for step in steps[:-KEPT]:
            prefix = self._prefix(self.attempt, step)
            keys = [listed.key async for listed in blobs.list(f"{prefix}/")]
            for key in sorted(keys, key=lambda key: not key.endswith("/manifest")):
                await blobs.delete(key)

    async def _download_newest(self) -> Path | None:
        while True:
            found = [key.split("/") async for key in self._manifests(f"checkpoints/{self.run_id}/")]
            if not found:
                return None
            attempt, step = max(((int(parts[2]), int(parts[3])) for parts in found), key=lambda at: (at[1], at[0]))
            try:
                folder = await self._download(self._prefix(attempt, step))
            except NotFound:
                # Its worker pruned it meanwhile: it has a newer one.
                continue
            self.resumed_from = step
            self.metrics = json.loads((folder / METRICS).read_text())
            log.info("resuming", extra={"from_attempt": attempt, "step": step})
            return folder

    async def _manifests(self, prefix: str) -> Any:
        async for listed in self.store.blobs.list(prefix):
            if listed.key.endswith("/manifest"):
                yield listed.key

    async def _download(self, prefix: str) -> Path:
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        blobs = self.store.blobs
        async for listed in blobs.list(f"{prefix}/files/"):
            path = folder / listed.key[len(prefix) + len("/files/") :]
            path.parent.mkdir(parents=True, exist_ok=True)
            await blobs.download(listed.key, path)
        found = await asyncio.to_thread(describe, folder)
        # By what names the contents: another version's manifest may say more than ours.
        if found.digest != Artifact.FromString(await blobs.get(f"{prefix}/manifest")).digest:
            raise NotFound(f"{prefix} is not whole any more")
        return folder

    def _prefix(self, attempt: int, step: int) -> str:
        return f"checkpoints/{self.run_id}/{attempt:010d}/{step:010d}"


def _whole(value: Any) -> Any:
    """A protobuf Struct knows only floating numbers; whole ones are counts."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
