"""Registering versions and moving aliases, per second, beside MLflow's model registry: `python -m bench.registry`.

`[--repeats 5] [--seconds 5] [--callers 1,16] [--out results.json]`. What is compared, and how: README.md. The sides take
turns, in an order that changes. `RATIO registry_vs_mlflow` is the worst of registering and moving an alias over all numbers
of callers: the median over the turns of ours / MLflow's. Look-ups stand beside and make no claim.
"""

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.registry.sides import WORKERS, Side, mlflow, ours, version

CLAIMED = ("register", "alias")
KINDS = (*CLAIMED, "get_version", "by_alias")
Turn = Mapping[str, Mapping[str, float]]
"""By side, then by kind: calls per second."""


def turns(sides: Sequence[Side], callers: int, repeats: int, seconds: float) -> list[Turn]:
    """The figures of each turn; the first side changes from turn to turn."""
    found: list[Turn] = []
    for repeat in range(repeats):
        order = sides if repeat % 2 == 0 else sides[::-1]
        found.append({side.name: side.measure(f"m{callers}-{repeat}", callers, seconds) for side in order})
    return found


def summary(figures: Sequence[float]) -> dict[str, float]:
    """Median and range."""
    return {"median": statistics.median(figures), "least": min(figures), "most": max(figures)}


def compared(found: Sequence[Turn]) -> dict[str, Any]:
    """By kind: each side, and ours / MLflow's."""
    return {
        kind: {
            "millstream": summary([turn["millstream"][kind] for turn in found]),
            "mlflow": summary([turn["mlflow"][kind] for turn in found]),
            "ratio": summary([turn["millstream"][kind] / turn["mlflow"][kind] for turn in found]),
        }
        for kind in KINDS
    }


def show(callers: int, results: Mapping[str, Any]) -> None:
    """A line for each kind."""
    for kind, by_side in results.items():
        words = [f"{callers:>3} callers  {kind:<12}"]
        for name, unit in (("millstream", "/s"), ("mlflow", "/s"), ("ratio", "")):
            figures = by_side[name]
            words.append(f"{name} {figures['median']:.2f}{unit} ({figures['least']:.2f} to {figures['most']:.2f})")
        print("  ".join(words), flush=True)


def on_disk() -> Path:
    """Where both sides store: /tmp is in memory on many machines, where a sync costs nothing."""
    folder = Path.home() / ".cache" / "millstream"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--callers", default="1,16")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results.json")
    options = parser.parse_args()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=on_disk()) as name, ExitStack() as stack:
        for folder in (Path(name) / "ours", Path(name) / "mlflow"):
            folder.mkdir()
        sides = [stack.enter_context(ours(Path(name) / "ours")), stack.enter_context(mlflow(Path(name) / "mlflow"))]
        for callers in map(int, options.callers.split(",")):
            results[str(callers)] = compared(turns(sides, callers, options.repeats, options.seconds))
            show(callers, results[str(callers)])
    worst = min(by_kind[kind]["ratio"]["median"] for by_kind in results.values() for kind in CLAIMED)
    print(f"RATIO registry_vs_mlflow {worst:.2f}")
    about = {"mlflow": version(), "mlflow_workers": int(WORKERS), "cores": os.cpu_count(), "seconds": options.seconds}
    options.out.write_text(json.dumps({**about, "repeats": options.repeats, "callers": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
