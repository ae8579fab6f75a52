"""`make demo`, twice on one folder, with the toy recipe, in the world of TEST_WORLD."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.worlds.platform import ROOT, chosen, servers_of
from tests.worlds.waiting import FLOW


def demo(state: Path, *words: str, recipe: str = "toy_words") -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MILLSTREAM_")}
    where = ("--world", chosen(), "--state", str(state))
    command = [sys.executable, "-m", "deploy.demo", "--recipe", recipe, *where, *words]
    return subprocess.run(command, cwd=ROOT, env=clean, capture_output=True, text=True, timeout=FLOW, check=False)


def result(run: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert run.returncode == 0, run.stdout + run.stderr
    last = run.stdout.splitlines()[-1]
    assert last.startswith("DEMO OK "), run.stdout
    return dict(json.loads(last.removeprefix("DEMO OK ")))


def test_a_second_demo_on_the_same_folder_trains_nothing_new(tmp_path: Path) -> None:
    servers_of(chosen())  # skips where the servers are not installed; the demo starts its own
    first = result(demo(tmp_path / "state", "--json-only"))
    assert first["rows"] == {"read": 200, "kept": 200, "duplicate": 0, "quarantined": 0}
    assert first["prediction"]["label"] in ("good", "bad")
    served = first["served"]
    assert (served["run_id"], served["snapshot_id"]) == (first["run_id"], first["snapshot_id"])
    assert served["version"] == str(first["version"]) == "1"
    stages = {"start", "import", "train", "register", "evaluate", "promote", "serve", "predict", "total"}
    assert stages | {"training", "beyond_training"} <= set(first["seconds"])
    lineage = first["lineage"]
    assert (lineage["run_id"], lineage["snapshot_id"]) == (first["run_id"], first["snapshot_id"])
    assert (lineage["recipe"], lineage["seed"], lineage["dataset_number"]) == ("toy_words", "42", "1")
    again = demo(tmp_path / "state")
    assert "nothing new to train" in again.stdout
    second = result(again)
    assert {name: second[name] for name in ("version", "run_id", "snapshot_id")} == {
        name: first[name] for name in ("version", "run_id", "snapshot_id")
    }


def test_a_demo_whose_servers_cannot_start_names_the_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", os.devnull)
    run = demo(tmp_path / "state", "--world", "kafka-minio")
    assert run.returncode == 1
    last = run.stdout.splitlines()[-1]
    assert last.startswith("DEMO FAILED start: Kafka") and "make servers" in last


def test_a_failed_demo_names_its_stage_and_reason(tmp_path: Path) -> None:
    run = demo(tmp_path / "state", recipe="no_such_recipe")
    assert run.returncode == 1
    last = run.stdout.splitlines()[-1]
    assert last.startswith("DEMO FAILED start: no recipe is named 'no_such_recipe'") and str(tmp_path) in last
