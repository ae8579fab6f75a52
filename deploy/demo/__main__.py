"""`make demo`: from a recipe's sample file to a prediction by another process, on this machine.

The last line on stdout is `DEMO OK {…}`, or `DEMO FAILED stage: reason`.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from deploy.demo.flow import Flow, StageFailed
from deploy.local.ports import Ports, free_ports
from deploy.servers.kafka import Kafka
from deploy.servers.minio import Minio
from deploy.servers.process import CannotStart
from millstream import Client
from millstream.credentials import Credentials
from millstream.dataset.v1.import_pb2 import Import
from millstream.defaults import SERVICES
from millstream.timestamps import seconds_of
from millstream.training.v1.training_run_pb2 import TrainingRun
from recipekit.catalog import Catalog, UnknownRecipe

ROOT = Path(__file__).resolve().parents[2]
STATE = {"local": "demo", "kafka-minio": "demo-kafka-minio"}
"""The worlds that a demo runs in, and each one's folder."""
BUCKET = "millstream"
PACKAGES = ("recipes", "tests.recipes")
LINEAGE = ("dataset", "dataset_number", "snapshot_id", "run_id", "recipe", "seed", "code_commit", "hardware")
STOP_SECONDS, PREDICT_SECONDS = 120, 60


@dataclass(frozen=True)
class Demo:
    """A recipe's folder and what its own model.yaml says."""

    folder: Path
    spec: Mapping[str, Any]
    row: Mapping[str, Any]
    """The first row of the sample, without what is to be predicted."""

    @property
    def model(self) -> str:
        """The name of the model that the recipe's model.yaml declares."""
        return str(self.spec["model"])


def find(recipe: str) -> Demo:
    """The demo of a recipe. Raises StageFailed for an unknown one."""
    import yaml

    catalog = Catalog(PACKAGES)
    try:
        folder = catalog.folder(recipe)
    except UnknownRecipe as error:
        raise StageFailed("start", str(error)) from None
    with (folder / "sample.jsonl").open() as lines:
        row = json.loads(next(lines))
    asked = {name: row[name] for name in catalog.spec(recipe).input.model_fields if name in row}
    return Demo(folder, yaml.safe_load((folder / "model.yaml").read_text()), asked)


@contextmanager
def servers(world: str, state: Path) -> Iterator[Mapping[str, str]]:
    """Start the world's broker and store (none in `local`), and yield their settings. Their data stay in the state folder.

    Raises StageFailed where they cannot be started.
    """
    if world == "local":
        yield {}
        return
    kafka, minio = Kafka(state / "servers/kafka"), Minio(state / "servers/minio")
    try:
        for server in (kafka, minio):
            server.start()
        yield {**kafka.settings(), **minio.settings(BUCKET)}
    except CannotStart as refusal:
        raise StageFailed("start", str(refusal)) from None
    finally:
        for server in (minio, kafka):
            server.stop()


@contextmanager
def platform(state: Path, settings: Mapping[str, str], log: IO[str]) -> Iterator[Callable[[], dict[str, str]]]:
    """Run deploy.local on free ports. What is yielded waits until it is ready and returns its addresses."""
    usual = Ports()
    ports = free_ports() if any(usual.taken()) else usual
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MILLSTREAM_")}
    command = [sys.executable, "-m", "deploy.local", "--state", str(state), "--recipes", ",".join(PACKAGES)]
    sets = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    process = subprocess.Popen(
        [*command, "--port-base", str(ports.base), "--with-parent", *sets],
        cwd=ROOT, env=clean, stdout=subprocess.PIPE, stderr=log, text=True, process_group=0,
    )  # fmt: skip

    def ready() -> dict[str, str]:
        assert process.stdout
        line = process.stdout.readline()
        if not line.startswith("ready "):
            raise StageFailed("start", Path(log.name).read_text().strip())
        found = json.loads(line.removeprefix("ready "))
        return {service: found[service] for service in SERVICES}

    try:
        yield ready
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(STOP_SECONDS)
        if process.stdout:
            process.stdout.close()


def follow(flow: Flow, demo: Demo) -> dict[str, Any]:
    """Follow the sample through all stages; returns what the last line prints of them."""
    imported, snapshot = flow.bring_in(
        demo.folder / "sample.jsonl", str(demo.spec["dataset"]), str(demo.spec["recipe"])
    )
    flow.apply(demo.spec)
    run = flow.train(demo.model, snapshot)
    version = flow.register(demo.model, run)
    report = flow.evaluate(version)
    flow.promote(version, report)
    flow.serve(version)
    if imported.state == Import.STATE_UNCHANGED:
        flow.on_progress("serve", "nothing new to train: this is the version of an earlier run")
    rows = {name: getattr(snapshot.rows, name) for name in ("read", "kept", "duplicate", "quarantined")}
    return {
        "snapshot_id": snapshot.snapshot_id,
        "rows": rows,
        "run_id": run.run_id,
        "model": demo.model,
        "version": version.version,
        "metrics": {metric.metric: metric.candidate for metric in report.metrics},
        "trained_now": imported.state == Import.STATE_SUCCEEDED,
        "training": training_seconds(run),
    }


def training_seconds(run: TrainingRun) -> float:
    """Seconds of training over all attempts, as the worker reported them."""
    return round(seconds_of(run.progress.elapsed), 3)


def predict(demo: Demo, addresses: Mapping[str, str], version: int, flow: Flow) -> dict[str, Any]:
    """A prediction and the lineage of the version that made it, by processes of their own over gRPC."""
    with flow.stage("predict"):
        answer = dict(call_cli(addresses, "predict", demo.model, "--file", "-", given=json.dumps(demo.row)))
        if int(answer["served"]["version"]) < version:
            raise StageFailed("predict", f"version {answer['served']['version']} answered instead of {version}")
    flow.on_progress("predict", json.dumps(shorten(answer["predictions"][0]), ensure_ascii=False))
    with flow.stage("lineage"):
        lineage = call_cli(addresses, "served", demo.model)[0]["lineage"]
    shown = {name: lineage[name] for name in LINEAGE if name in lineage}
    return {"prediction": shorten(answer["predictions"][0]), "served": answer["served"], "lineage": shown}


def call_cli(addresses: Mapping[str, str], *words: str, given: str = "") -> Any:
    """Run `millstream WORDS -o json` as a process; returns its JSON document. Raises StageFailed with its error text."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MILLSTREAM_")}
    environment["MILLSTREAM_INFERENCE"] = addresses["inference"]
    run = subprocess.run(
        [sys.executable, "-m", "millstream", *words, "-o", "json"],
        input=given, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PREDICT_SECONDS, check=False,
    )  # fmt: skip
    if run.returncode:
        raise StageFailed("predict", run.stderr.strip())
    return json.loads(run.stdout)


def shorten(value: Any, longest: int = 8) -> Any:
    """The value with long lists cut, such as embeddings, so that a line stays readable."""
    if isinstance(value, dict):
        return {name: shorten(part, longest) for name, part in value.items()}
    if isinstance(value, list) and len(value) > longest:
        return [*value[:longest], f"… {len(value)} in all"]
    return value


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(prog="deploy.demo", description="From a sample file to a prediction.")
    parser.add_argument("--recipe", default="siamese_sentiment", help="a folder of recipes/ or tests/recipes/")
    parser.add_argument("--state", type=Path, help="folder of all state (.millstream/demo; each world its own)")
    parser.add_argument("--world", default="local", choices=list(STATE), help="what it runs on")
    parser.add_argument("--json-only", action="store_true", help="print the last line only")
    return parser.parse_args(given)


def main() -> None:
    """Run the demo. Exit code 1 if a stage fails."""
    started = time.monotonic()
    options = arguments()
    state = (options.state or Path(".millstream") / STATE[options.world]).absolute()
    state.mkdir(parents=True, exist_ok=True)

    def report(stage: str, text: str) -> None:
        if not options.json_only:
            print(f"{time.monotonic() - started:7.2f} s  {stage:<9} {text}", flush=True)

    try:
        with (state / "up.log").open("w+") as log:
            result = run(options, state, log, report, started)
    except StageFailed as failure:
        print(f"DEMO FAILED {failure.stage}: {failure.reason} (logs: {state / 'logs'} and {state / 'up.log'})")
        raise SystemExit(1) from None
    print(f"DEMO OK {json.dumps(result, ensure_ascii=False)}")


def run(
    options: argparse.Namespace, state: Path, log: IO[str], report: Callable[[str, str], None], started: float
) -> dict[str, Any]:
    """Run all stages; returns the document of the last line, with the seconds of each stage. Raises StageFailed."""
    with servers(options.world, state) as settings, platform(state, settings, log) as ready:
        demo, addresses = find(options.recipe), ready()
        flow = Flow(Client(credentials=Credentials(), **addresses), report)
        flow.seconds["start"] = round(time.monotonic() - started, 3)
        report("start", f"all five services serve; state in {state}")
        with flow.client:
            result = follow(flow, demo)
            result |= predict(demo, addresses, int(result["version"]), flow)
        total = round(time.monotonic() - started, 3)
        trained = float(result.pop("training"))
        training = trained if result["trained_now"] else 0.0
        flow.seconds |= {"training": training, "beyond_training": round(total - training, 3), "total": total}
        report("stop", "stopping the services")
    return {**result, "seconds": flow.seconds}


if __name__ == "__main__":
    main()
