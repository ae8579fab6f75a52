"""Predicts with the toy model."""

import os
from collections.abc import Sequence
from pathlib import Path

from typing_extensions import override

from recipekit.predictor import Item, Predictor
from recipekit.spec import Prediction, Row
from tests.recipes.toy_words.model import Model


class WordsPredictor(Predictor):
    """Predicts for each row by itself, so a batch changes nothing."""

    backend = "python"
    precision = "fp64"

    def __init__(self, model: Model) -> None:
        self.model = model

    @override
    def prepare(self, rows: Sequence[Row]) -> list[Item]:
        words = [str(row["text"]).lower().split() for row in rows]
        return [Item(cost=max(1, len(w)), payload=w) for w in words]

    @override
    def forward(self, items: Sequence[Item]) -> list[Prediction]:
        predictions: list[Prediction] = []
        for item in items:
            scores = self.model.scores(item.payload)
            label = max(scores, key=scores.__getitem__)
            predictions.append({"label": label, "confidence": scores[label], "scores": scores})
        return predictions


def load(folder: Path) -> WordsPredictor:
    """The predictor of an artifact folder. Fails, as without the machine's device, in replicas that TEST_NO_DEVICE names."""
    lacking = os.environ.get("TEST_NO_DEVICE")
    if lacking and os.path.exists(os.path.join(lacking, os.environ.get("MILLSTREAM_LISTEN", "none"))):
        raise RuntimeError("CUDA error: CUDA-capable device(s) is/are busy or unavailable")
    return WordsPredictor(Model.load(folder / "model.json"))
