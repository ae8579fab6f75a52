"""Loads an artifact, for evaluator and inference alike, and checks that it predicts what it did after training.

An artifact folder holds `artifact.json` (recipe, config), `golden.json` (rows and their predictions, written right
after training), `cleaning.json` (how its rows were cleaned) and whatever the recipe saved: safetensors and JSON only.

A predictor reads clean rows: those of a snapshot are. Who serves rows as callers have them cleans them by read_cleaning().
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from recipekit.catalog import Catalog
from recipekit.cleaning import Cleaning
from recipekit.packing import BATCH_TOKENS, run_packed
from recipekit.spec import Config, Prediction, Row, Spec

GOLDEN_ROWS = 64


class GoldenMismatch(Exception):
    """A loaded model does not reproduce the predictions that it made right after training."""


@dataclass(frozen=True)
class Item:
    """One row, prepared on the CPU. `cost` is what it takes in a batch, in tokens."""

    cost: int
    payload: Any


@dataclass(frozen=True)
class Neighbour:
    """An entry of the artifact's index near to a query: cosine similarity in [-1, 1], and the entry's own fields."""

    similarity: float
    row: Row


class Predictor(Protocol):
    """A loaded model. prepare() and forward() may run in different threads; forward() in one thread at a time."""

    backend: str
    precision: str

    def prepare(self, rows: Sequence[Row]) -> list[Item]:
        """Tokenise rows that meet the recipe's input schema, on the CPU: one item per row, in their order."""
        ...

    def forward(self, items: Sequence[Item]) -> list[Prediction]:
        """Predict for one batch of any mix of lengths: the same as one row at a time, within the recipe's tolerance."""
        ...


class Searcher(Protocol):
    """What the predictor of a recipe with the `similar` task offers beside the above."""

    def similar(self, prediction: Prediction, limit: int, label: str | None) -> list[Neighbour]:
        """Up to `limit` entries of the artifact's index, nearest first, of one label if one is given.

        Runs in the thread of forward(). Raises LookupError when the artifact has no index.
        """
        ...


def write_artifact_header(folder: Path, spec: Spec, config: Config) -> None:
    """Write artifact.json, by which load_artifact() finds the recipe."""
    (folder / "artifact.json").write_text(
        json.dumps({"recipe": spec.name, "config": config.model_dump(mode="json")}, indent=1, sort_keys=True)
    )


def write_cleaning(folder: Path, cleaning: Cleaning) -> None:
    """Write cleaning.json: how the rows were cleaned that the model was trained on."""
    (folder / "cleaning.json").write_text(json.dumps(asdict(cleaning), indent=1, sort_keys=True))


def read_cleaning(folder: Path) -> Cleaning | None:
    """How rows must be cleaned before the model reads them; None: as they are, in artifacts that do not record it.

    Raises UnknownCleaning.
    """
    path = folder / "cleaning.json"
    return Cleaning.of(json.loads(path.read_text())) if path.exists() else None


def write_golden(folder: Path, catalog: Catalog, rows: Sequence[Row]) -> None:
    """Predict up to 64 of the given rows one by one and keep both in the artifact."""
    name = str(json.loads((folder / "artifact.json").read_text())["recipe"])
    spec = catalog.spec(name)
    predictor: Predictor = catalog.load(name)(folder)
    inputs = [spec.input.model_validate(dict(row)).model_dump(mode="json") for row in rows[:GOLDEN_ROWS]]
    predictions = [predict(predictor, [row])[0] for row in inputs]
    (folder / "golden.json").write_text(json.dumps({"rows": inputs, "predictions": predictions}, ensure_ascii=False))


def load_artifact(folder: Path, catalog: Catalog) -> tuple[Spec, Predictor]:
    """Load a model and check its golden rows. Raises GoldenMismatch when they are not reproduced."""
    header = json.loads((folder / "artifact.json").read_text())
    spec = catalog.spec(header["recipe"])
    predictor: Predictor = catalog.load(spec.name)(folder)
    golden = json.loads((folder / "golden.json").read_text())
    again = predict(predictor, golden["rows"])
    for number, (expected, got) in enumerate(zip(golden["predictions"], again, strict=True)):
        for path, difference in differences(expected, dict(got), spec.tolerance):
            raise GoldenMismatch(
                f"golden row {number}: {path} {difference} (tolerance {spec.tolerance}); "
                "this machine's backend changes the model's answers, so it must not serve here"
            )
    return spec, predictor


def predict(predictor: Predictor, rows: Sequence[Row], budget: int = BATCH_TOKENS) -> list[Prediction]:
    """Predict for all rows, in batches of at most `budget` padded tokens; predictions are in the order of the rows."""
    items = predictor.prepare(rows)
    return run_packed(predictor.forward, items, [item.cost for item in items], budget)


def differences(expected: Any, got: Any, tolerance: float, path: str = "") -> Iterator[tuple[str, str]]:
    """(path, what is off) for each leaf that differs; numbers may be off by `tolerance` times max(1, their size)."""
    if isinstance(expected, dict) and isinstance(got, dict) and expected.keys() == got.keys():
        for key in expected:
            yield from differences(expected[key], got[key], tolerance, f"{path}.{key}")
    elif isinstance(expected, list) and isinstance(got, list) and len(expected) == len(got):
        for i, (left, right) in enumerate(zip(expected, got, strict=True)):
            yield from differences(left, right, tolerance, f"{path}[{i}]")
    elif isinstance(expected, float | int) and isinstance(got, float | int):
        if not math.isclose(expected, got, rel_tol=tolerance, abs_tol=tolerance):
            yield path, f"was {expected}, is {got}"
    elif expected != got:
        yield path, f"was {expected!r}, is {got!r}"
