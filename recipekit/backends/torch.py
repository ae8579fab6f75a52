"""Runs a trained torch model: in eval mode, without gradients, in fp32, on this process's device."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def device() -> str:
    """Where models are trained and run here: "cuda" if there is a GPU, else "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def to_device_of(model: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The batch on the device that the model is on."""
    target = next(model.parameters()).device
    return {name: tensor.to(target, non_blocking=True) for name, tensor in batch.items()}


class TorchBackend:
    """One trained model, moved to the device of this process. Inference calls it in one thread at a time."""

    name = "torch"
    precision = "fp32"

    def __init__(self, model: nn.Module) -> None:
        self.model = model.to(device()).eval()

    def __call__(self, batch: Mapping[str, Tensor]) -> Any:
        """The model's output for a batch of CPU tensors; it stays on the model's device."""
        with torch.inference_mode():
            return self.model(to_device_of(self.model, batch))
