"""Which test rows are compared: those that no compared model was trained on."""

from dataclasses import replace

import pytest

from recipekit.catalog import Catalog
from recipekit.spec import Spec
from services.evaluator.measure import CannotEvaluate, ChampionModel, measure
from tests.worlds.evaluator import TEST, TRAIN, VALIDATION, right, trained, trained_on


class WholeRows(Catalog):
    """The toy recipe, but without identity columns: two rows are the same if all their columns are."""

    def __init__(self) -> None:
        super().__init__(["tests.recipes"])

    def spec(self, name: str) -> Spec:
        return replace(super().spec(name), identity=())


@pytest.mark.parametrize("catalog", [Catalog(["tests.recipes"]), WholeRows()], ids=["identity-columns", "whole-rows"])
def test_test_rows_that_differ_from_the_training_rows_are_all_compared(catalog: Catalog) -> None:
    figures = measure(trained(), TRAIN, TEST, None, catalog, VALIDATION)
    assert (figures.rows_compared, figures.rows_left_out) == (len(TEST), 0)


@pytest.mark.parametrize("catalog", [Catalog(["tests.recipes"]), WholeRows()], ids=["identity-columns", "whole-rows"])
def test_rows_that_the_candidate_or_the_champion_has_seen_are_left_out(catalog: Catalog) -> None:
    champion = ChampionModel(version=1, train=TEST[2:4], validation=TEST[4:5], folder=trained())
    figures = measure(trained(), [*TRAIN, *TEST[:2]], TEST, champion, catalog, [*VALIDATION, TEST[9]])
    assert (figures.rows_compared, figures.rows_left_out) == (len(TEST) - 6, 6)


def test_a_row_with_another_label_is_the_same_row_only_by_its_identity_columns() -> None:
    relabelled = [{**row, "label": "good" if row["label"] == "bad" else "bad"} for row in TEST]
    assert measure(trained(), [*TRAIN, *relabelled], TEST, None, WholeRows(), VALIDATION).rows_left_out == 0
    with pytest.raises(CannotEvaluate, match="among the training or validation rows"):
        measure(trained(), [*TRAIN, *relabelled], TEST, None, Catalog(["tests.recipes"]), VALIDATION)


def test_every_figure_is_of_the_rows_that_neither_has_seen() -> None:
    """A row that one of them has seen would flatter it, or the baseline that they are to beat."""
    catalog, spoilt = Catalog(["tests.recipes"]), [{**row, "label": "bad"} for row in TRAIN[:70]]
    artifact = trained_on([*spoilt, *TRAIN[70:]])
    seen = right(artifact, TEST)[::2]
    kept, half = [row for row in TEST if row not in seen], len(seen) // 2
    champion = ChampionModel(version=1, train=seen[:half], folder=artifact)
    figures = measure(artifact, TRAIN, TEST, champion, catalog, [*VALIDATION, *seen[half:]])
    assert figures.rows_compared == figures.rows_beside_champion == len(kept)
    spec = catalog.spec("toy_words")
    model, baseline = (
        [share(rows) for rows in (kept, TEST)]
        for share in (
            lambda rows: len(right(artifact, rows)) / len(rows),
            lambda rows: spec.measure(rows, spec.baseline(TRAIN, rows)).metrics["accuracy"],
        )
    )
    measured = {"candidate": figures.candidate, "champion": figures.champion, "baseline": figures.baseline}
    for of, (expected, on_all) in {"candidate": model, "champion": model, "baseline": baseline}.items():
        assert expected != on_all, f"the test tells nothing: the {of} is as good on all test rows"
        found = measured[of]
        assert found and found.metrics["accuracy"] == pytest.approx(expected), f"the {of} was measured on other rows"
