"""Changed labels never become champion without a person: a real registry beside a real evaluator, whatever happens."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from google.protobuf.json_format import ParseDict

from millstream.errors import FailedPrecondition, MillstreamError
from millstream.evaluation.v1.evaluation_report_pb2 import EvaluationReport
from millstream.evaluation.v1.evaluation_service_pb2 import EvaluateModelVersionRequest
from millstream.registry.v1 import registry_service_pb2 as rpc
from millstream.registry.v1.model_pb2 import AliasEntry, ModelSpec
from millstream.training.v1.training_run_pb2 import TrainingRun, TrainingRunSpec
from servicekit.blobs.parts import read_split
from servicekit.ids import hash_of
from services.evaluator.due import champion_of
from services.evaluator.reconcile import EvaluationKey
from services.evaluator.report.build import report_on
from services.registry.reconcile import PromotionKey, VersionKey
from tests.worlds.evaluator import MODEL, World
from tests.worlds.registry import SPEC, Evaluator, Trainer, entries, registry

VOCABULARIES = [
    ("good", "bad"),
    ("bad", "good", "mixed"),
    ("1", "0"),
    ("1.0", "0.0"),
    ("good", "0"),
    ("good", "bad", ""),
]
FEW: list[dict[str, int]] = [{}, {}, {"in_train": 1}, {"in_train": 5}, {"in_test": 0}, {"in_train": 1, "in_test": 0}]
LENIENT = [{"metric": "accuracy", "at_least": 0.05}]
AUTOMATIC = AliasEntry.ACTION_PROMOTED_AUTOMATICALLY


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
        self.versions: list[Rows] = []

    async def apply(self, gate: Sequence[Any] = LENIENT) -> None:
        spec = ParseDict({**SPEC, "gate": gate}, ModelSpec())
        await self.registry.service.ApplyModel(rpc.ApplyModelRequest(spec=spec))

    async def train(self, labels: tuple[str, ...], **few: int) -> None:
        """`few`: see World.labelled."""
        made = await self.world.labelled(*labels, **few)
        run = TrainingRun(run_id=made.run_id, spec=TrainingRunSpec(model=MODEL), state=TrainingRun.STATE_SUCCEEDED)
        run.artifact.CopyFrom(made.artifact)
        run.lineage.CopyFrom(made.lineage)
        self.trainer.runs[run.run_id] = run
        self.versions.append(await self.rows_of(made.lineage.dataset_number))
        await self.registry.register.reconcile(VersionKey(run.run_id))

    async def rows_of(self, snapshot: int) -> Rows:
        stored = self.world.dataprep.snapshots[snapshot - 1]
        splits = [await read_split(self.world.blobs, stored, split) for split in ("train", "test")]
        return Rows(*(Counter(row["label"] for row in rows) for rows in splits))

    async def evaluate(self, version: int) -> None:
        while (again := await self.evaluator.evaluate.reconcile(EvaluationKey(MODEL, version))) is not None:
            await asyncio.sleep(min(again, 0.01))

    async def report_without_labels(self, version: int) -> None:
        """A passing report as it was made before labels were compared."""
        found = (
            await self.registry.service.GetModelVersion(rpc.GetModelVersionRequest(model=MODEL, version=version))
        ).model_version
        report = report_on(found, champion_of(await entries(self.registry)))
        report.report_id = f"{MODEL}.{version}.{hash_of('old', version, report.champion_version)[:16]}"
        report.status = EvaluationReport.STATUS_PASSED
        report.metrics.add(metric="accuracy", candidate=1.0, champion=0.0, higher_is_better=True)
        await self.evaluator.store.put(report)

    async def promote(self) -> None:
        await self.registry.promote.reconcile(PromotionKey(MODEL))

    async def promote_by_hand(self, version: int, override: str = "a person wants it") -> None:
        request = rpc.PromoteModelVersionRequest(model=MODEL, version=version, override=override)
        await self.registry.service.PromoteModelVersion(request)

    async def deliver(self, labels: tuple[str, ...], **few: int) -> None:
        """Train, evaluate, promote: what happens when nothing comes between."""
        await self.train(labels, **few)
        await self.evaluate(len(self.versions))
        await self.promote()

    async def roll_back(self) -> None:
        await self.registry.service.RollbackAlias(rpc.RollbackAliasRequest(model=MODEL, reason="angry users"))

    async def release(self) -> None:
        await self.registry.service.ReleaseAlias(rpc.ReleaseAliasRequest(model=MODEL, reason="mended"))

    async def judged_moves(self) -> list[tuple[AliasEntry, Rows, Rows]]:
        """Each move to another version that a report allowed, by itself or by hand, with the rows before and after."""
        history = [*(await entries(self.registry))][::-1]
        moves = [(before, after) for before, after in pairwise(history) if after.report_id]
        return [(after, self.versions[before.version - 1], self.versions[after.version - 1]) for before, after in moves]


def a_step(platform: Platform, rng: random.Random) -> Callable[[], Awaitable[None]]:
    version = rng.randint(1, len(platform.versions))
    # Mostly labels that may follow one another, so that how many rows have them decides.
    labels, few = rng.choices(VOCABULARIES, [8, 6, 1, 1, 1, 2])[0], rng.choice(FEW)
    return rng.choices(
        [
            lambda: platform.train(labels, **few),
            lambda: platform.deliver(labels, **few),
            lambda: platform.evaluate(version),
            lambda: platform.evaluate(len(platform.versions)),
            platform.promote,
            platform.release,
            lambda: platform.promote_by_hand(version),
            lambda: platform.promote_by_hand(version, override=""),
            platform.roll_back,
            lambda: platform.report_without_labels(version),
            lambda: platform.apply(rng.choice([LENIENT, [{"metric": "accuracy", "over_champion": -1.0}], []])),
        ],
        weights=[2, 6, 2, 4, 4, 6, 1, 3, 1, 2, 1],
    )[0]


@pytest.mark.timeout(600)
async def test_no_sequence_of_events_changes_the_labels_of_the_champion_without_a_person(tmp_path: Path) -> None:
    kinds: Counter[str] = Counter()
    for seed in range(8):
        rng = random.Random(seed)
        platform = Platform(tmp_path / str(seed))
        await platform.apply()
        await platform.train(rng.choice(VOCABULARIES))
        for _ in range(40):
            steps = [a_step(platform, rng)() for _ in range(rng.choice([1, 1, 2]))]
            for error in await asyncio.gather(*steps, return_exceptions=True):
                # A move that lost a race, or has no target, is refused; the next one reads anew.
                if error is not None and not isinstance(error, MillstreamError):
                    raise error
        for move, before, after in await platform.judged_moves():
            how = "by itself" if move.action == AUTOMATIC else "by hand, without an override"
            assert not before.given_up(after), (
                f"seed {seed}: version {move.version} was promoted {how}: {before}, {after}"
            )
            kinds["kept" if before.train.keys() == after.train.keys() else "grown"] += 1
            kinds[how] += 1
        for report in await platform.evaluator.store.reports(MODEL):
            kinds["held back"] += any(not result.HasField("rule") for result in report.gate)
            kinds["unproven"] += bool(report.label_change.unproven)
    expected = ("kept", "grown", "by itself", "by hand, without an override", "held back", "unproven")
    assert all(kinds[kind] for kind in expected), kinds


async def test_a_version_of_other_labels_waits_for_a_person_and_the_next_of_the_same_follows_it(tmp_path: Path) -> None:
    platform = Platform(tmp_path)
    await platform.apply()
    for labels in (("1", "0"), ("1.0", "0.0")):
        await platform.train(labels)
        await platform.evaluate(len(platform.versions))
        await platform.promote()
    assert [entry.version for entry in await entries(platform.registry)] == [1]
    await platform.promote_by_hand(2)
    await platform.release()
    await platform.train(("1.0", "0.0"))
    await platform.evaluate(3)
    await platform.promote()
    assert [entry.version for entry in await entries(platform.registry)] == [3, 2, 2, 1]


async def test_a_report_that_compared_no_labels_is_made_again_before_it_promotes(tmp_path: Path) -> None:
    platform = Platform(tmp_path)
    await platform.apply()
    await platform.train(("good", "bad"))
    await platform.evaluate(1)
    await platform.promote()
    await platform.train(("good", "bad", "mixed"))
    await platform.report_without_labels(2)
    await platform.promote()
    assert [entry.version for entry in await entries(platform.registry)] == [1]
    assert [key async for key in platform.evaluator.evaluate.pending()] == [EvaluationKey(MODEL, 2)]
    await platform.evaluate(2)
    assert not [key async for key in platform.evaluator.evaluate.pending()]
    await platform.promote()
    assert [entry.version for entry in await entries(platform.registry)] == [2, 1]


async def test_a_nearly_lost_label_waits_for_a_person_and_then_holds_nothing_back(tmp_path: Path) -> None:
    platform = Platform(tmp_path)
    await platform.apply()
    for few in ({}, {"in_train": 1, "in_test": 0}):
        await platform.train(("good", "bad", "mixed"), **few)
        await platform.evaluate(len(platform.versions))
        await platform.promote()
    assert [entry.version for entry in await entries(platform.registry)] == [1]
    await platform.promote_by_hand(2)
    await platform.release()
    await platform.train(("good", "bad", "mixed"), in_train=1, in_test=0)
    await platform.evaluate(3)
    await platform.promote()
    assert [entry.version for entry in await entries(platform.registry)] == [3, 2, 2, 1]


async def test_a_version_that_failed_beside_a_champion_is_judged_anew_once_that_one_is_gone(tmp_path: Path) -> None:
    platform = Platform(tmp_path)
    await platform.apply()
    await platform.deliver(("good", "bad"))
    await platform.train(("1", "0"))
    await platform.evaluate(2)
    await platform.promote_by_hand(2)
    await platform.deliver(("good", "bad", "mixed"))
    await platform.roll_back()
    await platform.release()
    assert [key async for key in platform.evaluator.evaluate.pending()] == [EvaluationKey(MODEL, 3)]
    await platform.evaluate(3)
    await platform.promote()
    assert [entry.version for entry in await entries(platform.registry)] == [3, 1, 1, 2, 1]


async def test_by_hand_an_older_version_without_a_label_of_the_champion_needs_an_override(tmp_path: Path) -> None:
    platform = Platform(tmp_path)
    await platform.apply()
    for labels in (("good", "bad"), ("good", "bad"), ("good", "bad", "mixed")):
        await platform.train(labels)
    for version in (1, 2, 3):
        await platform.evaluate(version)
    await platform.promote()
    # Version 3 was evaluated without a champion, and so was 2, which is now below it.
    with pytest.raises(FailedPrecondition, match=r"no report compares .* version 3, .* 'mixed' .*reports again toy 2"):
        await platform.promote_by_hand(2, override="")
    await platform.evaluator.service.EvaluateModelVersion(EvaluateModelVersionRequest(model=MODEL, version=2))
    await platform.evaluate(2)
    with pytest.raises(FailedPrecondition, match=r"labels of the champion, version 3, are lost: 'mixed'"):
        await platform.promote_by_hand(2, override="")
    await platform.promote_by_hand(2)
    assert [entry.version for entry in await entries(platform.registry)] == [2, 3]
