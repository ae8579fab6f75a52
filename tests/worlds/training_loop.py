"""A training small enough to follow by hand: one weight per column, least squares, on the shared loop."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recipekit.training.batching import TokenBatches
from recipekit.training.loop import Batch, Loop
from recipekit.training.optim import Group, Monitor, WarmUp, adamw

ROWS = 24
X = torch.linspace(-1, 1, ROWS * 2).reshape(ROWS, 2)
Y = X @ torch.tensor([2.0, -1.0])


class Line(nn.Module):
    """y = x · w"""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.w = nn.Linear(2, 1, bias=False)

    def forward(self, batch: Batch) -> Tensor:
        return self.w(self.dropout(batch["x"])).squeeze(-1)


def make_loop(
    loss_factor: float = 1.0, noise: float = 0.01, learning_rate: float = 0.1, dropout: float = 0.0, **changes: Any
) -> Loop:
    """The loop over ROWS rows in batches of 4; everything depends on seeds alone."""
    torch.manual_seed(0)
    model = Line(dropout)

    def collate(rows: Sequence[int], rng: np.random.Generator) -> Batch:
        errors = torch.from_numpy(rng.normal(0, noise, len(rows))).float()
        return {"x": X[list(rows)], "y": Y[list(rows)] + errors}

    def loss(batch: Batch) -> Mapping[str, Tensor]:
        return {"loss": loss_factor * ((model(batch) - batch["y"]) ** 2).mean()}

    def evaluate() -> Mapping[str, float]:
        return {"loss": float(((model({"x": X}) - Y) ** 2).mean().detach())}

    settings: dict[str, Any] = {
        "model": model,
        "optimizer": adamw([Group(model.parameters(), learning_rate)]),
        "schedule": WarmUp(),
        "batches": TokenBatches([1] * ROWS, budget=4, seed=1),
        "collate": collate,
        "loss": loss,
        "evaluate": evaluate,
        "best": Monitor("loss"),
        "epochs": 4,
        "seed": 1,
        "precision": "fp32",
        "threads": 1,
    }
    return Loop(**{**settings, **changes})
