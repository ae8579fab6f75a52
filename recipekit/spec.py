"""What a recipe says about itself, without importing torch.

Data preparation checks rows by it, the registry checks configs by it, the evaluator measures by it and inference
checks requests and answers by it, so all of them agree on one recipe by reading one file.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Row = Mapping[str, Any]
Prediction = Mapping[str, Any]
Task = Literal["classify", "embed", "similar", "rank"]


class Config(BaseModel):
    """A recipe's run config: complete, typed, frozen. An unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(default=42, ge=0, description="decides every random choice of the training run")


@dataclass(frozen=True)
class Metric:
    """A number that the recipe is judged by."""

    name: str
    meaning: str
    higher_is_better: bool = True


@dataclass(frozen=True)
class GateRule:
    """One condition of a gate on one metric of the test split. Fields left None ask nothing.

    `at_least` / `at_most` are absolute. `over_baseline` / `over_champion` are the least gain over the other's metric on
    the same rows, counted in the metric's better direction; a negative number tolerates that much loss.
    """

    metric: str
    at_least: float | None = None
    at_most: float | None = None
    over_baseline: float | None = None
    over_champion: float | None = None


@dataclass(frozen=True)
class Table:
    """A table of the evaluation report, drawn as it is."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


@dataclass(frozen=True)
class Measured:
    """What a recipe says of predictions on rows: every declared metric, and tables worth looking at."""

    metrics: dict[str, float]
    tables: tuple[Table, ...] = ()


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
    tasks: frozenset[Task]
    """The typed RPCs that it serves; Predict serves every recipe."""
    identity: tuple[str, ...]
    """Columns that say which rows are the same: they decide exact duplicates and the split."""
    metrics: tuple[Metric, ...]
    """The first is the primary one: it chooses the best checkpoint and heads the report."""
    gate: tuple[GateRule, ...]
    """The gate of a Model that declares none."""
    measure: Callable[[Sequence[Row], Sequence[Prediction]], Measured]
    baseline: Callable[[Sequence[Row], Sequence[Row]], Sequence[Prediction]]
    """(train rows, test rows) → predictions of something simple that the model must be seen beside."""
    baseline_name: str
    tolerance: float = 1e-3
    """How far a number of a golden prediction may be off on another backend or precision."""
    label: str | None = None
    """The column to be predicted: rows that are the same but for it contradict each other."""

    @property
    def primary(self) -> Metric:
        return self.metrics[0]

    def configure(self, preset: str, overrides: Mapping[str, Any]) -> Config:
        """The complete config of a run. Raises KeyError for an unknown preset, ValidationError for a bad field."""
        return self.config.model_validate({**self.presets[preset or "default"], **overrides})
