"""Labels: what a report says of those that a version gains or loses against the champion, and what never passes."""

from collections import Counter
from pathlib import Path

import pytest
from google.protobuf.json_format import MessageToDict

from millstream.evaluation.v1.evaluation_report_pb2 import EvaluationReport
from millstream.registry.v1.model_pb2 import GateRule
from recipekit.catalog import Catalog
from recipekit.gate import verdict
from recipekit.spec import Spec
from services.evaluator.measure import ChampionModel
from services.evaluator.vocabulary import LISTED, LONGEST, Vocabulary, vocabulary_of
from tests.worlds.evaluator import CATALOG, MODEL, TEST, TRAIN, VALIDATION, World, relabelled, trained

PASSED, FAILED = EvaluationReport.STATUS_PASSED, EvaluationReport.STATUS_FAILED
LENIENT = [GateRule(metric="accuracy", at_least=0.1)]
SPEC = CATALOG.spec("toy_words")


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.declare(MODEL, LENIENT)
    return world


def counts(report: EvaluationReport) -> dict[str, tuple[int, int]]:
    """By label: the rows of the version and of the champion."""
    return {one.label: (one.version_rows, one.champion_rows) for one in report.label_change.labels}


def rows_of(rows: list[dict[str, str]], *labels: str) -> int:
    return sum(row["label"] in labels for row in rows)


async def test_labels_that_only_differ_in_their_spelling_never_pass_and_are_not_comparable(world: World) -> None:
    await world.labelled("1", "0")
    world.champion(1)
    await world.labelled("1.0", "0.0")
    report = await world.replica().report(2)
    assert report.status == FAILED
    change = report.label_change
    assert (change.kept, change.new, change.lost, change.unknown) == (0, 2, 2, "")
    ones, zeros = rows_of(TRAIN, "good"), rows_of(TRAIN, "bad")
    assert counts(report) == {"1.0": (ones, 0), "0.0": (zeros, 0), "1": (0, ones), "0": (0, zeros)}
    labels, accuracy = report.gate
    assert accuracy.passed and not labels.passed and not labels.HasField("rule")
    assert "not comparable, no label in common" in labels.text
    assert f"'1' ({ones} rows)" in labels.text and f"'0.0' ({zeros} rows)" in labels.text
    assert f"millstream promote {MODEL} 2 --override REASON" in labels.text
    assert not any(metric.HasField("champion") for metric in report.metrics), "a champion of other labels is not beaten"


async def test_a_gain_over_a_champion_of_other_labels_is_no_gain(world: World) -> None:
    world.declare(MODEL, [GateRule(metric="accuracy", over_champion=-1.0)])
    await world.labelled("1", "0")
    world.champion(1)
    await world.labelled("1.0", "0.0")
    report = await world.replica().report(2)
    assert [result.passed for result in report.gate] == [False, False]
    assert report.gate[1].text == "accuracy is not comparable with the champion's, see the notes"
    assert any("no label in common" in note for note in report.notes)


async def test_a_lost_label_never_passes_and_the_champions_figures_stay(world: World) -> None:
    await world.labelled("good", "bad", "mixed")
    world.champion(1)
    await world.labelled("good", "bad")
    report = await world.replica().report(2)
    assert report.status == FAILED
    assert (report.label_change.kept, report.label_change.new, report.label_change.lost) == (2, 0, 1)
    lost = rows_of(relabelled(TRAIN, ("good", "bad", "mixed")), "mixed")
    assert f"labels of the champion, version 1, are lost: 'mixed' ({lost} rows)" in report.gate[0].text
    assert report.label_change.labels[0].label == "mixed", "lost labels come first"
    assert report.metrics[0].HasField("champion")


@pytest.mark.parametrize("labels", [("good", "bad"), ("good", "bad", "mixed")])
async def test_the_same_labels_and_more_of_them_may_pass(world: World, labels: tuple[str, ...]) -> None:
    await world.labelled("good", "bad")
    world.champion(1)
    await world.labelled(*labels)
    report = await world.replica().report(2)
    assert report.status == PASSED
    assert (report.label_change.kept, report.label_change.new, report.label_change.lost) == (2, len(labels) - 2, 0)
    assert all(result.HasField("rule") for result in report.gate)
    assert any("'mixed'" in note and "the champion never answers" in note for note in report.notes) == (len(labels) > 2)


MIXED_TRAIN, MIXED_TEST = (rows_of(relabelled(rows, ("good", "bad", "mixed")), "mixed") for rows in (TRAIN, TEST))


@pytest.mark.parametrize(
    ("why", "in_train", "in_test"),
    [("nearly lost", 1, 0), ("nearly lost, and tested", 1, MIXED_TEST), ("no longer tested", MIXED_TRAIN, 0)],
)
async def test_a_label_that_a_version_is_not_shown_to_answer_still_never_passes_by_itself(
    world: World, why: str, in_train: int, in_test: int
) -> None:
    await world.labelled("good", "bad", "mixed")
    world.champion(1)
    await world.labelled("good", "bad", "mixed", in_train=in_train, in_test=in_test)
    report = await world.replica().report(2)
    assert report.status == FAILED, why
    change = report.label_change
    assert (change.kept, change.new, change.lost, change.unproven) == (3, 0, 0, 1)
    first, *others = change.labels
    assert (first.label, first.unproven) == ("mixed", True) and not any(one.unproven for one in others)
    labels, accuracy = report.gate
    assert accuracy.passed and not labels.passed and not labels.HasField("rule")
    assert labels.text.startswith(
        "labels of the champion, version 1, have too few training rows left or are no longer tested: 'mixed' ("
    )
    assert f"{in_train} training and {in_test} test rows, the champion's {MIXED_TRAIN} and {MIXED_TEST}" in labels.text
    assert f"millstream promote {MODEL} 2 --override REASON" in labels.text


async def test_a_label_that_was_as_rare_with_the_champion_holds_nothing_back(world: World) -> None:
    for in_train in (1, 2):
        await world.labelled("good", "bad", "mixed", in_train=in_train, in_test=0)
    world.champion(1)
    report = await world.replica().report(2)
    assert (report.status, report.label_change.unproven) == (PASSED, 0)


async def test_a_test_row_that_the_champion_had_seen_shows_nothing_that_could_be_missed(world: World) -> None:
    mixed = {"text": "half and half", "label": "mixed"}
    seen = await world.snapshot(train=[*TRAIN, mixed], test=[*TEST, mixed])
    await world.version(snapshot=seen)
    world.champion(1)
    for train in ([*TRAIN, mixed], [*TRAIN[1:], mixed]):
        await world.version(snapshot=await world.snapshot(train=train, test=[*TEST, mixed]))
    for version in (2, 3):
        report = await world.replica().report(version)
        assert (report.status, report.label_change.unproven) == (PASSED, 0)


@pytest.mark.parametrize("spelling", ["Good", "good\u200b", "go\ufe0fod"])
async def test_a_second_spelling_of_a_label_never_passes_by_itself(world: World, spelling: str) -> None:
    await world.labelled("good", "bad")
    world.champion(1)
    await world.labelled("good", "bad", spelling)
    report = await world.replica().report(2)
    assert (report.status, report.label_change.new, report.label_change.lookalike) == (FAILED, 1, 1)
    first = report.label_change.labels[0]
    assert (first.label, first.looks_like) == (spelling, "good")
    labels = next(result for result in report.gate if not result.passed)
    assert labels.text.startswith("new labels look like labels of the champion, version 1: '")
    assert "like 'good'. If that is wanted, promote it by hand" in labels.text
    assert "\ufe0f" not in labels.text and "\u200b" not in labels.text, "a reader sees what differs"


@pytest.mark.parametrize(
    ("why", "version", "champion", "unproven"),
    [
        ("nothing changed", {"a": 90, "b": 1}, {"a": 90, "b": 1}, set()),
        ("a tenth is left", {"a": 90, "b": 10}, {"a": 90, "b": 100}, set()),
        ("less than a tenth is left", {"a": 900, "b": 99}, {"a": 900, "b": 1000}, {"b"}),
        ("fewer than ten are left of more, as it fades by steps", {"a": 90, "b": 9}, {"a": 90, "b": 10}, {"b"}),
        ("half of a rare label is left", {"a": 90, "b": 5}, {"a": 90, "b": 9}, set()),
        ("less than half of a rare label is left", {"a": 90, "b": 4}, {"a": 90, "b": 9}, {"b"}),
        ("one of three rows is left", {"a": 90, "b": 1}, {"a": 90, "b": 3}, {"b"}),
        ("one of two rows is left", {"a": 90, "b": 1}, {"a": 90, "b": 2}, set()),
        ("a file that was cut off", {"a": 80, "b": 9}, {"a": 900, "b": 100}, {"a", "b"}),
        ("rows of other labels came, and none of it went", {"a": 9000, "b": 10}, {"a": 90, "b": 10}, set()),
        ("a label that the champion has not", {"a": 90, "b": 1}, {"a": 90}, set()),
        ("a label that is lost is that, and not unproven", {"a": 90}, {"a": 90, "b": 10}, set()),
    ],
)
def test_a_label_has_too_few_rows_below_a_tenth_of_the_champions_or_below_ten_or_below_half_of_few(
    why: str, version: dict[str, int], champion: dict[str, int], unproven: set[str]
) -> None:
    assert Vocabulary(Counter(version), champion=Counter(champion)).unproven == unproven, why


async def test_without_another_champion_the_labels_are_counted_and_nothing_is_lost(world: World) -> None:
    await world.labelled("good", "bad")
    report = await world.replica().report()
    assert report.status == PASSED
    assert counts(report) == {"good": (rows_of(TRAIN, "good"), 0), "bad": (rows_of(TRAIN, "bad"), 0)}
    assert (report.label_change.kept, report.label_change.new, report.label_change.lost) == (0, 0, 0)


async def test_a_champion_whose_labels_cannot_be_read_is_followed_by_hand_only(world: World) -> None:
    await world.version(snapshot=await world.snapshot(train=TRAIN[:100]))
    await world.labelled("good", "bad")
    world.champion(1)
    del world.dataprep.snapshots[0]
    report = await world.replica().report(2)
    assert report.status == FAILED
    assert "no snapshot 1" in report.label_change.unknown
    assert "are not known: no snapshot 1" in report.gate[0].text and "--override" in report.gate[0].text


async def test_a_label_that_only_validation_or_test_has_is_named(world: World) -> None:
    validation = [*VALIDATION, {"text": "half and half", "label": "mixed"}]
    test = [*TEST, {"text": "so and so", "label": "goo\u200bd"}, {"text": "well and well", "label": "goo\u200bd"}]
    await world.version(snapshot=await world.snapshot(validation=validation, test=test))
    notes = (await world.replica().report()).notes
    assert any(note.startswith("validation rows") and "'mixed' (1 row)" in note for note in notes)
    assert any(note.startswith("test rows") and r"'goo\u200bd' (2 rows)" in note for note in notes)


async def test_a_comparison_on_few_rows_says_what_one_row_counts(world: World) -> None:
    await world.version(snapshot=await world.snapshot(test=TEST[:8]))
    assert any("only 8 rows" in note and "0.1250" in note for note in (await world.replica().report()).notes)
    many = [{**row, "text": f"{row['text']} {number}"} for number in range(4) for row in TEST]
    await world.version(trained(steps=1), await world.snapshot(test=many))
    assert not any("rows were compared" in note for note in (await world.replica().report(2)).notes)


async def test_the_page_and_the_json_show_the_labels_with_their_rows(world: World) -> None:
    await world.labelled("good", "<bad>")
    world.champion(1)
    await world.labelled("good", "fine")
    replica = world.replica()
    report = await replica.report(2)
    html = (
        await world.blobs.get(f"reports/{MODEL}/0000000002/{report.report_id.rpartition('.')[2]}/report.html")
    ).decode()
    assert "The labels" in html and "&lt;bad&gt;" in html and "<bad>" not in html
    assert html.index("<td>&lt;bad&gt;</td>") < html.index("<td>fine</td>")
    (first, *_) = MessageToDict(report)["labelChange"]["labels"]
    assert first == {
        "label": "<bad>",
        "championRows": str(rows_of(TRAIN, "bad")),
        "championTestRows": str(rows_of(TEST, "bad")),
    }


def test_a_champion_of_another_recipe_is_read_by_that_recipes_label_column() -> None:
    class Two(Catalog):
        def spec(self, name: str) -> Spec:
            return _with_label("verdict") if name == "other" else super().spec("toy_words")

    rows = [{"text": "a", "verdict": "good", "label": "noise"}]
    champion = ChampionModel(1, rows, recipe="other")
    vocabulary = vocabulary_of(SPEC, [{"text": "b", "label": "good"}], [], {}, champion, Two(["tests.recipes"]))
    assert vocabulary.champion == {"good": 1}
    unknown = vocabulary_of(SPEC, TRAIN, TEST, {}, ChampionModel(1, rows, recipe="gone"), CATALOG)
    assert unknown.champion is None and "no recipe is named 'gone'" in unknown.unknown


def _with_label(column: str) -> Spec:
    from dataclasses import replace

    from pydantic import BaseModel

    class Judged(BaseModel):
        text: str
        verdict: str

    return replace(SPEC, label=column, row=Judged)


def test_a_recipe_without_labels_or_with_real_numbers_has_no_vocabulary() -> None:
    from dataclasses import replace

    from pydantic import BaseModel

    class Measured(BaseModel):
        label: float

    for spec in (replace(SPEC, label=None), replace(SPEC, row=Measured)):
        assert not vocabulary_of(spec, TRAIN, TEST, {"test": TEST}, None, CATALOG).change().labels


def test_a_report_lists_a_bounded_number_of_labels_and_counts_all() -> None:
    rows = [{"text": f"text {number}", "label": f"{number}" + "x" * 1000} for number in range(3 * LISTED)]
    theirs = [{"text": "", "label": f"their {number}"} for number in range(2 * LISTED)]
    change = vocabulary_of(SPEC, rows, [], {}, ChampionModel(1, theirs, recipe="toy_words"), CATALOG).change()
    assert (change.new, change.lost, len(change.labels)) == (3 * LISTED, 2 * LISTED, 2 * LISTED)
    assert max(len(label.label) for label in change.labels) == LONGEST


def test_of_many_unproven_labels_a_bounded_number_is_listed_and_one_sentence_names_ten() -> None:
    many = Counter({f"label {number:03}": 20 for number in range(3 * LISTED)})
    few = Counter({"good": 20 * len(many), **dict.fromkeys(many, 1)})
    change = Vocabulary(few, champion=many).change()
    assert (change.unproven, change.kept, change.new) == (3 * LISTED, 3 * LISTED, 1)
    assert sum(label.unproven for label in change.labels) == LISTED
    (result,) = verdict(EvaluationReport(version=2, champion_version=1, label_change=change), [])
    assert result.text.count("the champion's 20 and 0") == 10 and "), …. If" in result.text
