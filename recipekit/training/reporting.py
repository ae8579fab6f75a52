"""The progress that a training reports: after each evaluation, and about once a second in between."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from recipekit.run import Progress, Run
from recipekit.training.history import Entry, Means

REPORT_SECONDS = 1.0


class Reporter:
    """Means since the last report, and its clock. Nothing in the trajectory reads either."""

    def __init__(self, run: Run, total_steps: int, steps_per_epoch: int) -> None:
        self.run, self.total_steps, self.steps_per_epoch = run, total_steps, steps_per_epoch
        self._restart()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time inside out of the rates: an evaluation trains no rows."""
        started = time.monotonic()
        yield
        self._since += time.monotonic() - started

    def report(self, step: int, learning_rate: float, metrics: Mapping[str, float]) -> None:
        """Report when there are metrics, when it is time, and after the first step."""
        elapsed = time.monotonic() - self._since
        if not metrics and elapsed < REPORT_SECONDS and step > 1:
            return
        self.run.report(
            Progress(
                step=step,
                total_steps=self.total_steps,
                epoch=step / self.steps_per_epoch,
                loss=self.means.means()["loss"],
                learning_rate=learning_rate,
                gradient_norm=self.means.gradient_norm,
                rows_per_second=self.means.rows / max(elapsed, 1e-9),
                tokens_per_second=self.means.tokens / max(elapsed, 1e-9),
                metrics=dict(metrics),
            )
        )
        self._restart()

    def report_best(self, step: int, best: Entry) -> None:
        """The last report of a run: the metrics of the weights that it keeps, not those of its last evaluation."""
        epoch, loss = step / self.steps_per_epoch, best["train"]["loss"]
        self.run.report(Progress(step, self.total_steps, epoch, loss, metrics=dict(best["validation"])))

    def _restart(self) -> None:
        self.means = Means()
        self._since = time.monotonic()
