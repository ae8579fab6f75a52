"""Every command once, as a user runs it: a process, its JSON, its exit code."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import scenario
from tests.e2e.scenario import DATASET, MODEL
from tests.worlds.platform import ROOT, TOY, World, world
from tests.worlds.waiting import FLOW


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("platform")) as platform:
        yield platform


def json_of(platform: World, *words: str, **more: Any) -> Any:
    """The JSON document that a command prints."""
    return json.loads(platform.cli(*words, "-o", "json", **more))


def lines(platform: World, *words: str) -> list[Any]:
    """The JSON lines that a command prints."""
    return [json.loads(line) for line in platform.cli(*words, "-o", "json").splitlines()]


@pytest.fixture(scope="module")
def run_id(platform: World, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The automatic run of the first file; its version is served."""
    words = ("events", "tail", "--count", "3", "-o", "json", "--port-base", str(platform.ports.base))
    tail = subprocess.Popen(
        [sys.executable, "-m", "millstream", *words],
        cwd=ROOT, env=platform.clean_environment(), stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    file = scenario.a_file(tmp_path_factory.mktemp("files"))
    words = ("datasets", "import", str(file), "--dataset", DATASET, "--recipe", "toy_words", "--watch")
    ended = lines(platform, *words)[-1]
    assert (ended["state"], ended["snapshot_number"]) == ("STATE_SUCCEEDED", "1")
    applied = json_of(platform, "apply", "-f", str(TOY / "model.yaml"))
    assert (applied["name"], applied["spec"]["promotion"]["automatic"]) == (MODEL, True)
    with platform.client() as client:
        client.wait_served(MODEL, 1, timeout=FLOW)
        (run,) = client.runs(MODEL)
    printed, _ = tail.communicate(timeout=FLOW)
    assert len([json.loads(line)["event_type"] for line in printed.splitlines()]) == 3
    return run.run_id


def test_datasets(platform: World, run_id: str) -> None:
    assert [found["name"] for found in json_of(platform, "datasets", "list")] == [DATASET]
    shown = json_of(platform, "datasets", "show", DATASET)
    counts = {"read": "203", "kept": "200", "duplicate": "1", "quarantined": "2", "carried": "0"}
    assert shown["rows"] == counts
    assert [found["number"] for found in json_of(platform, "datasets", "snapshots", DATASET)] == ["1"]
    rows = lines(platform, "datasets", "rows", DATASET, "--split", "test", "--limit", "3")
    assert len(rows) == 3 and set(rows[0]) >= {"text", "label"}
    assert "203 rows read: 200 kept, 1 duplicate, 2 quarantined" in platform.cli("datasets", "show", DATASET)


def test_runs(platform: World, run_id: str) -> None:
    assert [run["run_id"] for run in json_of(platform, "runs", "list", "--model", MODEL, "--state", "succeeded")] == [
        run_id
    ]
    assert json_of(platform, "runs", "show", run_id)["state"] == "STATE_SUCCEEDED"
    assert lines(platform, "runs", "watch", run_id)[-1]["metrics"]["accuracy"] > 0.7
    logged = lines(platform, "runs", "logs", run_id)
    assert all(set(part) == {"attempt", "text"} for part in logged)
    assert "has succeeded already" in platform.cli("runs", "cancel", run_id, code=1)


def test_models_and_reports(platform: World, run_id: str, tmp_path: Path) -> None:
    assert [model["name"] for model in json_of(platform, "models", "list")] == [MODEL]
    assert json_of(platform, "models", "show", MODEL)["etag"] == "1"
    version = json_of(platform, "models", "show", MODEL, "--alias", "champion")
    assert (version["version"], version["lineage"]["run_id"]) == ("1", run_id)
    assert [found["version"] for found in json_of(platform, "models", "versions", MODEL)] == ["1"]
    (report,) = json_of(platform, "reports", "list", MODEL)
    assert json_of(platform, "reports", "show", report["report_id"])["status"] == "STATUS_PASSED"
    assert "<html" in json_of(platform, "reports", "page", report["report_id"])["html"]
    platform.cli("reports", "page", report["report_id"], "--out", str(tmp_path / "report.html"))
    assert "<html" in (tmp_path / "report.html").read_text()
    json_of(platform, "models", "download", MODEL, str(tmp_path / "artifact"))
    assert any((tmp_path / "artifact").iterdir())


def test_predictions(platform: World, run_id: str) -> None:
    (served,) = json_of(platform, "served")
    assert served["served"]["run_id"] == run_id
    answer = json_of(platform, "predict", MODEL, "kind and sweet", "cold and rude")
    assert [prediction["label"] for prediction in answer["predictions"]] == ["good", "bad"]
    assert answer["served"]["version"] == "1"
    row = json.dumps({"text": "the mill was kind"})
    piped = json_of(platform, "predict", MODEL, "--file", "-", "--task", "classify", stdin=row)
    assert piped["classifications"][0]["label"] == "good"
    assert "embed" in platform.cli("predict", MODEL, "x", "--task", "embed", code=1)


def test_training_by_hand_and_the_champion(platform: World, run_id: str) -> None:
    trained = lines(platform, "train", MODEL, "--watch")[-1]
    assert (trained["state"], trained["automatic"]) == ("STATE_SUCCEEDED", False)
    with platform.client() as client:
        client.wait_served(MODEL, 2, timeout=FLOW)
    back = json_of(platform, "rollback", MODEL, "--reason", "a try")
    assert (back["version"], back["hold"], back["reason"]) == ("1", True, "a try")
    forward = json_of(platform, "promote", MODEL, "2", "--reason", "and back")
    assert (forward["version"], forward["action"]) == ("2", "ACTION_PROMOTED")
    assert json_of(platform, "release", MODEL)["hold"] is False
    history = json_of(platform, "models", "aliases", MODEL)
    assert [(entry["number"], entry["version"]) for entry in history] == [
        ("5", "2"), ("4", "2"), ("3", "1"), ("2", "2"), ("1", "1"),
    ]  # fmt: skip
    long_ago = platform.cli("models", "aliases", MODEL, "--at", "2001-01-01", code=1)
    assert "champion" in long_ago


def test_a_run_can_be_cancelled(platform: World, run_id: str, tmp_path: Path) -> None:
    (tmp_path / "slow.yaml").write_text("steps: 1000\nstep_seconds: 0.05\n")
    run = json_of(platform, "train", MODEL, "--preset", "toy", "--config", str(tmp_path / "slow.yaml"))
    assert json_of(platform, "runs", "cancel", run["run_id"], "--reason", "enough")["reason"] == "enough"
    assert "enough" in platform.cli("runs", "watch", run["run_id"], code=1)


def test_errors_are_one_sentence(platform: World, tmp_path: Path) -> None:
    assert "nothere" in platform.cli("models", "show", "nothere", code=1)
    (tmp_path / "model.yaml").write_text("model: toy\npromotoin: {automatic: true}\n")
    error = platform.cli("apply", "-f", str(tmp_path / "model.yaml"), code=1)
    assert "model.yaml" in error and "promotoin" in error
    platform.cli("predict", MODEL, code=2)
    assert "Traceback" not in error
