"""What a recipe declares, without importing torch.

Dataprep checks rows by it, registry and trainer check configs by it, the evaluator measures by it, and inference checks
requests and answers by it. So all of them agree on a recipe, because they read the same file.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Row = Mapping[str, Any]
Prediction = Mapping[str, Any]
Task = Literal["classify", "embed", "similar", "rank"]


class Config(BaseModel):
    """A recipe's run config: complete, typed, frozen. An unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(default=42, ge=0, le=2**53 - 1, description="decides every random choice of the training run")


@dataclass(frozen=True)
class Metric:
    """A number by which models of the recipe are compared. Every measure() gives it."""

    name: str
    meaning: str
    higher_is_better: bool = True


@dataclass(frozen=True)
class GateRule:
    """One condition of a gate on one metric of the test split. A field that is None sets no condition.

    `at_least` / `at_most` are absolute. `over_baseline` / `over_champion` are the least gain over the other's metric on
    the same rows, in the metric's better direction; a negative number tolerates that much loss. Beside the champion they are
    the rows whose label it answers.
    """

    metric: str
    at_least: float | None = None
    at_most: float | None = None
    over_baseline: float | None = None
    over_champion: float | None = None


@dataclass(frozen=True)
class Table:
    """A table of the evaluation report, shown as it is."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


@dataclass(frozen=True)
class Measured:
    """What a recipe measures of predictions on rows: every declared metric, and tables for the report."""

    metrics: dict[str, float]
    tables: tuple[Table, ...] = ()


class BadConfig(ValueError):
    """A run's config is not valid. `field` is `recipe`, `preset` or `config.<path>`; the text begins with it."""

    def __init__(self, field: str, text: str) -> None:
        super().__init__(f"{field}: {text}")
        self.field = field


class BadData(ValueError):
    """The rows cannot be trained on, by no fault of the machine: a retry will not help. The text says what to change."""


# json.dumps would make an encoder for each row.
_encode = json.JSONEncoder(ensure_ascii=False, sort_keys=True, allow_nan=False).encode


def row_key(row: Row, identity: Sequence[str] = ()) -> bytes:
    """Which rows are the same: sha256 of the identity columns, or of the whole row where there are none.

    Neither the order of columns nor the process changes it. Raises ValueError for a row that JSON in UTF-8 cannot hold.
    """
    same = {name: row.get(name) for name in identity} if identity else dict(row)
    return hashlib.sha256(_encode(same).encode()).digest()


@dataclass(frozen=True)
class Spec:
    """A recipe's whole public description; `recipes/<name>/spec.py` holds one named SPEC."""

    name: str
    description: str
    config: type[Config]
    presets: Mapping[str, Mapping[str, Any]]
    """Config overrides by name. `default` and `toy` (fits sample.jsonl in seconds) always exist."""
    row: type[BaseModel]
    """A training row. Columns that it does not name are ignored, and counted in the data report."""
    input: type[BaseModel]
    """A row to predict for: a training row without its label."""
    prediction: type[BaseModel]
    tasks: Mapping[Task, tuple[str, ...]]
    """The typed RPCs that it serves, each with the metrics that tell how well; Predict serves every recipe.

    The gate has a rule on each of these metrics, so that no version is promoted that serves one of its tasks badly.
    """
    identity: tuple[str, ...]
    """Rows that agree in these columns are the same row (row_key). Empty: all columns count."""
    metrics: tuple[Metric, ...]
    """The first is the primary one: it chooses the best checkpoint, alone or with others, and is the first in the report."""
    gate: tuple[GateRule, ...]
    """The gate of a Model that declares none."""
    measure: Callable[[Sequence[Row], Sequence[Prediction]], Measured]
    baseline: Callable[[Sequence[Row], Sequence[Row]], Sequence[Prediction]]
    """(train rows, test rows) → predictions of something simple, with which the report compares the model."""
    baseline_name: str
    tolerance: float = 1e-3
    """How far a number of a golden prediction may be off on another backend or precision."""
    label: str | None = None
    """The column to predict. Two rows with one row_key and different labels contradict each other."""

    @property
    def primary(self) -> Metric:
        """The metric that is first in the report."""
        return self.metrics[0]

    @property
    def names_labels(self) -> bool:
        """Whether the label column holds names of classes, and not real numbers to predict."""
        return self.label is not None and self.row.model_fields[self.label].annotation is not float

    def row_key(self, row: Row) -> bytes:
        """row_key() by this recipe's identity columns: it decides duplicates, the split, and what was seen in training."""
        return row_key(row, self.identity)

    def configure(self, preset: str, overrides: Mapping[str, Any]) -> Config:
        """The complete config of a run; an empty preset is `default`. Raises BadConfig for the first wrong field."""
        base = self.presets.get(preset or "default")
        if base is None:
            raise BadConfig("preset", f"{self.name} has no preset {preset!r}; it has: {', '.join(self.presets)}")
        try:
            return self.config.model_validate({**base, **overrides})
        except ValidationError as error:
            first = error.errors()[0]
            raise BadConfig(f"config.{'.'.join(map(str, first['loc']))}", str(first["msg"])) from None
