"""A model that no longer predicts what it did after training is refused; batching keeps the order of the rows."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from recipekit.catalog import Catalog
from recipekit.predictor import GoldenMismatch, Item, load_artifact, predict, write_golden
from recipekit.run import Data, LocalRun
from recipekit.spec import Prediction, Row

CATALOG = Catalog(("tests.recipes",))


def _fitted(root: Path) -> Path:
    lines = (CATALOG.folder("toy_words") / "sample.jsonl").read_text().split("\n")
    rows = [json.loads(line) for line in lines if line]
    run = LocalRun(root)
    CATALOG.fit("toy_words")(CATALOG.spec("toy_words").configure("toy", {}), Data(rows[:150], rows[150:]), run)
    write_golden(run.artifact, CATALOG, rows[150:])
    return run.artifact


def test_golden_rows_are_reproduced(tmp_path: Path) -> None:
    spec, predictor = load_artifact(_fitted(tmp_path), CATALOG)
    assert spec.name == "toy_words" and predictor.backend == "python"


def test_a_model_that_changed_after_training_is_refused(tmp_path: Path) -> None:
    folder = _fitted(tmp_path)
    model = json.loads((folder / "model.json").read_text())
    model["bias"]["good"] += 0.1
    (folder / "model.json").write_text(json.dumps(model))
    with pytest.raises(GoldenMismatch, match=r"golden row 0: \.confidence"):
        load_artifact(folder, CATALOG)


class Echo:
    """Answers with the payload, and remembers its batches."""

    backend, precision = "python", "fp64"

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def prepare(self, rows: Sequence[Row]) -> list[Item]:
        return [Item(cost=int(row["cost"]), payload=row["cost"]) for row in rows]

    def forward(self, items: Sequence[Item]) -> list[Prediction]:
        self.batches.append([item.cost for item in items])
        return [{"cost": item.payload} for item in items]


def test_predict_keeps_the_order_and_the_budget() -> None:
    echo = Echo()
    costs = [7, 1, 30, 2, 9, 4, 1]
    assert [p["cost"] for p in predict(echo, [{"cost": c} for c in costs], budget=12)] == costs
    for batch in echo.batches:
        assert max(batch) * len(batch) <= 12 or len(batch) == 1, f"batch {batch} is over the budget of 12"
