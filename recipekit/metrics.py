"""Classification metrics without numpy, so that importing a spec stays quick.

Definitions are scikit-learn's (`f1_score(average="macro", zero_division=0)` over every label that occurs in truth or
prediction), and a test holds them to it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from recipekit.spec import Measured, Prediction, Row, Table

SHOWN_TEXT = 160
"""Characters of a text that a report shows."""


@dataclass(frozen=True)
class ClassScore:
    """The scores of one class. `support` counts the rows that truly are of it."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int


def accuracy(truth: Sequence[str], predicted: Sequence[str]) -> float:
    """Share of rows in [0, 1] whose label was found; 0 for no rows."""
    return _ratio(sum(t == p for t, p in zip(truth, predicted, strict=True)), len(truth))


def confusion(truth: Sequence[str], predicted: Sequence[str]) -> tuple[list[str], list[list[int]]]:
    """(labels, counts[true][predicted]) over every label that occurs on either side, sorted."""
    labels = sorted({*truth, *predicted})
    place = {label: i for i, label in enumerate(labels)}
    counts = [[0] * len(labels) for _ in labels]
    for t, p in zip(truth, predicted, strict=True):
        counts[place[t]][place[p]] += 1
    return labels, counts


def class_scores(truth: Sequence[str], predicted: Sequence[str]) -> list[ClassScore]:
    """Precision, recall and F1 of each class; 0 where a class was never predicted or never true."""
    labels, counts = confusion(truth, predicted)
    scores = []
    for i, label in enumerate(labels):
        hit, support, claimed = counts[i][i], sum(counts[i]), sum(row[i] for row in counts)
        f1 = _ratio(2 * hit, support + claimed)
        scores.append(ClassScore(label, _ratio(hit, claimed), _ratio(hit, support), f1, support))
    return scores


def macro_f1(truth: Sequence[str], predicted: Sequence[str]) -> float:
    """Mean F1 of the classes, each counting the same however rare it is."""
    scores = class_scores(truth, predicted)
    return _ratio(sum(score.f1 for score in scores), len(scores))


def measure_classes(
    rows: Sequence[Row], predictions: Sequence[Prediction], text: str = "text", label: str = "label", mistakes: int = 20
) -> Measured:
    """`accuracy` and `macro_f1` with a table per class, the confusion matrix and the most confident mistakes.

    Predictions need `label`, and `confidence` if mistakes are to be sorted by it.
    """
    truth = [str(row[label]) for row in rows]
    predicted = [str(prediction["label"]) for prediction in predictions]
    return Measured(
        metrics={"accuracy": accuracy(truth, predicted), "macro_f1": macro_f1(truth, predicted)},
        tables=(
            _per_class(truth, predicted),
            _confusion_table(truth, predicted),
            _mistakes(rows, predictions, text, label, mistakes),
        ),
    )


def _per_class(truth: Sequence[str], predicted: Sequence[str]) -> Table:
    return Table(
        "Per class",
        ("label", "precision", "recall", "F1", "rows"),
        tuple(
            (s.label, round(s.precision, 4), round(s.recall, 4), round(s.f1, 4), s.support)
            for s in class_scores(truth, predicted)
        ),
    )


def _confusion_table(truth: Sequence[str], predicted: Sequence[str]) -> Table:
    labels, counts = confusion(truth, predicted)
    rows = tuple((label, *line) for label, line in zip(labels, counts, strict=True))
    return Table("Confusion matrix", ("true \\ predicted", *labels), rows)


def _mistakes(rows: Sequence[Row], predictions: Sequence[Prediction], text: str, label: str, limit: int) -> Table:
    wrong = [(row, p) for row, p in zip(rows, predictions, strict=True) if str(row[label]) != str(p["label"])]
    wrong.sort(key=lambda pair: -float(pair[1].get("confidence", 0.0)))
    return Table(
        f"Misclassified examples ({min(limit, len(wrong))} of {len(wrong)}, most confident first)",
        ("text", "label", "predicted", "confidence"),
        tuple(
            (str(row[text])[:SHOWN_TEXT], str(row[label]), str(p["label"]), round(float(p.get("confidence", 0.0)), 4))
            for row, p in wrong[:limit]
        ),
    )


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
