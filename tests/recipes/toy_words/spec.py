"""The toy recipe's spec: everything that a real one declares, in pure Python."""

import os
import signal
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, Field, field_validator

from recipekit import spec
from recipekit.metrics import measure_classes
from recipekit.spec import GateRule, Metric, Prediction, Row, Spec


class Config(spec.Config):
    """How to train, and how to be slow or to fail on purpose."""

    steps: int = Field(default=60, ge=1, le=1_000_000, description="gradient steps")
    batch_rows: int = Field(default=16, ge=1, le=100_000, description="rows per step")
    learning_rate: float = Field(default=0.5, gt=0, le=1000)
    checkpoint_every: int = Field(default=20, ge=1, le=1_000_000, description="steps between checkpoints")
    evaluate_every: int = Field(default=20, ge=1, le=1_000_000, description="steps between evaluations")
    step_seconds: float = Field(default=0.0, ge=0, le=3600, description="sleep per step: time to kill the training in")
    fail_at_step: int = Field(default=-1, ge=-1, le=1_000_000, description="raise before this step; -1 never")
    breaks_after: int = Field(
        default=-1, ge=-1, le=1_000_000, description="steps of one attempt after which its process breaks; -1 never"
    )
    breaks_by: Literal["kill", "segfault", "exit", "hang", "memory", "disk", "device", "rows"] = Field(
        default="kill", description="how it breaks: see train.py"
    )


FATAL = "a row that kills its reader"
"""As one does that makes native code crash, or that needs more memory than there is."""


class TrainingRow(BaseModel):
    """A labelled text."""

    text: str = Field(min_length=1)
    label: str = Field(min_length=1)

    @field_validator("text")
    @classmethod
    def survive(cls, text: str) -> str:
        if text == FATAL:
            os.kill(os.getpid(), signal.SIGKILL)
        return text


class Input(BaseModel):
    """A text to predict for."""

    text: str = Field(min_length=1)


class Answer(BaseModel):
    """The prediction for one text."""

    label: str
    confidence: float = Field(ge=0, le=1)
    scores: dict[str, float]


def majority(train: Sequence[Row], test: Sequence[Row]) -> list[Prediction]:
    """The most frequent training label for every row (the first by name among equals)."""
    counts = Counter(str(row["label"]) for row in train)
    total = max(1, sum(counts.values()))
    label = min(counts, key=lambda name: (-counts[name], name), default="")
    scores = {name: count / total for name, count in sorted(counts.items())}
    return [{"label": label, "confidence": scores.get(label, 0.0), "scores": scores} for _ in test]


SPEC = Spec(
    name="toy_words",
    description="Logistic regression over words in pure Python, for tests",
    config=Config,
    presets={"default": {}, "toy": {}},
    row=TrainingRow,
    input=Input,
    prediction=Answer,
    tasks={"classify": ("accuracy",)},
    identity=("text",),
    label="label",
    metrics=(
        Metric("accuracy", "share of rows whose label was found"),
        Metric("macro_f1", "mean F1 of the classes, each counting the same"),
    ),
    gate=(GateRule("accuracy", at_least=0.7, over_baseline=0.0, over_champion=-0.1),),
    measure=measure_classes,
    baseline=majority,
    baseline_name="majority class",
    tolerance=1e-9,
)
