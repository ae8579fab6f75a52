"""A torch model is run in eval mode, without gradients, on its own device."""

import torch
from torch import Tensor, nn

from recipekit.backends.torch import TorchBackend, device, to_device_of


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.dropout = nn.Linear(2, 2), nn.Dropout(0.5)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.dropout(self.layer(batch["x"]))


def test_a_model_is_run_without_dropout_and_without_gradients() -> None:
    model = Noisy().train()
    backend = TorchBackend(model)
    batch = {"x": torch.ones(64, 2)}
    outputs = [backend(batch) for _ in range(2)]
    assert torch.equal(*outputs) and not outputs[0].requires_grad
    assert outputs[0].device.type == device() and (backend.name, backend.precision) == ("torch", "fp32")


def test_a_batch_moves_to_the_device_of_the_model() -> None:
    """The meta device stands for an accelerator: it is there on every machine."""
    moved = to_device_of(Noisy().to("meta"), {"x": torch.ones(1, 2)})
    assert moved["x"].device.type == "meta"
