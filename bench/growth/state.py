"""A store as it is after so many runs, versions, models, imports and moves: written in memory by the services' stores."""

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.timestamp_pb2 import Timestamp

from millstream.dataset.v1.dataset_pb2 import DatasetSpec, Snapshot
from millstream.dataset.v1.import_pb2 import Import
from millstream.evaluation.v1.evaluation_report_pb2 import EvaluationReport
from millstream.inference.v1.refusal_pb2 import Refusal
from millstream.registry.v1.model_pb2 import AliasEntry, ModelSpec, ModelVersion
from millstream.timestamps import timestamp_of_ns
from millstream.training.v1.attempt_pb2 import RunOutcome, RunRequest
from millstream.training.v1.training_run_pb2 import TrainingRun, TrainingRunSpec
from servicekit.blobs.memory import MemoryBlobs
from servicekit.blobs.port import Blobs
from servicekit.facts.outbox import Outbox
from servicekit.ids import hash_of
from services.dataprep import store as dataprep
from services.evaluator import store as evaluator
from services.registry import store as registry
from services.trainer import store as trainer

MODEL, ALIAS, DATASET = "grown", "candidate", "grown-words"
AT_ONCE = 32
TEMPORARY = ("outbox/", "open/", "clock/")
"""What a platform that has done all its work has no object of."""


@dataclass(frozen=True)
class Size:
    """How much there is; `runs` are as many versions of one model, each with its report."""

    runs: int

    @property
    def models(self) -> int:
        """Other models, of ten versions each."""
        return max(10, self.runs // 10)

    @property
    def imports(self) -> int:
        """Of one dataset; each tenth made a snapshot."""
        return self.runs

    @property
    def moves(self) -> int:
        """Of one alias."""
        return self.runs // 5


class Grown:
    """Makes the state of a size."""

    def __init__(self, size: Size) -> None:
        self.size, self.blobs = size, MemoryBlobs()
        self.registry = registry.Store(self.blobs, Outbox(self.blobs, None, "registry", registry.FACTS))
        self.trainer = trainer.Store(self.blobs, Outbox(self.blobs, None, "trainer", trainer.FACTS), 30)
        self.evaluator = evaluator.Store(self.blobs, Outbox(self.blobs, None, "evaluator", evaluator.FACTS))
        self.dataprep = dataprep.Store(self.blobs, Outbox(self.blobs, None, "dataprep", dataprep.FACTS))
        self.began_ns = time.time_ns() - size.runs * 60 * 10**9

    async def make(self) -> dict[str, bytes]:
        """Every object by its key."""
        await self._model(MODEL, self.size.runs)
        for number in range(self.size.models):
            await self._model(f"model-{number}", 10)
        for number in range(1, self.size.runs + 1):
            await self._run(number)
        await self._moves()
        await self._imports()
        for ledger in (
            self.registry.versions(MODEL),
            self.registry.alias(MODEL, ALIAS),
            self.dataprep.snapshots(DATASET),
        ):
            await ledger.index()
        objects = {listed.key: await self.blobs.get(listed.key) async for listed in self.blobs.list("")}
        return {key: data for key, data in objects.items() if not key.startswith(TEMPORARY)}

    def _time(self, number: int) -> Timestamp:
        return timestamp_of_ns(self.began_ns + number * 60 * 10**9)

    async def _model(self, model: str, versions: int) -> None:
        spec = ModelSpec(model=model, recipe="toy_words", preset="toy", dataset=f"{model}-words")
        await self.registry.specs(model).append(spec, request_id="spec")
        ledger = self.registry.versions(model)
        for number in range(1, versions + 1):
            version = ModelVersion(model=model, run_id=_run_id(model, number), metrics={"accuracy": 0.9})
            version.artifact.digest = hash_of(model, number)
            version.lineage.dataset, version.lineage.dataset_number = DATASET, 1
            version.lineage.packages.update({f"package-{each}": "1.2.3" for each in range(10)})
            await ledger.append(version, request_id=version.run_id)
            await self._report(model, number)

    async def _run(self, number: int) -> None:
        run_id, spec = _run_id(MODEL, number), TrainingRunSpec(model=MODEL, recipe="toy_words", dataset=DATASET)
        request = RunRequest(run_id=run_id, request_id=run_id, spec=spec, asked=spec, time=self._time(number))
        await self.trainer.create(request)
        await self.trainer.attempts(run_id).claim(1)
        outcome = RunOutcome(run_id=run_id, model=MODEL, state=TrainingRun.STATE_SUCCEEDED, metrics={"accuracy": 0.9})
        outcome.artifact.digest = hash_of(MODEL, number)
        await self.trainer.end(outcome)

    async def _report(self, model: str, number: int) -> None:
        name = hash_of(model, number)[:16]
        folder = f"reports/{model}/{number:010d}/{name}"
        report = EvaluationReport(report_id=f"{model}.{number}.{name}", model=model, version=number)
        report.status = EvaluationReport.STATUS_PASSED
        report.create_time.CopyFrom(self._time(number))
        report.metrics.add(metric="accuracy", candidate=0.9, higher_is_better=True)
        report.label_change.SetInParent()
        for name, data in (("report.html", b"<p>"), ("report.json", b"{}"), ("report", report.SerializeToString())):
            await self.blobs.put(f"{folder}/{name}", data)

    async def _moves(self) -> None:
        champion = AliasEntry(model=MODEL, alias="champion", version=self.size.runs, action=AliasEntry.ACTION_PROMOTED)
        await self.registry.alias(MODEL, "champion").append(champion, request_id="champion")
        refusal = Refusal(model=MODEL, version=self.size.runs, reason="it has no artifact")
        await self.blobs.put(f"refusals/{MODEL}/{self.size.runs:010d}/refusal", refusal.SerializeToString())
        ledger = self.registry.alias(MODEL, ALIAS)
        for number in range(1, self.size.moves + 1):
            move = AliasEntry(model=MODEL, alias=ALIAS, version=number, action=AliasEntry.ACTION_PROMOTED)
            await ledger.append(move, request_id=f"move-{number}")

    async def _imports(self) -> None:
        await self.dataprep.specs(DATASET).append(DatasetSpec(recipe="toy_words"), request_id="import-1")
        for number in range(1, self.size.imports + 1):
            one = Import(request_id=f"import-{number}", dataset=DATASET, spec=DatasetSpec(recipe="toy_words"))
            one.create_time.CopyFrom(self._time(number))
            await self.dataprep.record(one)
            one.state, one.rows_read = Import.STATE_SUCCEEDED, 100
            await self.dataprep.end(one)
            if number % 10 == 0:
                snapshot = Snapshot(dataset=DATASET, snapshot_id=hash_of(number), spec=one.spec)
                await self.dataprep.snapshots(DATASET).append(snapshot, request_id=one.request_id)


def _run_id(model: str, number: int) -> str:
    return hash_of("run", model, number)


def into_folder(objects: dict[str, bytes], root: Path) -> None:
    """As DirectoryBlobs lays them out, without its syncs."""
    for key, data in objects.items():
        path = root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


async def into_store(objects: dict[str, bytes], blobs: Blobs) -> None:
    """By the store's own puts."""
    keys = iter(objects)

    async def put_some() -> None:
        for key in keys:
            await blobs.put(key, objects[key])

    await asyncio.gather(*(put_some() for _ in range(AT_ONCE)))
