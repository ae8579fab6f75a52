"""One replica of the trainer on a directory, without its socket; its workers are processes of their own."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict

from millstream.dataset.v1.dataset_pb2 import ColumnReport, Snapshot
from millstream.files import file_digest
from millstream.timestamps import now
from millstream.training.v1 import training_service_pb2 as rpc
from millstream.training.v1.attempt_pb2 import RunRequest
from millstream.training.v1.training_run_pb2 import RunProgress, TrainingRun, TrainingRunSpec
from recipekit.catalog import Catalog
from servicekit.blobs.artifact_cache import ArtifactCache
from servicekit.blobs.directory import DirectoryBlobs
from servicekit.bus.memory import MemoryBus
from servicekit.facts.outbox import Outbox
from servicekit.ids import new_id
from servicekit.work.queue import Work
from services.trainer.handlers import HANDLERS
from services.trainer.launchers.process import ProcessLauncher
from services.trainer.reconcile import BringToOutcome
from services.trainer.service import TrainingService
from services.trainer.settings import Settings
from services.trainer.store import FACTS, Store
from tests.worlds.parts import stored_part

Rows = Sequence[Mapping[str, Any]]
SLOW = {"steps": 40, "step_seconds": 0.05, "checkpoint_every": 5, "evaluate_every": 10}
ROWS: Rows = [{"text": f"good word{i}", "label": "pos"} for i in range(20)] + [
    {"text": f"bad word{i}", "label": "neg"} for i in range(20)
]


class Trainer:
    """One replica of the trainer, without its socket."""

    def __init__(self, folder: Path, slots: int = 1, owner: str = "here", **settings: Any) -> None:
        self.settings = Settings(
            blobs=f"directory:{folder / 'blobs'}",
            state=str(folder),
            recipes="recipes,tests.recipes",
            slots=slots,
            **settings,
        )
        self.blobs = DirectoryBlobs(folder / "blobs")
        self.bus = MemoryBus()
        self.outbox = Outbox(self.blobs, self.bus, "trainer", FACTS)
        self.store = Store(self.blobs, self.outbox, self.settings.lease_seconds)
        self.launcher = ProcessLauncher(
            folder, owner, self.settings.worker_environment(), self.settings.stop_seconds, self.settings.gpus
        )
        self.work = Work(self.blobs, self.bus, "trainer", HANDLERS, resync_seconds=1)
        self.runs = BringToOutcome(self.store, self.launcher, self.work, slots=slots, time_limit_seconds=3600)
        self.work.register(self.runs)
        catalog = Catalog(["tests.recipes"])
        self.service = TrainingService(self.store, self.launcher, None, None, catalog)  # type: ignore[arg-type]
        self.tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self.tasks = [asyncio.create_task(self.work.run()), asyncio.create_task(self.outbox.run())]

    async def die(self) -> None:
        """As a killed trainer: its workers live on."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def close(self) -> None:
        """Leave nothing behind: no task, no worker, no open end of a process."""
        await self.die()
        for process in self.launcher.workers().values():
            with suppress(ProcessLookupError):  # it ended since the list was made
                os.kill(process.pid, signal.SIGKILL)
        for watcher in list(self.launcher.watchers):
            await asyncio.to_thread(watcher.join)

    async def ask(
        self, config: dict[str, Any] | None = None, rows: Rows = ROWS, columns: Sequence[str] = (), **change: Any
    ) -> str:
        """Request a run on the rows; `columns`: those that the snapshot's report names."""
        run_id = new_id()
        snapshot = Snapshot(dataset="words", number=1, snapshot_id="s1")
        snapshot.spec.cleaning.strip_html = True
        snapshot.columns.extend(ColumnReport(name=name, kept=True) for name in columns)
        for split, part in (("train", rows), ("validation", rows[::4]), ("test", rows[1::4])):
            snapshot.parts.append(await stored_part(self.blobs, split, part))
        spec = TrainingRunSpec(model="toy", recipe="toy_words", dataset="words", dataset_number=1, snapshot_id="s1")
        ParseDict({"config": config or {}, **change}, spec)
        await self.store.create(RunRequest(run_id=run_id, spec=spec, snapshot=snapshot, time=now()))
        return run_id

    async def watch(self, run_id: str) -> AsyncIterator[TrainingRun]:
        async for response in self.service.WatchTrainingRun(rpc.WatchTrainingRunRequest(run_id=run_id)):
            yield response.run

    async def end_of(self, run_id: str) -> TrainingRun:
        return [run async for run in self.watch(run_id)][-1]

    async def at_step(self, run_id: str, step: int, attempt: int = 1) -> None:
        """Wait until an attempt has reported the step."""
        key = f"{self.store.attempts(run_id).folder(attempt)}/progress"
        while not await self.blobs.exists(key) or RunProgress.FromString(await self.blobs.get(key)).step < step:
            assert not await self.store.outcome(run_id), f"the run ended before step {step} of attempt {attempt}"
            await asyncio.sleep(0.02)

    async def checkpoint(self, run_id: str, attempt: int = 1) -> None:
        """Wait for a checkpoint of an attempt."""
        while not [k async for k in self.blobs.list(f"checkpoints/{run_id}/{attempt:010d}/")]:
            await asyncio.sleep(0.02)

    def worker_pid(self, run_id: str) -> int:
        return self.launcher.workers()[run_id].pid

    async def weights(self, run: TrainingRun, folder: Path) -> str:
        return file_digest(await ArtifactCache(self.blobs, folder).fetch(run.artifact.digest) / "model.json")


@pytest.fixture
async def trainer(tmp_path: Path) -> AsyncIterator[Trainer]:
    """One that runs."""
    made = Trainer(tmp_path)
    made.start()
    yield made
    await made.close()
