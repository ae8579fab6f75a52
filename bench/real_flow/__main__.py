"""import → train → evaluate → promote → predict by `millstream` commands alone, on a file of real Telugu sentences:

`python -m bench.real_flow DATA.jsonl.gz`. Prints each command, what it cost, and the report's figures on the snapshot's
test split, which neither training nor the choice of weights has seen. Promotion is by hand, as an operator would do it.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from deploy.local.ports import free_ports

MODEL, DATASET = "telugu", "telugu"
SPEC = {"model": MODEL, "recipe": "siamese_sentiment", "preset": "default", "dataset": DATASET}


class Millstream:
    """The command line against one platform."""

    def __init__(self, port_base: int) -> None:
        self.port_base = port_base
        self.seconds: dict[str, float] = {}

    def __call__(self, *words: str) -> Any:
        """Run a command and answer the last JSON document that it printed."""
        command = [sys.executable, "-m", "millstream", *words, "-o", "json", "--port-base", str(self.port_base)]
        started = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"millstream {' '.join(words)} ended with {done.returncode}: {done.stderr}")
        name = " ".join(words[:2])
        self.seconds[name] = round(time.monotonic() - started, 1)
        print(f"{self.seconds[name]:8.1f} s  millstream {' '.join(words)}", flush=True)
        try:
            return json.loads(done.stdout)
        except json.JSONDecodeError:
            return json.loads(done.stdout.strip().splitlines()[-1])


def follow(millstream: Millstream, data: Path, folder: Path) -> dict[str, Any]:
    """The way of the file; returns what is worth keeping."""
    spec = folder / "model.json"
    spec.write_text(json.dumps(SPEC))
    imported = millstream("datasets", "import", str(data), "--dataset", DATASET, "--recipe", SPEC["recipe"], "--watch")
    millstream("apply", "-f", str(spec))
    run = millstream("train", MODEL, "--watch")
    deadline = time.monotonic() + 300
    while not (reports := millstream("reports", "list", MODEL)) and time.monotonic() < deadline:
        time.sleep(2)
    report = (reports if isinstance(reports, list) else reports["reports"])[0]
    millstream("promote", MODEL, "1", "--reason", "its report passed")
    millstream("served", MODEL, "--wait", "1")
    answer = millstream("predict", MODEL, "సినిమా చాలా బాగుంది", "కథ నిరాశపరిచింది")
    return {"import": imported, "run": run, "report": report, "prediction": answer, "seconds": millstream.seconds}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    data = parser.parse_args().data
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        base = free_ports().base
        command = [sys.executable, "-m", "deploy.local", "--state", str(folder / "state"), "--port-base", str(base)]
        platform = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert platform.stdout and platform.stdout.readline().startswith("ready")
            found = follow(Millstream(base), data, folder)
        finally:
            platform.terminate()
            platform.wait(120)
    report = found["report"]
    print(f"status {report['status']}, {report['rows_compared']} test rows, baseline: {report['baseline_name']}")
    for metric in report["metrics"]:
        print(
            f"{metric['metric']:>14}  {metric['candidate']:.4f}  (baseline {metric.get('baseline', float('nan')):.4f})"
        )
    answers = [(answer["label"], round(answer["confidence"], 3)) for answer in found["prediction"]["predictions"]]
    print(f"predictions {answers} by version {found['prediction']['served']['version']}")
    kept = {"seed": 42, "metrics": report["metrics"], "rows": report["rows_compared"], "seconds": found["seconds"]}
    (Path(__file__).parent / "results.json").write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
