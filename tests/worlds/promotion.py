"""Registry and evaluator on one store, whose versions are trained at once: what promotes by itself, and what does not."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from google.protobuf.json_format import ParseDict

from millstream.evaluation.v1.evaluation_report_pb2 import EvaluationReport, LabelChange
from millstream.registry.v1 import registry_service_pb2 as rpc
from millstream.registry.v1.model_pb2 import AliasEntry, ModelSpec, ModelVersion
from millstream.training.v1.training_run_pb2 import TrainingRun, TrainingRunSpec
from recipekit.spec import Row
from servicekit.blobs.parts import read_split
from servicekit.ids import hash_of
from services.evaluator.due import champion_of
from services.evaluator.reconcile import EvaluationKey
from services.evaluator.report.build import report_on
from services.registry.reconcile import PromotionKey, VersionKey
from tests.worlds.evaluator import MODEL, TEST, TRAIN, VALIDATION, World, relabelled, right, trained
from tests.worlds.registry import SPEC, Evaluator, Trainer, entries, registry

LENIENT = [{"metric": "accuracy", "at_least": 0.05}]
OLD = "before"
"""The commit of the evaluator in old reports."""
SPLITS = ("train", "validation", "test")


class Rows(NamedTuple):
    """By label, the rows of a version's snapshot."""

    train: Counter[str]
    test: Counter[str]

    def given_up(self, after: "Rows") -> set[str]:
        """Labels that callers of this version can no longer count on with the one `after` it."""
        left = {label: (after.train[label], rows) for label, rows in self.train.items()}
        too_few = {
            label
            for label, (now, before) in left.items()
            if now < before / 10 or now < 10 <= before or now < before / 2 < 5
        }
        untested = {label for label in self.test if label in self.train and not after.test[label]}
        return too_few | untested


class Made(NamedTuple):
    """A version's model, and the rows of its snapshot."""

    artifact: Path
    train: Sequence[Row]
    validation: Sequence[Row]
    test: Sequence[Row]

    @property
    def rows(self) -> Rows:
        return Rows(*(Counter(str(row["label"]) for row in split) for split in (self.train, self.test)))

    @property
    def labels(self) -> set[object]:
        return {row["label"] for row in self.train}

    def unseen(self, champion: "Made") -> list[Row]:
        """The test rows that neither has seen."""
        seen = {row["text"] for one in (self, champion) for row in (*one.train, *one.validation)}
        return [row for row in self.test if row["text"] not in seen]

    def shared(self, champion: "Made") -> list[Row]:
        """Of these, the rows on which the two are compared."""
        grown = self.labels - champion.labels and self.labels & champion.labels
        return [row for row in self.unseen(champion) if not grown or row["label"] in champion.labels]

    def accuracy(self, rows: Sequence[Row]) -> float:
        return len(right(self.artifact, rows)) / len(rows)


class Platform:
    """Registry and evaluator on one store; runs succeed at once with the labels that a test asks for."""

    def __init__(self, folder: Path) -> None:
        self.world, self.trainer = World(folder), Trainer()
        self.registry = registry(self.world.blobs, self.trainer, Evaluator())
        trained = self.world.registry
        self.world.registry = self.registry.service
        self.evaluator = self.world.replica()
        self.world.registry = trained
        self.registry.service.evaluator = self.registry.promote.evaluator = self.evaluator.service
        self.versions: list[Made] = []

    async def apply(self, gate: Sequence[Any] = LENIENT) -> None:
        spec = ParseDict({**SPEC, "gate": gate}, ModelSpec())
        await self.registry.service.ApplyModel(rpc.ApplyModelRequest(spec=spec))

    async def train(self, labels: tuple[str, ...], steps: int = 60, **few: int) -> None:
        """`few`: see World.labelled."""
        await self.register(await self.world.labelled(*labels, steps=steps, **few), trained(steps=steps, labels=labels))

    async def train_on_test_rows(self, labels: tuple[str, ...]) -> None:
        """A version that has seen the test rows of all others."""
        train, validation, test = (relabelled(rows, labels) for rows in (TRAIN, VALIDATION, TEST))
        snapshot = await self.world.snapshot(train=[*train, *test], validation=[], test=validation)
        await self.register(await self.world.version(trained(labels=labels), snapshot), trained(labels=labels))

    async def register(self, made: ModelVersion, artifact: Path) -> None:
        """As the trainer and the registry do for a run that succeeded."""
        run = TrainingRun(run_id=made.run_id, spec=TrainingRunSpec(model=MODEL), state=TrainingRun.STATE_SUCCEEDED)
        run.artifact.CopyFrom(made.artifact)
        run.lineage.CopyFrom(made.lineage)
        self.trainer.runs[run.run_id] = run
        stored = self.world.dataprep.snapshots[made.lineage.dataset_number - 1]
        splits = [await read_split(self.world.blobs, stored, split) for split in SPLITS]
        self.versions.append(Made(artifact, *splits))
        await self.registry.register.reconcile(VersionKey(run.run_id))

    async def evaluate(self, version: int) -> None:
        while (again := await self.evaluator.evaluate.reconcile(EvaluationKey(MODEL, version))) is not None:
            await asyncio.sleep(min(again, 0.01))

    async def old_report(self, version: int, change: LabelChange | None = None) -> None:
        """A passing report as it was made before labels were compared, or, with a `change` of them, before both were
        compared on the rows that the champion can answer."""
        found = (
            await self.registry.service.GetModelVersion(rpc.GetModelVersionRequest(model=MODEL, version=version))
        ).model_version
        report = report_on(found, champion_of({entry.number: entry.version for entry in await entries(self.registry)}))
        report.report_id = f"{MODEL}.{version}.{hash_of('old', version, report.champion_version, str(change))[:16]}"
        report.status = EvaluationReport.STATUS_PASSED
        report.metrics.add(metric="accuracy", candidate=1.0, champion=0.0, higher_is_better=True)
        if change:
            report.label_change.CopyFrom(change)
        report.code_commit = OLD
        await self.evaluator.store.put(report)

    async def promote(self) -> None:
        await self.registry.promote.reconcile(PromotionKey(MODEL))

    async def promote_by_hand(self, version: int, override: str = "a person wants it") -> None:
        request = rpc.PromoteModelVersionRequest(model=MODEL, version=version, override=override)
        await self.registry.service.PromoteModelVersion(request)

    async def deliver(self, labels: tuple[str, ...], steps: int = 60, **few: int) -> None:
        """Train, evaluate, promote: what happens when nothing comes between."""
        await self.train(labels, steps, **few)
        await self.evaluate(len(self.versions))
        await self.promote()

    async def roll_back(self) -> None:
        await self.registry.service.RollbackAlias(rpc.RollbackAliasRequest(model=MODEL, reason="angry users"))

    async def release(self) -> None:
        await self.registry.service.ReleaseAlias(rpc.ReleaseAliasRequest(model=MODEL, reason="mended"))

    async def judged_moves(self) -> list[tuple[AliasEntry, Rows, Rows]]:
        """Each move to another version that a report allowed, by itself or by hand, with the rows before and after."""
        history = [*(await entries(self.registry))][::-1]
        moves = [
            (before, after)
            for before, after in pairwise(history)
            if after.report_id and after.version != before.version
        ]
        rows = [made.rows for made in self.versions]
        return [(after, rows[before.version - 1], rows[after.version - 1]) for before, after in moves]

    async def comparisons(self) -> list[tuple[EvaluationReport, Made, Made]]:
        """Each report that the evaluator made beside another champion, with what is compared."""
        return [
            (report, self.versions[report.version - 1], self.versions[report.champion_version - 1])
            for report in await self.evaluator.store.reports(MODEL)
            if report.champion_version not in (0, report.version) and report.code_commit != OLD
        ]
