"""The bytes of a store after many imports, trainings and promotions, beside the bytes of what is still named there.

`python -m bench.retention [--runs 200]`: a platform on one machine with the shortest times to keep. Each import is followed
by its automatic training and the promotion of its version. Then the objects are made a month older by their times on disk,
as if the platform had run so long, and its services list all again. `RATIO retention_bytes` is all that is stored over what
can be named: imports, snapshots and their rows, runs, versions with their artifacts, reports, moves.
"""

import argparse
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from bench.growth.__main__ import first
from millstream import Client
from millstream.defaults import SERVICES
from servicekit.blobs.patterns import matcher
from tests.recipes.toy_words.sample import rows
from tests.worlds.platform import World, wait_until, world

MODEL = DATASET = "words"
MONTH = 31 * 86_400.0
TURN_SECONDS = 300.0
NAMED = (
    "datasets/*/imports/*", "datasets/*/outcomes/*", "datasets/*/spec/*", "datasets/*/ledger/*", "datasets/*/parts/*",
    "runs/requests/*", "runs/outcomes/*", "runs/numerics/*", "runs/index/*",
    "models/**", "reports/*/*/*/report", "reports/*/*/*/report.html", "reports/*/*/*/report.json", "evaluations/**",
)  # fmt: skip
"""Facts, and what they name."""


def stored(blobs: Path) -> dict[str, int]:
    """Bytes by key."""
    return {path.relative_to(blobs).as_posix(): path.stat().st_size for path in blobs.rglob("*") if path.is_file()}


def named(objects: dict[str, int], digests: Iterable[str]) -> dict[str, int]:
    """Those of them that a user can name, or that belong to what a user can name, such as an artifact of these digests."""
    patterns = [matcher(pattern) for pattern in (*NAMED, *(f"artifacts/{digest}/**" for digest in digests))]
    return {key: size for key, size in objects.items() if any(pattern.fullmatch(key) for pattern in patterns)}


def turn(client: Client, folder: Path, number: int) -> None:
    """One import, and its version as the champion."""
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows(60, seed=number)))
    asked = client.import_dataset(file, DATASET, recipe="toy_words", mode="replace" if number > 1 else "")
    client.wait_import(DATASET, asked.request_id, timeout=TURN_SECONDS)
    if number == 1:
        spec = {
            "model": MODEL,
            "recipe": "toy_words",
            "preset": "toy",
            "dataset": DATASET,
            "training": {"automatic": True},
        }
        client.apply_model(spec)
    wait_until(lambda: _versions(client) >= number, f"version {number}", TURN_SECONDS)
    client.promote(MODEL, number, override="a measurement")


def _versions(client: Client) -> int:
    try:
        return first(client.versions(MODEL)).version
    except StopIteration:
        return 0


def make_older(blobs: Path, seconds: float) -> None:
    """Let the objects have been written so long ago."""
    for path in blobs.rglob("*"):
        if path.is_file():
            os.utime(path, (path.stat().st_atime - seconds, path.stat().st_mtime - seconds))


def listed_since(platform: World, client: Client, moment: float) -> bool:
    """Whether every service has listed all that it stores since then."""
    return all(client.status(service).storage_time.ToSeconds() > moment for service in SERVICES)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=200)
    runs = parser.parse_args().runs
    settings = {"full_resync_seconds": "15", "keep_logs_seconds": "0", "keep_uploads_seconds": "3600"}
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder) / "state"
        with world(state, settings=settings) as platform, platform.client() as client:
            began = time.perf_counter()
            for number in range(1, runs + 1):
                turn(client, Path(folder), number)
            wait_until(lambda: len(list(client.reports(MODEL))) >= runs, "a report on each version", TURN_SECONDS)
            seconds = time.perf_counter() - began
            make_older(state / "blobs", MONTH)
            moment = time.time() + 1
            wait_until(lambda: listed_since(platform, client, moment), "a listing by each service", TURN_SECONDS)
            digests = {version.artifact.digest for version in client.versions(MODEL)}
            freed = Counter({kind.kind: kind.deleted_bytes for s in SERVICES for kind in client.status(s).storage})
        objects = stored(state / "blobs")
    facts = named(objects, digests)
    others = Counter(key.split("/")[0] for key in set(objects) - set(facts))
    figures = {
        "at": datetime.now(UTC).isoformat(),
        "runs": runs,
        "seconds": round(seconds, 1),
        "objects": len(objects),
        "bytes": sum(objects.values()),
        "named_bytes": sum(facts.values()),
        "not_named_objects": dict(others),
        "deleted_bytes": {kind: size for kind, size in freed.items() if size},
    }
    print(json.dumps(figures, indent=1))
    print(f"RATIO retention_bytes {figures['bytes'] / figures['named_bytes']:.3f}")
    (Path(__file__).parent / "results.json").write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
