"""The training loop that all recipes share.

A recipe gives it a model, an optimiser, batches, a loss and an evaluation; the loop adds precision, schedules,
clipping, accumulation, averaging, early stopping, progress, checkpoints and exact resume. One rule holds for all of it:
**nothing in the trajectory depends on time**, so that a run killed at any step and resumed from its newest checkpoint
ends in the same weights to the last bit.

One process trains on one device. Data parallelism would enter at `_forward_backward` (each rank takes its share of a
step's micro-batches, gradients are summed): the weighting by rows already makes that sum the single process's gradient.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from recipekit.backends.torch import to_device_of
from recipekit.run import Run, Stopped
from recipekit.spec import BadData
from recipekit.training import numerics as numeric
from recipekit.training.batching import TokenBatches, generator
from recipekit.training.checkpoint import TrainingState, optimizer_state, restore_optimizer
from recipekit.training.history import Entry, Means, write_history
from recipekit.training.numerics import Precision
from recipekit.training.optim import Average, Monitor, Schedule
from recipekit.training.reporting import Reporter
from recipekit.training.seeding import random_state, restore_random_state

Batch = dict[str, Tensor]


class Diverged(BadData):
    """The loss is no longer a number. The same rows and config end the same, so a retry does not help."""


@dataclass
class Loop:
    """One training run. Call run() once."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    batches: TokenBatches
    collate: Callable[[Sequence[int], np.random.Generator], Batch]
    """(rows of a batch, generator that depends on seed, epoch and batch alone) → tensors."""
    loss: Callable[[Batch], Mapping[str, Tensor]]
    """Mean losses over a batch's rows: `loss` is minimised, the others are only reported."""
    evaluate: Callable[[], Mapping[str, float]]
    """Validation metrics and `loss`, called in eval mode without gradients, in fp32."""
    best: Monitor
    """Decides which weights are kept, and when to stop."""
    epochs: int
    """At least; see min_steps."""
    seed: int
    min_steps: int = 0
    """Steps that the run has at least, by whole epochs more: few rows need as many steps as many rows do."""
    clip: float = 1.0
    accumulate: int = 1
    """Batches per step of the optimiser."""
    evaluate_every: int | None = None
    """Steps between evaluations; None after each epoch."""
    checkpoint_every: int = 200
    patience: int | None = None
    """Evaluations without a better one before the run ends early."""
    average: float = 0.0
    """Decay of the averaged weights; 0 for none."""
    precision: Precision = "auto"
    threads: int = 0
    """Of torch on a CPU; 0 for as many as it has."""

    step: int = field(default=0, init=False)
    history: list[Entry] = field(default_factory=list, init=False)
    best_value: float | None = field(default=None, init=False)
    best_step: int = field(default=0, init=False)
    waited: int = field(default=0, init=False)
    finished: bool = field(default=False, init=False)
    departures: list[str] = field(default_factory=list, init=False)
    """At which steps the run was resumed on another kind of processor: it is not bit-exact from there."""

    def run(self, run: Run) -> None:
        """Train to the end, write history and versions to run.artifact and load the best weights into the model.

        Raises Stopped when the run was asked to stop (after a checkpoint), BadData when there is nothing to train on, and
        Diverged in the step in which the loss or its gradient is not finite.
        """
        numeric.keep_memory()
        self._numerics = numeric.recorded(run.numerics(lambda: numeric.choose(self.precision, self.threads)))
        torch.set_num_threads(self._numerics.threads)
        self._begin(run)
        if (folder := run.latest_checkpoint()) is not None:
            self._restore(TrainingState.load(folder))
        self.model.train()
        while not self.finished:
            self._one_step()
            due = self.step % self._evaluate_every == 0 or self.step == self.total_steps
            metrics = self._evaluate() if due else {}
            self._reporter.report(self.step, self._learning_rate, metrics)
            if run.stop_requested or self.finished or self.step % self.checkpoint_every == 0:
                run.save_checkpoint(self.step, self._state().save)
            if run.stop_requested and not self.finished:
                raise Stopped(f"stopped after step {self.step} of {self.total_steps}")
        self._load_best()
        for entry in self.history:
            if entry["step"] == self.best_step:
                self._reporter.report_best(self.step, entry)
        write_history(run.artifact, self.history)
        numeric.write_environment(run.artifact, self._numerics, self.departures)

    @property
    def steps_per_epoch(self) -> int:
        """Steps of the optimiser; the last one of an epoch may have fewer batches."""
        return math.ceil(len(self.batches) / self.accumulate)

    @property
    def total_steps(self) -> int:
        """The most steps that the run can take."""
        return max(self.epochs, math.ceil(self.min_steps / self.steps_per_epoch)) * self.steps_per_epoch

    @property
    def _evaluate_every(self) -> int:
        return self.evaluate_every or self.steps_per_epoch

    def _begin(self, run: Run) -> None:
        if not len(self.batches):
            raise BadData("there are no rows to train on")
        self._average = Average(self.model, self.average) if self.average else None
        self._best_weights: dict[str, Tensor] = {}
        self._window = Means()
        self._reporter = Reporter(run, self.total_steps, self.steps_per_epoch)
        self._planned: tuple[int, list[list[int]]] = (-1, [])

    def _one_step(self) -> None:
        epoch, place = divmod(self.step, self.steps_per_epoch)
        if self._planned[0] != epoch:
            self._planned = (epoch, self.batches.epoch(epoch))
        first = place * self.accumulate
        self.step += 1
        scale = self.schedule.scale(self.step, self.total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * scale
        self._forward_backward(epoch, first, self._planned[1][first : first + self.accumulate])
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), self.clip))
        if not math.isfinite(norm):
            raise self._diverged(f"gradient is {norm}")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self._average:
            self._average.update(self.step)
        for means in (self._window, self._reporter.means):
            means.add_step(norm)

    def _forward_backward(self, epoch: int, first: int, micro: Sequence[Sequence[int]]) -> None:
        """Gradients of the mean over all rows of the step, however they are spread over micro-batches."""
        total = sum(len(rows) for rows in micro)
        for number, rows in enumerate(micro, start=first):
            with self._numerics.autocast():
                losses = self.loss(self._collate(rows, epoch, number))
            (losses["loss"] * (len(rows) / total)).backward()
            for means in (self._window, self._reporter.means):
                means.add(losses, len(rows), self.batches.tokens(rows))

    def _collate(self, rows: Sequence[int], epoch: int, number: int) -> Batch:
        return to_device_of(self.model, self.collate(rows, generator(self.seed, epoch, number)))

    def _evaluate(self) -> dict[str, float]:
        """Measure, keep the best weights, give the metrics to the schedule, and decide whether to go on."""
        train = self._window.means()
        if not math.isfinite(train["loss"]):
            raise self._diverged(f"training loss is {train['loss']}")
        with self._reporter.paused():
            metrics = self._measured()
        self.schedule.observe(metrics)
        value = self.best.value(metrics)
        if self.best.better(value, self.best_value):
            self.best_value, self.best_step, self.waited = value, self.step, 0
            self._best_weights = self._weights()
        else:
            self.waited += 1
        self.history.append(
            {
                "step": self.step,
                "epoch": round(self.step / self.steps_per_epoch, 4),
                "learning_rate": self._learning_rate,
                "gradient_norm": self._window.gradient_norm,
                "train": train,
                "validation": metrics,
            }
        )
        self._window = Means()
        self.finished = self.step == self.total_steps or (self.patience is not None and self.waited >= self.patience)
        return metrics

    def _diverged(self, what: str) -> Diverged:
        """One such step spoils all weights, so there is nothing to wait for."""
        return Diverged(
            f"the {what} at step {self.step} of {self.total_steps} (learning rate {self._learning_rate:.3g}, "
            f"{self._numerics.dtype}): lower the learning rate, or clip, or train in fp32"
        )

    def _measured(self) -> dict[str, float]:
        self.model.eval()
        if self._average:
            self._average.swap()
        try:
            with torch.no_grad():
                return {name: float(value) for name, value in self.evaluate().items()}
        finally:
            if self._average:
                self._average.swap()
            self.model.train()

    def _weights(self) -> dict[str, Tensor]:
        """A copy of the weights as they were just evaluated."""
        weights = {name: tensor.detach().to("cpu", copy=True) for name, tensor in self.model.state_dict().items()}
        if self._average:
            weights.update({name: tensor.to("cpu", copy=True) for name, tensor in self._average.weights.items()})
        return weights

    def _load_best(self) -> None:
        if self._best_weights:
            self.model.load_state_dict(self._best_weights)
        self.model.eval()

    @property
    def _learning_rate(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    def _state(self) -> TrainingState:
        generators, generator_tensors = random_state()
        optimizer, moments = optimizer_state(self.optimizer)
        return TrainingState(
            values={
                "step": self.step,
                "total_steps": self.total_steps,
                "random": generators,
                "optimizer": optimizer,
                "schedule": self.schedule.state(),
                "history": self.history,
                "best_value": self.best_value,
                "best_step": self.best_step,
                "waited": self.waited,
                "finished": self.finished,
                "departures": self.departures,
                "window": self._window.state(),
            },
            tensors={
                "model": self.model.state_dict(),
                "optimizer": moments,
                "average": self._average.weights if self._average else {},
                "best": self._best_weights,
                "random": generator_tensors,
            },
        )

    def _restore(self, state: TrainingState) -> None:
        values, tensors = state.values, state.tensors
        if values["total_steps"] != self.total_steps:
            raise ValueError(f"the checkpoint is of {values['total_steps']} steps, this run of {self.total_steps}")
        self.model.load_state_dict(tensors["model"])
        restore_optimizer(self.optimizer, values["optimizer"], tensors.get("optimizer", {}))
        self.schedule.restore(values["schedule"])
        if self._average:
            self._average.restore(tensors["average"])
        self._best_weights = tensors.get("best", {})
        self.step, self.history = values["step"], values["history"]
        self.best_value, self.best_step = values["best_value"], values["best_step"]
        self.waited, self.finished = values["waited"], values["finished"]
        self._window = Means.of(values["window"])
        self.departures = values["departures"]
        if (departure := numeric.differs(self._numerics)) and (
            not self.departures or departure not in self.departures[-1]
        ):
            self.departures.append(f"step {self.step}: {departure}")
        restore_random_state(values["random"], tensors["random"])
