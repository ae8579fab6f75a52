"""Schedules by their numbers, and averaged weights that can be exchanged with the model's."""

import math

import pytest
import torch
from torch import nn

from recipekit.training.optim import Average, Cosine, Group, Linear, Monitor, ReduceOnPlateau, Schedule, WarmUp, adamw


@pytest.mark.parametrize(
    ("schedule", "scales"),
    [
        (WarmUp(), [1, 1, 1]),
        (WarmUp(0.4), [0.25, 1, 1]),
        (Linear(floor=0.2), [1, 0.6, 0.28]),
        (Cosine(), [1, 0.5, (1 + math.cos(math.pi * 0.9)) / 2]),
    ],
)
def test_planned_schedules(schedule: Schedule, scales: list[float]) -> None:
    """Steps 1, 6 and 10 of 10."""
    assert [schedule.scale(step, 10) for step in (1, 6, 10)] == pytest.approx(scales)


def test_a_plateau_halves_the_rate_after_its_patience_and_survives_a_checkpoint() -> None:
    schedule = ReduceOnPlateau(monitor=Monitor("accuracy", higher_is_better=True), patience=1)
    for value in (0.5, 0.6, 0.6):
        schedule.observe({"accuracy": value})
    assert schedule.scale(1, 10) == 1
    resumed = ReduceOnPlateau(monitor=schedule.monitor, patience=1)
    resumed.restore(schedule.state())
    for each in (schedule, resumed):
        each.observe({"accuracy": 0.6})
        assert each.scale(1, 10) == 0.5


@pytest.mark.parametrize(
    ("higher", "value", "than", "better"),
    [
        (False, 1, 2, True),
        (False, 2, 1, False),
        (True, 2, 1, True),
        (True, 1, None, True),
        (True, math.nan, None, False),
    ],
)
def test_which_value_is_better(higher: bool, value: float, than: float | None, better: bool) -> None:
    assert Monitor("m", higher).better(value, than) is better


def test_averaged_weights_follow_the_model_and_can_be_exchanged_with_them() -> None:
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(0.0)
    average = Average(model, decay=0.5)
    model.weight.data.fill_(1.0)
    average.update(step=100)
    assert average.weights["weight"].item() == 0.5
    average.update(step=0)
    assert average.weights["weight"].item() == pytest.approx(0.95), "the first steps count little"
    average.swap()
    assert model.weight.item() == pytest.approx(0.95) and average.weights["weight"].item() == 1.0
    average.swap()
    assert model.weight.item() == 1.0
    average.restore({"weight": torch.tensor([[0.25]])})
    assert average.weights["weight"].item() == 0.25


def test_groups_have_their_own_rates_and_frozen_parameters_are_left_out() -> None:
    model, frozen = nn.Linear(2, 2), nn.Linear(2, 2).requires_grad_(False)
    groups = adamw([Group(model.parameters(), 0.1, 0.01), Group(frozen.parameters(), 0.2)]).param_groups
    assert [(g["lr"], g["initial_lr"], g["weight_decay"]) for g in groups] == [(0.1, 0.1, 0.01)]
