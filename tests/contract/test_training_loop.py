"""The training loop: it learns, resumes to the same bits, stops when asked, ends early and refuses a broken loss."""

import json
from pathlib import Path

import pytest
import torch

from recipekit.run import LocalRun, Progress, Stopped
from recipekit.training.batching import TokenBatches
from recipekit.training.loop import Diverged
from recipekit.training.optim import WarmUp
from tests.worlds.training_loop import ROWS, make_loop


class StopAt(WarmUp):
    """A constant learning rate, and a request to stop the run at a step."""

    def __init__(self, run: LocalRun, step: int) -> None:
        super().__init__()
        self.run, self.step = run, step

    def scale(self, step: int, total_steps: int) -> float:
        self.run.stop_requested = step >= self.step
        return super().scale(step, total_steps)


def test_it_learns_and_leaves_the_best_weights_in_the_model(tmp_path: Path) -> None:
    reports: list[Progress] = []
    loop = make_loop(epochs=8)
    loop.run(LocalRun(tmp_path, reports.append))
    assert loop.total_steps == 8 * ROWS / 4 == loop.step
    values = [entry["validation"]["loss"] for entry in loop.history]
    assert len(values) == 8 and loop.best_value == min(values) < values[0] / 4
    assert float(loop.evaluate()["loss"]) == pytest.approx(loop.best_value), "the model has other weights"
    assert reports[-1].metrics["loss"] == loop.best_value
    assert json.loads((tmp_path / "artifact" / "history.json").read_text()) == loop.history


@pytest.mark.parametrize("changes", [{}, {"average": 0.9, "accumulate": 2}], ids=["plain", "averaged"])
def test_stopped_and_resumed_it_ends_in_the_same_bits(tmp_path: Path, changes: dict[str, float]) -> None:
    whole = make_loop(**changes)
    whole.run(LocalRun(tmp_path / "whole"))
    run = LocalRun(tmp_path / "parts")
    with pytest.raises(Stopped, match="after step 5"):
        make_loop(**changes, schedule=StopAt(run, 5)).run(run)
    run.stop_requested = False
    second = make_loop(**changes)
    second.run(run)
    assert torch.equal(second.model.w.weight, whole.model.w.weight) and second.history == whole.history


def test_micro_batches_of_any_size_make_the_step_of_one_batch(tmp_path: Path) -> None:
    whole = make_loop(epochs=1, noise=0, batches=TokenBatches([1] * ROWS, ROWS, seed=1))
    parts = make_loop(epochs=1, noise=0, batches=TokenBatches([1] * ROWS, 5, seed=1), accumulate=5)
    for name, loop in (("whole", whole), ("parts", parts)):
        loop.run(LocalRun(tmp_path / name))
        assert loop.total_steps == 1
    assert parts.history[0]["gradient_norm"] == pytest.approx(whole.history[0]["gradient_norm"])
    torch.testing.assert_close(parts.model.w.weight, whole.model.w.weight)


def test_it_ends_early_when_nothing_gets_better(tmp_path: Path) -> None:
    loop = make_loop(epochs=50, patience=2, evaluate=lambda: {"loss": 1.0})
    loop.run(LocalRun(tmp_path))
    assert len(loop.history) == 3 and loop.best_step == loop.steps_per_epoch


def test_a_loss_that_is_no_number_is_diverged(tmp_path: Path) -> None:
    with pytest.raises(Diverged, match="lower the learning rate"):
        make_loop(loss_factor=float("nan")).run(LocalRun(tmp_path))


def test_a_checkpoint_of_another_length_is_refused(tmp_path: Path) -> None:
    make_loop(epochs=2).run(LocalRun(tmp_path))
    with pytest.raises(ValueError, match="12 steps, this run of 24"):
        make_loop(epochs=4).run(LocalRun(tmp_path))
