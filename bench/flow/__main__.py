"""From the first process's start to a prediction by another process, minus training: fresh state, toy recipe, five times.

`python -m bench.flow [--runs N]` prints the median and the range of each stage, and `RATIO flow_beyond_training_vs_budget`
(1 is the budget of 5 s). The same rows trained by the same recipe in this one process stand beside it.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from recipekit.catalog import Catalog
from recipekit.predictor import load_artifact, predict, write_golden
from recipekit.run import Data, LocalRun

BUDGET_SECONDS = 5.0
RECIPE = "toy_words"


def through_the_platform() -> dict[str, float]:
    """Seconds by stage of one demo on a fresh state."""
    with tempfile.TemporaryDirectory() as state:
        command = [sys.executable, "-m", "deploy.demo", "--recipe", RECIPE, "--state", state]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    last = done.stdout.strip().splitlines()[-1]
    return dict(json.loads(last.removeprefix("DEMO OK "))["seconds"])


def alone() -> float:
    """Seconds that the same fit, load and predict take in this process."""
    catalog = Catalog(["recipes", "tests.recipes"])
    spec = catalog.spec(RECIPE)
    rows = [json.loads(line) for line in (catalog.folder(RECIPE) / "sample.jsonl").read_text().split("\n") if line]
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        run = LocalRun(Path(folder))
        catalog.fit(RECIPE)(spec.configure("toy", {}), Data(rows[40:], rows[20:40]), run)
        write_golden(run.artifact, catalog, rows[20:40])
        predict(load_artifact(run.artifact, catalog)[1], rows[:1])
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    seconds = [through_the_platform() for _ in range(runs)]
    results = {}
    for stage in seconds[0]:
        figures = [run[stage] for run in seconds]
        results[stage] = {"median": statistics.median(figures), "least": min(figures), "most": max(figures)}
        print(f"{stage:>16}  {results[stage]['median']:6.2f} s  ({min(figures):.2f} to {max(figures):.2f})")
    results["alone"] = {"median": statistics.median(alone() for _ in range(runs))}
    print(f"{'alone':>16}  {results['alone']['median']:6.2f} s")
    print(f"RATIO flow_beyond_training_vs_budget {results['beyond_training']['median'] / BUDGET_SECONDS:.3f}")
    (Path(__file__).parent / "results.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
