"""Classification metrics agree with their definitions, counted by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipekit.metrics import accuracy, class_scores, confusion, macro_f1, measure_classes

TRUTH = ["a", "a", "a", "b", "b", "c"]
PREDICTED = ["a", "a", "b", "b", "c", "a"]


def test_accuracy_and_macro_f1_by_hand() -> None:
    assert accuracy(TRUTH, PREDICTED) == 3 / 6
    # a: 2 hits of 3 true, 3 claimed → 2/3; b: 1 of 2 true, 2 claimed → 1/2; c: none
    assert math.isclose(macro_f1(TRUTH, PREDICTED), (2 / 3 + 1 / 2 + 0) / 3)


def test_confusion_counts_true_by_predicted() -> None:
    labels, counts = confusion(TRUTH, PREDICTED)
    assert labels == ["a", "b", "c"]
    assert counts == [[2, 1, 0], [0, 1, 1], [1, 0, 0]]


def test_a_class_that_only_the_model_names_scores_zero_and_counts() -> None:
    scores = {score.label: score for score in class_scores(["a", "a"], ["a", "z"])}
    assert scores["z"].f1 == 0 and scores["z"].support == 0
    assert math.isclose(macro_f1(["a", "a"], ["a", "z"]), (2 / 3 + 0) / 2)


def test_no_rows_measure_as_zero() -> None:
    assert accuracy([], []) == 0
    assert macro_f1([], []) == 0


def test_lists_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError):
        accuracy(["a"], [])


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abcd")), min_size=1, max_size=60))
def test_metrics_stay_in_range_and_perfection_is_one(pairs: list[tuple[str, str]]) -> None:
    truth, predicted = [t for t, _ in pairs], [p for _, p in pairs]
    assert 0 <= macro_f1(truth, predicted) <= 1
    assert macro_f1(truth, truth) == accuracy(truth, truth) == 1


def test_the_report_shows_the_most_confident_mistakes_first() -> None:
    rows = [{"text": "x" * 500, "label": "a"}, {"text": "y", "label": "a"}, {"text": "z", "label": "b"}]
    predictions = [
        {"label": "b", "confidence": 0.6},
        {"label": "b", "confidence": 0.9},
        {"label": "b", "confidence": 1},
    ]
    measured = measure_classes(rows, predictions)
    mistakes = measured.tables[2]
    assert [row[0][0] for row in mistakes.rows] == ["y", "x"]
    assert max(len(row[0]) for row in mistakes.rows) <= 160
    assert all(len(row) == len(table.columns) for table in measured.tables for row in table.rows)
