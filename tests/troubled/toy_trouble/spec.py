"""The toy recipe's spec, with a measure() that forgets a metric if the predictions ask for it."""

from collections.abc import Sequence
from dataclasses import replace

from recipekit.spec import Measured, Prediction, Row
from tests.recipes.toy_words.spec import SPEC as TOY_WORDS


def measure(rows: Sequence[Row], predictions: Sequence[Prediction]) -> Measured:
    """The toy recipe's figures, without accuracy where a prediction says forget."""
    measured = TOY_WORDS.measure(rows, predictions)
    if any(prediction.get("forget") for prediction in predictions):
        del measured.metrics["accuracy"]
    return measured


SPEC = replace(TOY_WORDS, name="toy_trouble", measure=measure)
