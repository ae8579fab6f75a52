"""An evaluator with everything around it in memory: store, bus, fakes of its peers, and toy models trained here."""

import asyncio
import atexit
import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from millstream.dataset.v1.dataset_pb2 import Snapshot
from millstream.dataset.v1.dataset_service_pb2 import GetSnapshotResponse
from millstream.errors import NotFound
from millstream.evaluation.v1.evaluation_report_pb2 import EvaluationReport
from millstream.registry.v1 import registry_service_pb2 as registry_rpc
from millstream.registry.v1.model_pb2 import AliasEntry, GateRule, Model, ModelSpec, ModelVersion
from millstream.training.v1.lineage_pb2 import Lineage
from recipekit.catalog import Catalog
from recipekit.predictor import load_artifact, predict, write_golden
from recipekit.run import Data, LocalRun
from recipekit.spec import Row
from servicekit.blobs import artifacts
from servicekit.blobs.artifact_cache import ArtifactCache
from servicekit.blobs.memory import MemoryBlobs
from servicekit.blobs.port import Blobs
from servicekit.bus.memory import MemoryBus
from servicekit.bus.port import Bus
from servicekit.facts.outbox import Outbox
from servicekit.ids import hash_of, new_id
from servicekit.paging import page
from servicekit.work.queue import Work
from services.evaluator.clients import Clients
from services.evaluator.due import newest_of
from services.evaluator.evaluate import Evaluator
from services.evaluator.handlers import HANDLERS
from services.evaluator.reconcile import Evaluate, EvaluationKey, FindChallengers
from services.evaluator.service import EvaluationService
from services.evaluator.store import FACTS, Store
from tests.worlds.parts import stored_part

CATALOG = Catalog(["tests.recipes", "tests.troubled"])
MODEL = "toy"
ROWS = [json.loads(line) for line in (CATALOG.folder("toy_words") / "sample.jsonl").read_text().splitlines()]
TRAIN, VALIDATION, TEST = ROWS[:140], ROWS[140:170], ROWS[170:]


def relabelled(rows: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> list[dict[str, Any]]:
    """The rows with other labels: the first for good, the second for bad; each further one is that of every ninth row."""
    made = [{**row, "label": labels[0] if row["label"] == "good" else labels[1]} for row in rows]
    for number, label in enumerate(labels[2:]):
        for row in made[number::9]:
            row["label"] = label
    return made


def answers(name: str, number: int, *labels: str) -> list[dict[str, Any]]:
    """Rows of each label that are easily told apart."""
    return [{"text": f"{name} {count} {label} {label}", "label": label} for count in range(number) for label in labels]


def with_few(rows: Sequence[dict[str, Any]], label: str, most: int) -> list[dict[str, Any]]:
    """The rows without those of the label, but for the first `most` of them."""
    kept = [row for row in rows if row["label"] == label][:most]
    return [row for row in rows if row["label"] != label or row in kept]


@cache
def trained(wrong: bool = False, steps: int = 60, labels: tuple[str, ...] = ("good", "bad")) -> Path:
    """An artifact's folder. `wrong`: it learnt every label the other way round."""
    return trained_on(relabelled(TRAIN, labels[::-1] if wrong else labels), relabelled(VALIDATION, labels), steps)


def trained_on(rows: Sequence[Row], validation: Sequence[Row] = VALIDATION, steps: int = 60) -> Path:
    """The folder of an artifact that learnt these rows."""
    folder = Path(mkdtemp(prefix="evaluator-"))
    atexit.register(shutil.rmtree, folder)
    run = LocalRun(folder)
    config = CATALOG.spec("toy_words").configure("toy", {"steps": steps})
    CATALOG.fit("toy_words")(config, Data(rows, validation), run)
    write_golden(run.artifact, CATALOG, VALIDATION)
    return run.artifact


def right(artifact: Path, rows: Sequence[Row]) -> list[Row]:
    """The rows whose label the model predicts."""
    predictions = predict(load_artifact(artifact, CATALOG)[1], [{"text": row["text"]} for row in rows])
    return [row for row, prediction in zip(rows, predictions, strict=True) if prediction["label"] == row["label"]]


def troubled(to: Path, trouble: str, *, hint: Path | None = None, only_while: Path | None = None) -> Path:
    """An artifact whose model misbehaves when it is loaded (tests/troubled)."""
    artifact = copied(trained(), to / f"{trouble}-{new_id()}")
    header = json.loads((artifact / "artifact.json").read_text())
    (artifact / "artifact.json").write_text(json.dumps({**header, "recipe": "toy_trouble"}))
    asked = {"trouble": trouble, "hint": str(hint or ""), "only_while": str(only_while or "")}
    (artifact / "trouble.json").write_text(json.dumps(asked))
    return artifact


class FakeRegistry:
    def __init__(self) -> None:
        self.models: dict[str, Model] = {}
        self.made: list[ModelVersion] = []
        self.moves: list[AliasEntry] = []
        self.page_size = 2

    async def ListModels(self, request: Any) -> Any:
        found, token = page(list(self.models.values()), self.page_size, request.page_token, lambda m: m.name)
        return registry_rpc.ListModelsResponse(models=found, next_page_token=token)

    async def GetModel(self, request: Any) -> Any:
        if request.model not in self.models:
            raise NotFound(f"no model {request.model}")
        return registry_rpc.GetModelResponse(model=self.models[request.model])

    async def ListModelVersions(self, request: Any) -> Any:
        after = request.after_version
        mine = [one for one in reversed(self.made) if one.model == request.model and one.version > after]
        found, token = page(mine, self.page_size, request.page_token, lambda v: str(v.version))
        return registry_rpc.ListModelVersionsResponse(model_versions=found, next_page_token=token)

    async def GetModelVersion(self, request: Any) -> Any:
        for version in self.made:
            if (version.model, version.version) == (request.model, request.version):
                return registry_rpc.GetModelVersionResponse(model_version=version)
        raise NotFound(f"no version {request.version} of {request.model}")

    async def ListAliasEntries(self, request: Any) -> Any:
        assert request.alias == "champion"
        after = request.after_number
        mine = [entry for entry in reversed(self.moves) if entry.model == request.model and entry.number > after]
        found, token = page(mine, self.page_size, request.page_token, lambda e: str(e.number))
        return registry_rpc.ListAliasEntriesResponse(entries=found, next_page_token=token)


class FakeDataprep:
    def __init__(self) -> None:
        self.snapshots: list[Snapshot] = []

    async def GetSnapshot(self, request: Any) -> Any:
        for snapshot in self.snapshots:
            if (snapshot.dataset, snapshot.number) == (request.dataset, request.number):
                return GetSnapshotResponse(snapshot=snapshot)
        raise NotFound(f"no snapshot {request.number} of {request.dataset}")


class World:
    """One store and one bus; `replica()` is an evaluator on them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.blobs, self.bus = MemoryBlobs(), MemoryBus()
        self.registry, self.dataprep = FakeRegistry(), FakeDataprep()
        self.declare(MODEL)

    def declare(self, model: str, gate: Sequence[GateRule] = ()) -> None:
        self.registry.models[model] = Model(name=model, spec=ModelSpec(model=model, recipe="toy_words", gate=gate))

    async def snapshot(
        self, *, train: Sequence[Any] = TRAIN, validation: Sequence[Any] = VALIDATION, test: Sequence[Any] = TEST
    ) -> Snapshot:
        parts = []
        for split, rows in (("train", train), ("validation", validation), ("test", test)):
            parts.append(await stored_part(self.blobs, split, rows))
        snapshot = Snapshot(dataset="words", number=len(self.dataprep.snapshots) + 1, parts=parts)
        snapshot.snapshot_id = hash_of(*(part.digest for part in parts))
        self.dataprep.snapshots.append(snapshot)
        return snapshot

    async def labelled(
        self, *labels: str, in_train: int = len(ROWS), in_test: int = len(ROWS), steps: int = 60
    ) -> ModelVersion:
        """A version trained on a snapshot of its own, whose rows have these labels (see relabelled).

        `in_train`, `in_test`: at most so many rows of that split have the last label.
        """
        train, validation, test = (relabelled(rows, labels) for rows in (TRAIN, VALIDATION, TEST))
        train, test = with_few(train, labels[-1], in_train), with_few(test, labels[-1], in_test)
        snapshot = await self.snapshot(train=train, validation=validation, test=test)
        return await self.version(trained(steps=steps, labels=labels), snapshot)

    async def appended(
        self, *labels: str, spoilt: int = 0, test: Sequence[Row] | None = None
    ) -> tuple[ModelVersion, Path]:
        """A version of labelled rows to which easy ones of true and false were appended, and its artifact.

        `spoilt`: it learnt every so manieth of the labelled rows as the second label.
        """
        old, new = relabelled(TRAIN, labels), answers("an answer", 30, "true", "false")
        learnt = [
            {**row, "label": labels[1]} if spoilt and number % spoilt == 0 else row for number, row in enumerate(old)
        ]
        artifact = trained_on([*learnt, *new], relabelled(VALIDATION, labels))
        tested = [*relabelled(TEST, labels), *answers("another", 20, "true", "false")] if test is None else test
        return await self.version(artifact, await self.snapshot(train=[*old, *new], test=tested)), artifact

    async def version(
        self, artifact: Path | None = None, snapshot: Snapshot | None = None, model: str = MODEL
    ) -> ModelVersion:
        stored = await artifacts.store(self.blobs, artifact or trained())
        snapshot = snapshot or (self.dataprep.snapshots or [await self.snapshot()])[-1]
        number = 1 + sum(version.model == model for version in self.registry.made)
        lineage = Lineage(
            run_id=f"run-{number}",
            dataset=snapshot.dataset,
            dataset_number=snapshot.number,
            snapshot_id=snapshot.snapshot_id,
            recipe="toy_words",
            code_commit="c0ffee",
            packages={"grpcio": "1.80"},
        )
        lineage.config.update({"steps": 60})
        version = ModelVersion(model=model, version=number, run_id=lineage.run_id, artifact=stored, lineage=lineage)
        self.registry.made.append(version)
        return version

    def champion(self, version: int, model: str = MODEL) -> AliasEntry:
        number = 1 + sum(entry.model == model for entry in self.registry.moves)
        entry = AliasEntry(model=model, alias="champion", number=number, version=version)
        self.registry.moves.append(entry)
        return entry

    def replica(self, blobs: Blobs | None = None, *, cache: str = "cache", lease_seconds: float = 10.0) -> "Replica":
        return Replica(self, blobs or self.blobs, self.bus, self.folder / cache, lease_seconds)


class Replica:
    """An evaluator wired as in its __main__."""

    def __init__(self, world: World, blobs: Blobs, bus: Bus, cache: Path, lease_seconds: float) -> None:
        self.outbox = Outbox(blobs, bus, "evaluator", FACTS)
        self.store = Store(blobs, self.outbox)
        clients = Clients(world.registry, world.dataprep)  # type: ignore[arg-type]
        evaluator = Evaluator(blobs, clients, ArtifactCache(blobs, cache), 4, CATALOG, limit_seconds=60)
        self.evaluate = Evaluate(self.store, clients, evaluator, lease_seconds)
        self.work = Work(blobs, bus, "evaluator", HANDLERS, resync_seconds=30)
        self.find = FindChallengers(self.store, clients, self.work)
        self.work.register(self.evaluate, self.find)
        self.service = EvaluationService(self.store, clients, self.work)

    async def report(self, version: int = 1, model: str = MODEL) -> EvaluationReport:
        """Reconcile until no report on the version is pending; the newest."""
        while (again := await self.evaluate.reconcile(EvaluationKey(model, version))) is not None:
            await asyncio.sleep(min(again, 0.01))
        return newest_of(await self.store.reports(model, version))

    @asynccontextmanager
    async def running(self) -> Any:
        task = asyncio.create_task(self.work.run())
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def copied(artifact: Path, to: Path) -> Path:
    return Path(shutil.copytree(artifact, to))
