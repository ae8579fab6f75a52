"""Answers with the toy model."""

from collections.abc import Sequence
from pathlib import Path

from recipekit.predictor import Item
from recipekit.spec import Prediction, Row
from tests.recipes.toy_words.model import Model


class WordsPredictor:
    """Each row is answered by itself, so a batch cannot differ."""

    backend = "python"
    precision = "fp64"

    def __init__(self, model: Model) -> None:
        self.model = model

    def prepare(self, rows: Sequence[Row]) -> list[Item]:
        words = [str(row["text"]).lower().split() for row in rows]
        return [Item(cost=max(1, len(w)), payload=w) for w in words]

    def forward(self, items: Sequence[Item]) -> list[Prediction]:
        answers: list[Prediction] = []
        for item in items:
            scores = self.model.scores(item.payload)
            label = max(scores, key=scores.__getitem__)
            answers.append({"label": label, "confidence": scores[label], "scores": scores})
        return answers


def load(folder: Path) -> WordsPredictor:
    return WordsPredictor(Model.load(folder / "model.json"))
