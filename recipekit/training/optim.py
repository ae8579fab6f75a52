"""Optimiser, learning rate schedules and averaged weights, with states that are plain JSON or tensors."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from typing_extensions import override


@dataclass(frozen=True)
class Group:
    """Parameters that share a learning rate and a weight decay."""

    parameters: Iterable[nn.Parameter]
    learning_rate: float
    weight_decay: float = 0.0


def adamw(groups: Iterable[Group], betas: tuple[float, float] = (0.9, 0.999)) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019) in one fused kernel. With no weight decay it is Adam (Kingma & Ba 2015)."""
    options = [
        {
            "params": [p for p in group.parameters if p.requires_grad],
            "lr": group.learning_rate,
            "initial_lr": group.learning_rate,
            "weight_decay": group.weight_decay,
        }
        for group in groups
    ]
    return torch.optim.AdamW([o for o in options if o["params"]], betas=betas, fused=True)


@dataclass(frozen=True)
class Monitor:
    """A validation metric, or the mean of several, and which way is better."""

    metric: str
    higher_is_better: bool = False
    beside: tuple[str, ...] = ()
    """Metrics that count as much as `metric`."""

    def value(self, metrics: Mapping[str, float]) -> float:
        """What is compared."""
        return sum(metrics[name] for name in (self.metric, *self.beside)) / (1 + len(self.beside))

    def better(self, value: float, than: float | None, by: float = 0.0) -> bool:
        """Whether `value` beats `than` by more than `by`; anything beats None, a NaN beats nothing."""
        if math.isnan(value):
            return False
        return than is None or (value > than + by if self.higher_is_better else value < than - by)


class Schedule(Protocol):
    """Scales every group's learning rate. Its state is JSON."""

    def scale(self, step: int, total_steps: int) -> float:
        """What to multiply learning rates by in step 1 … total_steps."""
        ...

    def observe(self, metrics: Mapping[str, float]) -> None:
        """Called with the validation metrics after each evaluation."""
        ...

    def state(self) -> dict[str, Any]:
        """What a resumed run needs, as JSON."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore what state() returned."""
        ...


@dataclass
class WarmUp(Schedule):
    """Linear warm-up over `warm_up` (a share of all steps), then constant."""

    warm_up: float = 0.0

    @override
    def scale(self, step: int, total_steps: int) -> float:
        steps = self.warm_up * total_steps
        return min(1.0, step / steps) if steps >= 1 else 1.0

    @override
    def observe(self, metrics: Mapping[str, float]) -> None:
        """Ignored: the schedule is planned."""

    @override
    def state(self) -> dict[str, Any]:
        return {}

    @override
    def restore(self, state: Mapping[str, Any]) -> None:
        """Nothing to restore: the scale depends on the step alone."""

    def _after(self, step: int, total_steps: int) -> float:
        """Share in [0, 1] of the steps after warm-up that are done before this one."""
        steps = self.warm_up * total_steps
        return min(1.0, max(0.0, (step - 1 - steps) / max(1.0, total_steps - steps)))


@dataclass
class Linear(WarmUp):
    """Warm-up, then in a straight line down to `floor`."""

    floor: float = 0.0

    @override
    def scale(self, step: int, total_steps: int) -> float:
        return super().scale(step, total_steps) * (1 - (1 - self.floor) * self._after(step, total_steps))


@dataclass
class Cosine(WarmUp):
    """Warm-up, then half a cosine down to `floor` (Loshchilov & Hutter 2017)."""

    floor: float = 0.0

    @override
    def scale(self, step: int, total_steps: int) -> float:
        fall = (1 + math.cos(math.pi * self._after(step, total_steps))) / 2
        return super().scale(step, total_steps) * (self.floor + (1 - self.floor) * fall)


@dataclass
class ReduceOnPlateau(WarmUp):
    """Multiplies by `factor` when `monitor` has not improved for more than `patience` evaluations, down to `floor`."""

    monitor: Monitor = Monitor("loss")
    factor: float = 0.5
    patience: int = 2
    floor: float = 1e-3
    best: float | None = field(default=None, init=False)
    waited: int = field(default=0, init=False)
    reduced: float = field(default=1.0, init=False)

    @override
    def scale(self, step: int, total_steps: int) -> float:
        return super().scale(step, total_steps) * self.reduced

    @override
    def observe(self, metrics: Mapping[str, float]) -> None:
        value = self.monitor.value(metrics)
        if self.monitor.better(value, self.best, by=1e-4):
            self.best, self.waited = value, 0
            return
        self.waited += 1
        if self.waited > self.patience:
            self.reduced, self.waited = max(self.floor, self.reduced * self.factor), 0

    @override
    def state(self) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited, "reduced": self.reduced}

    @override
    def restore(self, state: Mapping[str, Any]) -> None:
        self.best, self.waited, self.reduced = state["best"], state["waited"], state["reduced"]


class Average:
    """Exponential moving average of the weights: it is evaluated and kept in their place, and varies less than they do.

    The decay warms up as (1 + step) / (10 + step), so that the first steps' weights soon count little.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = model
        self.decay = decay
        self.weights = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the model's weights after `step` steps."""
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        named = dict(self.model.named_parameters())
        torch._foreach_lerp_(list(self.weights.values()), [named[name].detach() for name in self.weights], share)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the model's weights with the averaged ones; a second call puts them back."""
        for name, parameter in self.model.named_parameters():
            if name in self.weights:
                kept = parameter.detach().clone()
                parameter.copy_(self.weights[name])
                self.weights[name].copy_(kept)

    def restore(self, weights: Mapping[str, Tensor]) -> None:
        """Restore the averaged weights of a checkpoint."""
        for name, value in weights.items():
            self.weights[name].copy_(value)
