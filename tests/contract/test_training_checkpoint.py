"""Training state survives a folder: tensors, values, and an optimiser in the middle of its work."""

from pathlib import Path

import torch
from torch import nn

from recipekit.training.checkpoint import TrainingState, optimizer_state, restore_optimizer
from recipekit.training.optim import Group, adamw


def test_state_saved_and_loaded_is_the_same_and_holds_no_code(tmp_path: Path) -> None:
    weight = torch.arange(6.0).reshape(2, 3)
    values = {"step": 7, "best": 0.1 + 0.2, "history": [{"loss": 1e-17}]}
    TrainingState(values, {"model": {"a.b": weight.t(), "tied": weight}, "best": {"a.b": weight + 1}}).save(tmp_path)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".safetensors"]
    loaded = TrainingState.load(tmp_path)
    assert loaded.values == values
    assert {group: sorted(named) for group, named in loaded.tensors.items()} == {
        "model": ["a.b", "tied"],
        "best": ["a.b"],
    }
    assert torch.equal(loaded.tensors["model"]["a.b"], weight.t())
    assert torch.equal(loaded.tensors["best"]["a.b"], weight + 1)


def test_a_restored_optimizer_takes_the_same_next_step(tmp_path: Path) -> None:
    def step(model: nn.Linear, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        (model(torch.ones(1, 3)) ** 2).sum().backward()
        optimizer.step()

    torch.manual_seed(0)
    model, other = nn.Linear(3, 2), nn.Linear(3, 2)
    optimizer, restored = (adamw([Group(m.parameters(), 0.1, 0.01)]) for m in (model, other))
    for _ in range(3):
        step(model, optimizer)
    values, tensors = optimizer_state(optimizer)
    TrainingState({"optimizer": values}, {"optimizer": tensors}).save(tmp_path)
    loaded = TrainingState.load(tmp_path)
    other.load_state_dict(model.state_dict())
    restore_optimizer(restored, loaded.values["optimizer"], loaded.tensors["optimizer"])
    step(model, optimizer)
    step(other, restored)
    assert torch.equal(model.weight, other.weight) and torch.equal(model.bias, other.bias)
