"""Changed labels never become champion without a person: a real registry beside a real evaluator, whatever happens."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest

from millstream.errors import FailedPrecondition, MillstreamError
from millstream.evaluation.v1.evaluation_report_pb2 import EvaluationReport, LabelChange
from millstream.evaluation.v1.evaluation_service_pb2 import EvaluateModelVersionRequest
from millstream.registry.v1.model_pb2 import AliasEntry
from services.evaluator.reconcile import EvaluationKey
from tests.worlds.evaluator import MODEL
from tests.worlds.promotion import LENIENT, Platform
from tests.worlds.registry import entries

VOCABULARIES = [
    ("good", "bad"),
    ("bad", "good", "mixed"),
    ("1", "0"),
    ("1.0", "0.0"),
    ("good", "0"),
    ("good", "bad", ""),
]
FEW: list[dict[str, int]] = [{}, {}, {"in_train": 1}, {"in_train": 5}, {"in_test": 0}, {"in_train": 1, "in_test": 0}]
STRICT = [{"metric": "accuracy", "over_champion": 0.0}]
AUTOMATIC = AliasEntry.ACTION_PROMOTED_AUTOMATICALLY
GROWN = LabelChange(kept=2, new=1)


def a_step(platform: Platform, rng: random.Random) -> Callable[[], Awaitable[None]]:
    version = rng.randint(1, len(platform.versions))
    # Mostly labels that may follow one another, so that how many rows have them decides.
    labels, few = rng.choices(VOCABULARIES, [8, 6, 1, 1, 1, 2])[0], rng.choice(FEW)
    steps = rng.choice([60, 60, 60, 1])
    return rng.choices(
        [
            lambda: platform.train(labels, steps, **few),
            lambda: platform.deliver(labels, steps, **few),
            lambda: platform.train_on_test_rows(labels),
            lambda: platform.evaluate(version),
            lambda: platform.evaluate(len(platform.versions)),
            platform.promote,
            platform.release,
            lambda: platform.promote_by_hand(version),
            lambda: platform.promote_by_hand(version, override=""),
            platform.roll_back,
            lambda: platform.old_report(version),
            lambda: platform.old_report(version, GROWN),
            lambda: platform.apply(rng.choice([LENIENT, [{"metric": "accuracy", "over_champion": -1.0}], STRICT, []])),
        ],
        weights=[2, 6, 1, 2, 4, 4, 6, 1, 3, 1, 1, 1, 1],
    )[0]


async def promote_each_by_hand(platform: Platform) -> None:
    """A person tries every version, the newest first, each with a report beside the champion of that moment."""
    for version in range(len(platform.versions), 0, -1):
        await platform.evaluator.service.EvaluateModelVersion(EvaluateModelVersionRequest(model=MODEL, version=version))
        await platform.evaluate(version)
        with suppress(MillstreamError):
            await platform.promote_by_hand(version, override="")


async def fair_reports(platform: Platform, kinds: Counter[str]) -> set[str]:
    """The ids of the reports that compared something, each on the rows that neither had seen and both can answer."""
    fair = set()
    for report, version, champion in await platform.comparisons():
        if report.status == EvaluationReport.STATUS_ERROR:
            continue
        unseen, shared = version.unseen(champion), version.shared(champion)
        assert report.rows_compared == len(unseen), report
        if not unseen:
            kinds["nothing compared"] += 1
            assert report.status == EvaluationReport.STATUS_FAILED and not report.metrics, report
            continue
        fair.add(report.report_id)
        accuracy = report.metrics[0]
        assert accuracy.candidate == pytest.approx(version.accuracy(unseen)), report
        if not accuracy.HasField("champion"):
            continue
        fewer = len(shared) < len(unseen)
        kinds["on fewer rows"] += fewer
        assert report.rows_beside_champion == len(shared) and accuracy.HasField("candidate_beside_champion") == fewer
        mine = accuracy.candidate_beside_champion if fewer else accuracy.candidate
        assert (mine, accuracy.champion) == pytest.approx((version.accuracy(shared), champion.accuracy(shared))), report
    return fair


@pytest.mark.timeout(1800)
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
        await promote_each_by_hand(platform)
        fair = await fair_reports(platform, kinds)
        for move, before, after in await platform.judged_moves():
            how = "by itself" if move.action == AUTOMATIC else "by hand, without an override"
            assert move.report_id in fair, f"seed {seed}: version {move.version} was promoted {how} beside none"
            assert not before.given_up(after), (
                f"seed {seed}: version {move.version} was promoted {how}: {before}, {after}"
            )
            kinds["kept" if before.train.keys() == after.train.keys() else "grown"] += 1
            kinds[how] += 1
        for report in await platform.evaluator.store.reports(MODEL):
            kinds["held back"] += any(not result.HasField("rule") for result in report.gate)
            kinds["unproven"] += bool(report.label_change.unproven)
    reports = ("held back", "unproven", "on fewer rows", "nothing compared")
    assert all(kinds[kind] for kind in ("kept", "grown", "by itself", "by hand, without an override", *reports)), kinds


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


@pytest.mark.parametrize("change", [None, GROWN], ids=["no-labels", "rows-that-the-champion-cannot-answer"])
async def test_a_report_of_an_older_comparison_is_made_again_before_it_promotes(
    tmp_path: Path, change: LabelChange | None
) -> None:
    platform = Platform(tmp_path)
    await platform.apply()
    await platform.train(("good", "bad"))
    await platform.evaluate(1)
    await platform.promote()
    await platform.train(("good", "bad", "mixed"))
    await platform.old_report(2, change)
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


async def test_a_gain_by_rows_of_new_labels_alone_promotes_nothing(tmp_path: Path) -> None:
    platform = Platform(tmp_path)
    await platform.apply(STRICT)
    await platform.deliver(("1", "0"))
    await platform.register(*await platform.world.appended("1", "0", spoilt=2))
    champion, worse = platform.versions
    shared = worse.shared(champion)
    assert worse.accuracy(worse.test) > champion.accuracy(worse.test), "it answers labels that the champion does not"
    assert worse.accuracy(shared) < champion.accuracy(shared)
    await platform.evaluate(2)
    await platform.promote()
    with pytest.raises(FailedPrecondition, match=r"accuracy is .* on the 30 of 70 test rows whose label the champion"):
        await platform.promote_by_hand(2, override="")
    await platform.register(*await platform.world.appended("1", "0"))
    await platform.evaluate(3)
    await platform.promote()
    assert [entry.version for entry in await entries(platform.registry)] == [3, 1]


async def test_a_version_whose_test_rows_the_champion_has_seen_waits_for_a_person_or_for_the_next_champion(
    tmp_path: Path,
) -> None:
    platform = Platform(tmp_path)
    await platform.apply()
    await platform.deliver(("good", "bad"))
    await platform.train_on_test_rows(("good", "bad"))
    await platform.evaluate(2)
    await platform.promote_by_hand(2)
    await platform.release()
    await platform.deliver(("good", "bad"))
    with pytest.raises(FailedPrecondition, match="nothing can be compared: all 30 test rows are among"):
        await platform.promote_by_hand(3, override="")
    assert [entry.version for entry in await entries(platform.registry)] == [2, 2, 1]
    await platform.roll_back()
    await platform.release()
    assert [key async for key in platform.evaluator.evaluate.pending()] == [EvaluationKey(MODEL, 3)]
    await platform.evaluate(3)
    await platform.promote()
    assert [entry.version for entry in await entries(platform.registry)] == [3, 1, 1, 2, 2, 1]
