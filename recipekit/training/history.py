"""What a training run did, evaluation by evaluation: as JSON and as a picture.

It holds nothing that depends on time, so a run that was killed and resumed leaves the same bytes as one that was not.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Entry = dict[str, Any]
"""{step, epoch, learning_rate, gradient_norm, train: {loss, …}, validation: {loss, metrics …}}"""


@dataclass
class Means:
    """Sums over the rows and steps of a window, kept on the device so that no step waits for it."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    rows: int = 0
    tokens: int = 0
    norm: float = 0.0
    steps: int = 0

    def add(self, losses: Mapping[str, Tensor], rows: int, tokens: int) -> None:
        """Add one batch; `losses` are means over its rows."""
        for name, value in losses.items():
            weighted = value.detach().double() * rows
            self.sums[name] = self.sums[name] + weighted if name in self.sums else weighted
        self.rows += rows
        self.tokens += tokens

    def add_step(self, norm: float) -> None:
        """Add one step of the optimiser, with the norm of its gradient before clipping."""
        self.norm += norm
        self.steps += 1

    def means(self) -> dict[str, float]:
        """Each loss as its mean over all rows."""
        return {name: float(total) / max(1, self.rows) for name, total in self.sums.items()}

    @property
    def gradient_norm(self) -> float:
        """Mean over the steps; 0 before the first."""
        return self.norm / max(1, self.steps)

    def state(self) -> dict[str, Any]:
        """Everything as JSON; floats keep every bit."""
        return {**vars(self), "sums": {name: float(total) for name, total in self.sums.items()}}

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> "Means":
        """The sums that state() returned, on the CPU."""
        sums = {name: torch.tensor(total, dtype=torch.float64) for name, total in state["sums"].items()}
        return cls(**{**state, "sums": sums})


def write_history(folder: Path, history: Sequence[Entry]) -> None:
    """history.json and training_history.png."""
    (folder / "history.json").write_text(json.dumps(list(history), indent=1))
    if history:
        _draw(folder / "training_history.png", history)


def _draw(path: Path, history: Sequence[Entry]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    epochs = [entry["epoch"] for entry in history]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    losses, metrics = figure.subplots(1, 2)
    for split in ("train", "validation"):
        if all("loss" in entry[split] for entry in history):
            losses.plot(epochs, [entry[split]["loss"] for entry in history], label=split, marker=".")
    for name in sorted(history[-1]["validation"].keys() - {"loss"}):
        metrics.plot(epochs, [entry["validation"][name] for entry in history], label=name, marker=".")
    for axes, title in ((losses, "loss"), (metrics, "validation")):
        axes.set(title=title, xlabel="epoch")
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    figure.savefig(path, dpi=80, metadata={"Software": None})
