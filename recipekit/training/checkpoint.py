"""Training state in a folder: tensors in safetensors, the rest in JSON. No pickle: a checkpoint is data, never code."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

SEPARATOR = "|"
"""Between a tensor's group and its name; parameter names hold dots and slashes, never this."""


@dataclass
class TrainingState:
    """All that shapes the rest of a training run."""

    values: dict[str, Any]
    tensors: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write a copy; tensors that share memory (tied weights) are written once each."""
        flat = {
            f"{group}{SEPARATOR}{name}": tensor.detach().to("cpu", copy=True).contiguous()
            for group, named in self.tensors.items()
            for name, tensor in named.items()
        }
        save_file(flat, folder / "state.safetensors")
        (folder / "state.json").write_text(json.dumps(self.values))

    @classmethod
    def load(cls, folder: Path) -> "TrainingState":
        """The state that save() wrote, on the CPU."""
        tensors: dict[str, dict[str, Tensor]] = {}
        for key, tensor in load_file(folder / "state.safetensors").items():
            group, name = key.split(SEPARATOR, 1)
            tensors.setdefault(group, {})[name] = tensor.clone()
        return cls(json.loads((folder / "state.json").read_text()), tensors)


def optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """An optimiser's state as JSON and tensors named `{parameter}{SEPARATOR}{key}`."""
    state = optimizer.state_dict()
    values: dict[str, dict[str, Any]] = {}
    tensors: dict[str, Tensor] = {}
    for parameter, kept in state["state"].items():
        for key, value in kept.items():
            if isinstance(value, Tensor):
                tensors[f"{parameter}{SEPARATOR}{key}"] = value
            else:
                values.setdefault(str(parameter), {})[key] = value
    return {"groups": state["param_groups"], "values": values}, tensors


def restore_optimizer(
    optimizer: torch.optim.Optimizer, values: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    """Restore what optimizer_state() returned."""
    state: dict[int, dict[str, Any]] = {int(p): dict(kept) for p, kept in values["values"].items()}
    for key, tensor in tensors.items():
        parameter, name = key.split(SEPARATOR, 1)
        state.setdefault(int(parameter), {})[name] = tensor
    groups = [{k: tuple(v) if k == "betas" else v for k, v in group.items()} for group in values["groups"]]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
