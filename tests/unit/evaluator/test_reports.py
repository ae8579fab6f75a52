"""What a report says of a version: figures, gate, champion, rows, and why there is none."""

import json
from pathlib import Path

import pytest

from millstream.errors import InvalidArgument, NotFound
from millstream.evaluation.v1.evaluation_report_pb2 import EvaluationReport
from millstream.registry.v1.model_pb2 import GateRule
from recipekit.predictor import write_golden
from services.evaluator.reconcile import ChallengersKey, EvaluationKey
from services.evaluator.store import folder_of, report_id_of
from tests.worlds.evaluator import CATALOG, MODEL, TEST, TRAIN, VALIDATION, World, copied, right, trained, troubled

PASSED, FAILED, ERROR = EvaluationReport.STATUS_PASSED, EvaluationReport.STATUS_FAILED, EvaluationReport.STATUS_ERROR


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_a_first_version_passes_the_recipes_gate(world: World) -> None:
    made = await world.version()
    report = await world.replica().report()
    assert report.status == PASSED
    assert report.report_id == report_id_of(MODEL, 1, made.lineage.snapshot_id, 0)
    assert [metric.metric for metric in report.metrics] == ["accuracy", "macro_f1"]
    accuracy = report.metrics[0]
    assert accuracy.candidate > accuracy.baseline
    assert not accuracy.HasField("champion")
    (result,) = report.gate
    assert result.passed
    assert f"accuracy is {accuracy.candidate:.4f}, at least 0.7" in result.text
    assert (report.rows_compared, report.rows_left_out) == (len(TEST), 0)
    assert (report.backend, report.precision, report.baseline_name) == ("python", "fp64", "majority class")
    assert report.artifact_digest == made.artifact.digest
    assert report.lineage == made.lineage
    assert report.tables[1].title == "Confusion matrix"
    assert report.code_commit
    assert report.elapsed.ToNanoseconds() > 0


async def test_the_models_own_gate_replaces_the_recipes(world: World) -> None:
    world.declare(MODEL, [GateRule(metric="accuracy", at_least=0.1), GateRule(metric="f7", at_least=0.1)])
    await world.version(trained(wrong=True))
    report = await world.replica().report()
    assert report.status == FAILED
    assert [result.passed for result in report.gate] == [report.metrics[0].candidate >= 0.1, False]
    assert "the recipe measures accuracy, macro_f1" in report.gate[1].text


async def test_a_worse_version_is_refused(world: World) -> None:
    await world.version(trained(wrong=True))
    report = await world.replica().report()
    assert report.status == FAILED
    assert "not at least 0.7" in report.gate[0].text


async def test_the_champion_is_measured_on_the_same_rows(world: World) -> None:
    await world.version(trained(steps=1))
    await world.version()
    entry = world.champion(1)
    report = await world.replica().report(2)
    assert (report.champion_version, report.champion_entry) == (1, entry.number)
    assert report.metrics[0].HasField("champion")
    assert report.metrics[0].candidate >= report.metrics[0].champion
    assert "the champion's" in report.gate[0].text


async def test_a_version_worse_than_the_champion_is_refused(world: World) -> None:
    await world.version()
    await world.version(trained(wrong=True))
    world.champion(1)
    world.declare(MODEL, [GateRule(metric="accuracy", over_champion=0.0)])
    report = await world.replica().report(2)
    assert report.status == FAILED
    assert "not at least +0" in report.gate[0].text


async def test_over_champion_does_not_apply_to_the_champion_itself(world: World) -> None:
    await world.version()
    world.champion(1)
    world.declare(MODEL, [GateRule(metric="accuracy", over_champion=0.5)])
    report = await world.replica().report()
    assert (report.status, report.champion_version) == (PASSED, 1)
    assert not report.metrics[0].HasField("champion")


@pytest.mark.parametrize("split", ["train", "validation"])
async def test_every_figure_is_of_the_rows_that_neither_version_has_seen(world: World, split: str) -> None:
    """The champion has seen rows of this test split that it gets right, the version others, of one label."""
    weak = trained(steps=1)
    known = right(weak, TEST)[:8]
    held = [row for row in TEST if row["label"] == "good" and row not in known][:4]
    rows = [row for row in TEST if row not in known and row not in held]
    first = await world.snapshot(**{split: [*(TRAIN if split == "train" else VALIDATION), *known]})
    await world.version(weak, first)
    second = await world.snapshot(validation=[*VALIDATION, *held])
    await world.version(snapshot=second)
    world.champion(1)
    report = await world.replica().report(2)
    assert (report.rows_compared, report.rows_left_out) == (len(rows), len(TEST) - len(rows))
    accuracy = report.metrics[0]
    assert accuracy.candidate == pytest.approx(len(right(trained(), rows)) / len(rows))
    assert accuracy.champion == pytest.approx(len(right(weak, rows)) / len(rows))
    # The baseline answers "bad" to all: the first by name of two labels that are as frequent.
    assert accuracy.baseline == pytest.approx(sum(row["label"] == "bad" for row in rows) / len(rows))
    # On all test rows both would be other figures.
    assert accuracy.champion != pytest.approx(len(right(weak, TEST)) / len(TEST))
    assert accuracy.baseline != pytest.approx(sum(row["label"] == "bad" for row in TEST) / len(TEST))


async def test_rows_that_either_was_trained_on_are_left_out(world: World) -> None:
    """The champion came from a snapshot whose train split holds rows of the candidate's test split."""
    old = await world.snapshot(train=[*TRAIN, *TEST[:5]])
    await world.version(trained(steps=1), old)
    leaky = await world.snapshot(train=[*TRAIN, {**TEST[6], "label": "another"}])
    await world.version(snapshot=leaky)
    world.champion(1)
    report = await world.replica().report(2)
    assert (report.rows_compared, report.rows_left_out) == (len(TEST) - 6, 6)
    confusion = report.tables[1]
    assert sum(float(str(cell)) for row in confusion.rows for cell in list(row)[1:]) == report.rows_compared


@pytest.mark.parametrize(("train", "test"), [(TRAIN, []), ([*TRAIN, *TEST], TEST)])
async def test_nothing_to_compare_is_an_error_that_says_what_to_do(world: World, train: list, test: list) -> None:
    await world.version(snapshot=await world.snapshot(train=train, test=test))
    report = await world.replica().report()
    assert report.status == ERROR
    assert "import" in report.error


async def test_a_golden_mismatch_is_an_error_at_once(world: World, tmp_path: Path) -> None:
    changed = copied(trained(), tmp_path / "changed")
    golden = json.loads((changed / "golden.json").read_text())
    golden["predictions"][3]["confidence"] /= 2
    (changed / "golden.json").write_text(json.dumps(golden))
    await world.version(changed)
    report = await world.replica().report()
    assert report.status == ERROR
    assert "golden row 3" in report.error
    assert not report.metrics
    folder = folder_of(report.report_id)
    assert await world.blobs.exists(f"{folder}/report.html")
    assert [key.key async for key in world.blobs.list("reports/") if key.key.endswith("/claim")] == [
        f"{folder}/attempts/0000000001/claim"
    ]


@pytest.mark.parametrize("gate", [[], [GateRule(metric="accuracy", at_least=0.7)]])
async def test_a_champion_that_does_not_load_fails_only_the_rules_that_ask_for_it(
    world: World, tmp_path: Path, gate: list[GateRule]
) -> None:
    broken = copied(trained(), tmp_path / "broken")
    (broken / "model.json").write_text("{}")
    await world.version(broken)
    await world.version()
    world.champion(1)
    world.declare(MODEL, gate)
    report = await world.replica().report(2)
    assert report.status == (PASSED if gate else FAILED)
    assert not report.metrics[0].HasField("champion")
    assert report.notes[0].startswith("the champion, version 1, was not measured")
    if not gate:
        assert "not comparable with the champion's" in report.gate[0].text


async def test_a_champion_whose_data_is_gone_does_not_keep_its_challenger_from_a_report(world: World) -> None:
    await world.version()
    second = await world.snapshot(train=TRAIN[:100])
    await world.version(snapshot=second)
    world.champion(1)
    del world.dataprep.snapshots[0]
    report = await world.replica().report(2)
    assert report.status == FAILED
    assert "no snapshot 1" in report.notes[0]


async def test_no_gate_at_all_passes_and_says_so(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.evaluator.report.build.rules_of", lambda spec: [])
    await world.version()
    report = await world.replica().report()
    assert report.status == PASSED
    assert "neither the model nor its recipe declares a gate" in report.notes[-1]


async def test_a_metric_that_the_recipe_forgot_is_no_number_and_fails(world: World, tmp_path: Path) -> None:
    artifact = troubled(tmp_path, "forgets")
    write_golden(artifact, CATALOG, VALIDATION)
    await world.version(artifact)
    report = await world.replica().report()
    assert report.status == FAILED
    stored = json.loads(await world.blobs.get(f"{folder_of(report.report_id)}/report.json"))
    assert stored["metrics"][0]["candidate"] == "NaN"


async def test_a_snapshot_that_was_replaced_is_refused(world: World) -> None:
    await world.version()
    world.dataprep.snapshots[0].snapshot_id = "another"
    with pytest.raises(InvalidArgument, match="the dataset was replaced"):
        await world.replica().report()


async def test_work_that_cannot_be_done_ends_in_a_report_with_the_reason(world: World) -> None:
    await world.version()
    replica = world.replica()
    await replica.evaluate.end(EvaluationKey(MODEL, 1), NotFound("no snapshot 1 of words"))
    (report,) = await replica.store.reports(MODEL)
    assert (report.status, report.error) == (ERROR, "no snapshot 1 of words")
    await replica.evaluate.end(EvaluationKey(MODEL, 1), NotFound("again"))
    assert await replica.store.reports(MODEL) == [report]
    assert await replica.evaluate.reconcile(EvaluationKey(MODEL, 1)) is None
    await replica.evaluate.end(EvaluationKey(MODEL, 7), NotFound("no such version"))
    await replica.find.end(ChallengersKey(MODEL), NotFound("no such model"))
    assert await replica.store.reports(MODEL) == [report]
