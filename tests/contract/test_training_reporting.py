"""Progress is reported after an evaluation and after the first step, with means since the last report."""

from pathlib import Path

import torch

from recipekit.run import LocalRun, Progress
from recipekit.training.reporting import Reporter


def test_means_start_again_after_each_report(tmp_path: Path) -> None:
    reports: list[Progress] = []
    reporter = Reporter(LocalRun(tmp_path, reports.append), total_steps=10, steps_per_epoch=5)
    reporter.means.add({"loss": torch.tensor(3.0)}, rows=2, tokens=8)
    reporter.means.add_step(0.5)
    reporter.report(1, 0.1, {})
    reporter.means.add({"loss": torch.tensor(1.0)}, rows=2, tokens=8)
    with reporter.paused():
        pass
    reporter.report(5, 0.1, {"accuracy": 0.75})
    assert [(r.step, r.total_steps, r.epoch, r.loss) for r in reports] == [(1, 10, 0.2, 3.0), (5, 10, 1.0, 1.0)]
    assert reports[0].gradient_norm == 0.5 and reports[0].rows_per_second > 0 and reports[0].tokens_per_second > 0
    assert reports[1].metrics == {"accuracy": 0.75} and reports[0].metrics == {}


def test_the_last_report_is_of_the_best_weights(tmp_path: Path) -> None:
    reports: list[Progress] = []
    reporter = Reporter(LocalRun(tmp_path, reports.append), total_steps=10, steps_per_epoch=5)
    reporter.report_best(10, {"train": {"loss": 0.25}, "validation": {"accuracy": 0.9}})
    assert (reports[0].step, reports[0].loss, reports[0].metrics) == (10, 0.25, {"accuracy": 0.9})
