"""What a training run offers to the recipe that trains in it, and a run that is a plain folder."""

import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from typing_extensions import override

from recipekit.spec import BadData, Row, Spec


class Stopped(Exception):
    """The run was asked to stop (SIGTERM, cancelled): its checkpoint is saved and nothing more may be written."""


@dataclass(frozen=True)
class Progress:
    """What a training run reports about once a second and after each evaluation."""

    step: int
    total_steps: int
    """The most steps that the run can take; early stopping may take fewer."""
    epoch: float
    loss: float
    """Mean training loss since the last report."""
    learning_rate: float = 0.0
    gradient_norm: float = 0.0
    rows_per_second: float = 0.0
    tokens_per_second: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Validation metrics when this report follows an evaluation, by the names of the spec, plus `loss`."""


@dataclass(frozen=True)
class Data:
    """The rows of a snapshot that a training run may see: never its test split."""

    train: Sequence[Row]
    validation: Sequence[Row]
    tables: Mapping[str, Sequence[Row]] = field(default_factory=dict)

    def check(self, spec: Spec) -> None:
        """Raise BadData for rows that the recipe cannot learn from. Every fit() begins with it."""
        if not self.train or not self.validation:
            raise BadData(
                f"there are {len(self.train)} rows to train on and {len(self.validation)} to validate on: import more"
            )
        for column, info in spec.row.model_fields.items():
            if info.is_required():
                _check_column(info.alias or column, self.train, spec)
                _check_column(info.alias or column, self.validation, spec)
        if spec.label:
            _check_labels(spec.label, self.train, self.validation)


def _check_column(column: str, rows: Sequence[Row], spec: Spec) -> None:
    lacking = sum(row.get(column) is None for row in rows)
    if lacking == len(rows):
        there = ", ".join(sorted({name for row in rows for name in row})) or "none"
        raise BadData(
            f"the rows have no column {column!r}; they have: {there}. Import the file for recipe {spec.name}, "
            f"with a column {column}"
        )
    if lacking:
        raise BadData(
            f"{lacking} of {len(rows)} rows have no value in column {column!r}: import the file for recipe {spec.name}, "
            "which puts such rows into quarantine"
        )


def _check_labels(column: str, train: Sequence[Row], validation: Sequence[Row]) -> None:
    counts = Counter(str(row[column]) for row in train)
    if len(counts) == 1:
        (label,) = counts
        raise BadData(
            f"only one label: {label!r} × {len(train)}. There is nothing to tell apart: add rows of another label"
        )
    if len(counts) == len(train):
        raise BadData(
            f"{len(counts)} labels in {len(train)} rows: is column {column!r} the label? Each label needs several rows"
        )
    if not any(str(row[column]) in counts for row in validation):
        raise BadData(
            "no validation row has a label of the training rows: there is nothing to choose weights by. Add rows of each"
        )


class Run(Protocol):
    """Where a recipe's training reports its progress and keeps its files."""

    artifact: Path
    """An empty folder; what fit() leaves in it is the artifact."""

    stop_requested: bool
    """True once the training should save a checkpoint after its present step and raise Stopped."""

    def report(self, progress: Progress) -> None:
        """Publish the latest progress."""
        ...

    def numerics(self, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The numerics of the first attempt (dtype, threads, …), measured by it and given to every later attempt."""
        ...

    def latest_checkpoint(self) -> Path | None:
        """A folder holding the newest complete checkpoint of any attempt, or None."""
        ...

    def save_checkpoint(self, step: int, write: Callable[[Path], None]) -> None:
        """Keep what `write(folder)` leaves in a fresh folder; it is visible whole or not at all."""
        ...


class LocalRun(Run):
    """A run in a plain folder, for notebooks and tests: {root}/artifact, {root}/checkpoints/{step}, numerics.json."""

    def __init__(self, root: Path, on_progress: Callable[[Progress], None] = lambda progress: None) -> None:
        self.root = root
        self.artifact = root / "artifact"
        self.artifact.mkdir(parents=True, exist_ok=True)
        self.checkpoints = root / "checkpoints"
        self.checkpoints.mkdir(exist_ok=True)
        self.stop_requested = False
        self.on_progress = on_progress

    @override
    def report(self, progress: Progress) -> None:
        self.on_progress(progress)

    @override
    def numerics(self, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        path = self.root / "numerics.json"
        if not path.exists():
            fresh = path.with_suffix(".new")
            fresh.write_text(json.dumps(measure()))
            os.replace(fresh, path)
        return dict(json.loads(path.read_text()))

    @override
    def latest_checkpoint(self) -> Path | None:
        steps = sorted(self.checkpoints.glob("[0-9]*"))
        return steps[-1] if steps else None

    @override
    def save_checkpoint(self, step: int, write: Callable[[Path], None]) -> None:
        final = self.checkpoints / f"{step:010d}"
        if final.exists():
            return
        fresh = Path(tempfile.mkdtemp(prefix=".fresh-", dir=self.checkpoints))
        write(fresh)
        os.replace(fresh, final)
        for old in sorted(self.checkpoints.glob("[0-9]*"))[:-2]:
            shutil.rmtree(old)
        for abandoned in self.checkpoints.glob(".fresh-*"):
            shutil.rmtree(abandoned)
