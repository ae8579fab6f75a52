"""On which rows a version and the champion are compared: rows that neither has seen, of labels that the champion answers."""

from pathlib import Path
from typing import Any

import pytest

from millstream.evaluation.v1.evaluation_report_pb2 import EvaluationReport
from millstream.registry.v1.model_pb2 import GateRule
from services.evaluator.reconcile import EvaluationKey
from services.evaluator.store import folder_of
from tests.worlds.evaluator import MODEL, TEST, TRAIN, VALIDATION, World, answers, relabelled, right, trained

PASSED, FAILED, ERROR = EvaluationReport.STATUS_PASSED, EvaluationReport.STATUS_FAILED, EvaluationReport.STATUS_ERROR
OLD_LABELS = ("1", "0")
OLD_TEST = relabelled(TEST, OLD_LABELS)


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.declare(MODEL, [GateRule(metric="accuracy", at_least=0.5, over_baseline=0.0, over_champion=0.0)])
    return world


async def grown(world: World, *, spoilt: int = 0, test: list[dict[str, Any]] | None = None) -> Path:
    """A champion of labels 1 and 0, and a version to whose rows those of true and false were appended; its artifact."""
    await world.labelled(*OLD_LABELS)
    world.champion(1)
    _, artifact = await world.appended(*OLD_LABELS, spoilt=spoilt, test=test)
    return artifact


async def test_a_version_that_is_worse_on_the_champions_labels_gains_nothing_by_rows_of_new_ones(world: World) -> None:
    artifact = await grown(world, spoilt=2)
    report = await world.replica().report(2)
    accuracy = report.metrics[0]
    mine, theirs = (len(right(one, OLD_TEST)) / len(OLD_TEST) for one in (artifact, trained(labels=OLD_LABELS)))
    assert (report.rows_compared, report.rows_beside_champion) == (len(TEST) + 40, len(TEST))
    assert accuracy.champion == pytest.approx(theirs) and accuracy.candidate_beside_champion == pytest.approx(mine)
    assert mine < theirs and accuracy.candidate > theirs * len(TEST) / (len(TEST) + 40), "on all rows it would win"
    assert report.status == FAILED
    (result,) = report.gate
    where = f"on the {len(TEST)} of {len(TEST) + 40} test rows whose label the champion answers"
    least, _, beside = result.text.split("; ")
    assert least == f"accuracy is {accuracy.candidate:.4f}, at least 0.5", "the figure on all rows"
    assert beside == (
        f"accuracy is {mine:.4f} and the champion's {theirs:.4f} {where}: a gain of {mine - theirs:+.4f}, not at least +0"
    )


async def test_a_version_that_answers_the_champions_labels_as_well_passes_with_new_ones(world: World) -> None:
    await grown(world)
    report = await world.replica().report(2)
    assert report.status == PASSED
    assert report.metrics[0].candidate_beside_champion >= report.metrics[0].champion
    assert any(
        note.startswith("labels that the champion never answers, so it is compared without") for note in report.notes
    )
    assert any(note.startswith(f"only {len(TEST)} rows were compared with the champion") for note in report.notes)


async def test_the_page_shows_both_figures_on_the_champions_rows(world: World) -> None:
    await grown(world, spoilt=2)
    report = await world.replica().report(2)
    html = (await world.blobs.get(f"{folder_of(report.report_id)}/report.html")).decode()
    assert f"On the {len(TEST)} of {len(TEST) + 40} rows whose label the champion answers:" in html
    accuracy = report.metrics[0]
    section = html[html.index("<h3>accuracy</h3>") : html.index("<h3>macro_f1</h3>")]
    shown = [part.split("</span>")[0] for part in section.split('<span class="number">')[1:]]
    figures = (accuracy.candidate, accuracy.baseline, accuracy.candidate_beside_champion, accuracy.champion)
    assert shown == [f"{figure:.4f}" for figure in figures]
    assert f"this version is {accuracy.champion - accuracy.candidate_beside_champion:.4f} worse" in section
    assert "All on the same" not in html


async def test_without_a_test_row_that_the_champion_can_answer_nothing_is_gained_over_it(world: World) -> None:
    await grown(world, test=answers("another", 20, "true", "false"))
    report = await world.replica().report(2)
    assert report.status == FAILED and report.metrics[0].candidate > 0.5
    assert not report.metrics[0].HasField("champion") and not report.rows_beside_champion
    assert "no test row has a label that the champion answers, so their figures are not comparable" in report.notes
    assert report.gate[-1].text.endswith("accuracy is not comparable with the champion's, see the notes")


@pytest.mark.parametrize("labels", [("good", "bad"), ("good", "bad", "mixed")])
async def test_where_the_champion_answers_every_label_all_rows_are_compared(
    world: World, labels: tuple[str, ...]
) -> None:
    await world.labelled("good", "bad", "mixed")
    world.champion(1)
    await world.labelled(*labels)
    report = await world.replica().report(2)
    assert report.rows_beside_champion == report.rows_compared == len(TEST)
    assert report.metrics[0].HasField("champion")
    assert not report.metrics[0].HasField("candidate_beside_champion")


async def leaky(world: World) -> None:
    """A version that was trained on all test rows of the others."""
    await world.version(
        snapshot=await world.snapshot(train=[*TRAIN, *TEST[:20]], validation=TEST[20:], test=VALIDATION)
    )


@pytest.mark.parametrize("gate", [[], [GateRule(metric="accuracy", at_least=0.0)]])
async def test_a_champion_that_has_seen_all_test_rows_is_followed_by_hand_only(
    world: World, gate: list[GateRule], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.evaluator.report.build.rules_of", lambda spec: [])
    world.declare(MODEL, gate)
    await leaky(world)
    await world.version(snapshot=await world.snapshot())
    world.champion(1)
    report = await world.replica().report(2)
    assert (report.status, report.error) == (FAILED, "")
    assert (report.rows_compared, report.rows_left_out, list(report.metrics)) == (0, len(TEST), [])
    first = report.gate[0]
    assert not first.passed and not first.HasField("rule")
    assert first.text.startswith(
        f"nothing can be compared: all {len(TEST)} test rows are among the training or validation rows of the champion, "
        "version 1, or of this version; import rows that neither has seen"
    )
    assert f"millstream promote {MODEL} 2 --override REASON" in first.text
    assert not any(result.HasField("rule") for result in report.gate), "no rule judges figures that there are not"
    html = (await world.blobs.get(f"{folder_of(report.report_id)}/report.html")).decode()
    assert "<code>rows</code>" in html and "nothing can be compared" in html


async def test_a_version_whose_test_rows_one_champion_had_seen_is_judged_beside_the_next(world: World) -> None:
    await world.version(snapshot=await world.snapshot())
    await leaky(world)
    await world.version(snapshot=world.dataprep.snapshots[0])
    world.champion(2)
    replica = world.replica()
    assert (await replica.report(3)).status == FAILED
    assert EvaluationKey(MODEL, 3) not in [key async for key in replica.evaluate.pending()]
    world.champion(1)
    assert EvaluationKey(MODEL, 3) in [key async for key in replica.evaluate.pending()]
    report = await replica.report(3)
    assert (report.status, report.champion_version, report.rows_compared) == (PASSED, 1, len(TEST))


async def test_a_version_that_has_seen_all_its_test_rows_itself_cannot_be_evaluated_beside_any_champion(
    world: World,
) -> None:
    await leaky(world)
    await world.version(snapshot=await world.snapshot(train=[*TRAIN, *TEST]))
    world.champion(1)
    report = await world.replica().report(2)
    assert (
        report.status == ERROR and "among the training or validation rows of this version, so nothing" in report.error
    )
