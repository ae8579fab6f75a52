"""How well siamese_sentiment reads real Telugu, beside its baseline: `python -m bench.telugu_sentiment DATA.jsonl.gz`.

The held-out fifth is chosen by sha256 of the text, so it is the same everywhere. `--tune` reads no row of it: it holds
out another fifth, on which all choices in the recipe's presets were made.
"""

import argparse
import gzip
import json
import tempfile
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

from recipekit.catalog import Catalog
from recipekit.predictor import load_artifact, predict, write_golden
from recipekit.run import Data, LocalRun, Progress

FOLDS = 5


def fold(text: str) -> int:
    """Which fifth a text belongs to, 0 to 4."""
    return int(sha256(text.encode()).hexdigest(), 16) % FOLDS


def read(path: Path) -> list[dict[str, Any]]:
    """Rows of a .jsonl or .jsonl.gz file, split on LF only: some texts hold other line separators."""
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in data.split(b"\n") if line]


def split(rows: list[dict[str, Any]], held_out: int, hidden: int | None) -> tuple[Data, list[dict[str, Any]]]:
    """(train and validation, held-out rows): a tenth of the other folds chooses the weights."""
    test = [row for row in rows if fold(row["text"]) == held_out]
    rest = [row for row in rows if fold(row["text"]) not in (held_out, hidden)]
    validates = [int(sha256(b"validation" + row["text"].encode()).hexdigest(), 16) % 10 == 0 for row in rest]
    return Data(
        train=[row for row, v in zip(rest, validates, strict=True) if not v],
        validation=[row for row, v in zip(rest, validates, strict=True) if v],
    ), test


def show(progress: Progress) -> None:
    """Print the metrics of an evaluation."""
    if progress.metrics:
        metrics = " ".join(f"{name} {value:.4f}" for name, value in progress.metrics.items())
        print(f"  epoch {progress.epoch:.1f} train {progress.loss:.4f} {metrics}", flush=True)


def main() -> None:
    """Measure the baseline and each seed, one line of JSON each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--preset", default="default")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42])
    parser.add_argument("--set", type=json.loads, default={}, help="config overrides as JSON")
    parser.add_argument("--tune", action="store_true", help="leave the held-out fifth alone")
    parser.add_argument("--baseline", action="store_true")
    parser.add_argument("--quiet", action="store_true")
    options = parser.parse_args()

    catalog = Catalog()
    spec = catalog.spec("siamese_sentiment")
    data, test = split(read(options.data), *((1, 0) if options.tune else (0, None)))
    rows = {"train": len(data.train), "validation": len(data.validation), "test": len(test)}
    if options.baseline:
        measured = spec.measure(test, spec.baseline([*data.train, *data.validation], test))
        print(json.dumps({"model": spec.baseline_name, **rows, **measured.metrics}))
    for seed in options.seeds:
        config = spec.configure(options.preset, {**options.set, "seed": seed})
        with tempfile.TemporaryDirectory() as folder:
            run = LocalRun(Path(folder), on_progress=(lambda progress: None) if options.quiet else show)
            started = time.monotonic()
            catalog.fit(spec.name)(config, data, run)
            seconds = time.monotonic() - started
            write_golden(run.artifact, catalog, data.validation)
            measured = spec.measure(test, predict(load_artifact(run.artifact, catalog)[1], test))
        result = {"model": options.preset, **options.set, "seed": seed, **rows, **measured.metrics}
        print(json.dumps({**result, "seconds": round(seconds, 1)}), flush=True)
        if not options.quiet:
            for table in measured.tables[:2]:
                print(table.columns, *table.rows, sep="\n  ")


if __name__ == "__main__":
    main()
