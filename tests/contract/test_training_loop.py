"""The training loop: it learns, resumes to the same bits, stops when asked, ends early and refuses a broken loss."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from recipekit.run import LocalRun, Progress, Stopped
from recipekit.spec import BadData
from recipekit.training.batching import TokenBatches
from recipekit.training.loop import Diverged, Loop
from recipekit.training.optim import Cosine, Linear, ReduceOnPlateau, Schedule, WarmUp
from tests.worlds.training_loop import ROWS, make_loop


class StopsAfter(LocalRun):
    """A run that is asked to stop after a step of its loop."""

    def __init__(self, root: Path, step: int) -> None:
        self.loop: Loop | None = None
        self.stop_after = step
        super().__init__(root)

    @property
    def stop_requested(self) -> bool:
        return self.loop is not None and self.loop.step >= self.stop_after

    @stop_requested.setter
    def stop_requested(self, value: bool) -> None:
        """Nobody else asks it to stop."""


def rising(after: int) -> Callable[[], Loop]:
    """A loop with a validation loss that is best after some steps, and patience for five evaluations more."""

    def make() -> Loop:
        loop: Loop = make_loop(evaluate_every=1, patience=5, evaluate=lambda: {"loss": float(abs(loop.step - after))})
        return loop

    return make


SCHEDULES: dict[str, Callable[[], Schedule]] = {
    "constant": lambda: WarmUp(0.3),
    "linear": lambda: Linear(0.3),
    "cosine": lambda: Cosine(0.3),
    "plateau": lambda: ReduceOnPlateau(patience=0, factor=0.5),
    "plateau, waiting at the stop": lambda: ReduceOnPlateau(patience=4, factor=0.1),
}
LOOPS: dict[str, Callable[[], Loop]] = {
    **{
        name: lambda schedule=schedule: make_loop(  # type: ignore[misc]
            schedule=schedule(), evaluate_every=1, evaluate=lambda: {"loss": 1.0}
        )
        for name, schedule in SCHEDULES.items()
    },
    "averaged": lambda: make_loop(average=0.9),
    "with dropout": lambda: make_loop(dropout=0.5, evaluate_every=4),
    "in micro-batches": lambda: make_loop(average=0.9, accumulate=2),
    "the best lies before": rising(2),
    "the best lies at the stop": rising(5),
    "the best comes later": rising(7),
    "averaged, the best lies before": lambda: make_loop(
        average=0.9, evaluate_every=2, learning_rate=3.0, schedule=Cosine(0.0)
    ),
}


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


@pytest.mark.parametrize("name", LOOPS)
def test_stopped_and_resumed_it_ends_in_the_same_bits(tmp_path: Path, name: str) -> None:
    """Whatever the rest of a run depends on: schedule, evaluations waited, averaged and best weights, random generators."""
    whole, first, second = (LOOPS[name]() for _ in range(3))
    torch.manual_seed(2)
    whole.run(LocalRun(tmp_path / "whole"))
    torch.manual_seed(2)
    run = StopsAfter(tmp_path / "parts", 5)
    run.loop = first
    with pytest.raises(Stopped, match="after step 5"):
        first.run(run)
    run.loop = None
    torch.manual_seed(3)
    second.run(run)
    assert torch.equal(second.model.w.weight, whole.model.w.weight), "the kept weights are others"
    assert second.history == whole.history
    assert (second.step, second.best_step, second.best_value) == (whole.step, whole.best_step, whole.best_value)
    for file in ("history.json", "training_history.png"):
        assert (run.artifact / file).read_bytes() == (tmp_path / "whole" / "artifact" / file).read_bytes()


def test_few_rows_get_as_many_steps_as_the_floor(tmp_path: Path) -> None:
    loop = make_loop(epochs=2, min_steps=45)
    loop.run(LocalRun(tmp_path))
    assert loop.steps_per_epoch == 6 and loop.total_steps == loop.step == 48, "whole epochs"
    assert len(loop.history) == 8
    assert make_loop(epochs=9, min_steps=45).total_steps == 54, "the floor takes no step away"


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


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), 1e38])
def test_a_loss_that_is_no_number_ends_the_run_in_its_step(tmp_path: Path, factor: float) -> None:
    run = LocalRun(tmp_path)
    with pytest.raises(
        Diverged, match=r"at step 1 of 2400 \(learning rate 0\.1, fp32\): lower the learning rate"
    ) as caught:
        make_loop(loss_factor=factor, epochs=400, evaluate_every=1000, checkpoint_every=1).run(run)
    assert isinstance(caught.value, BadData), "a retry would end the same"
    assert run.latest_checkpoint() is None, "no checkpoint holds spoilt weights"


def test_no_rows_are_bad_data(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="no rows to train on"):
        make_loop(batches=TokenBatches([], 4, seed=1)).run(LocalRun(tmp_path))


def test_a_checkpoint_of_another_length_is_refused(tmp_path: Path) -> None:
    make_loop(epochs=2).run(LocalRun(tmp_path))
    with pytest.raises(ValueError, match="12 steps, this run of 24"):
        make_loop(epochs=4).run(LocalRun(tmp_path))
