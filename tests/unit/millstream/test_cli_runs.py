"""`millstream train | runs` on fake services: the calls, the tables and the JSON."""

import json
from pathlib import Path

import pytest

from millstream import Client
from millstream.errors import NotFound
from millstream.training.v1 import training_service_pb2 as training
from millstream.training.v1.training_run_pb2 import TrainingRun
from tests.unit.millstream.conftest import Command
from tests.worlds.fake_services import Fakes

DONE = "run run-1 succeeded, attempt 2, step 9/10, loss 0.5000, validation: accuracy 0.7500"


def test_train_sends_preset_config_and_snapshot(cli: Command, fakes: Fakes, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("steps: 10\n")
    words = ("--preset", "p", "--config", str(tmp_path / "config.yaml"), "--dataset-number", "4", "--request-id", "one")
    assert cli("train", "toy", *words).stdout == f"{DONE}\n"
    asked = fakes.last(training.CreateTrainingRunRequest)
    assert (asked.request_id, asked.spec.model, asked.spec.preset, asked.spec.dataset_number) == ("one", "toy", "p", 4)
    assert dict(asked.spec.config) == {"steps": 10}
    assert json.loads(cli("train", "toy", "-o", "json").stdout)["run_id"] == "run-1"
    assert not fakes.last(training.CreateTrainingRunRequest).spec.HasField("config")


def test_a_watched_run_shows_each_change_and_fails_unless_it_succeeds(cli: Command, fakes: Fakes) -> None:
    lines = cli("train", "toy", "--watch").stdout.splitlines()
    assert lines == [DONE.replace("succeeded", "running"), DONE]
    states = [json.loads(line)["state"] for line in cli("runs", "watch", "run-1", "-o", "json").stdout.splitlines()]
    assert states == ["STATE_RUNNING", "STATE_SUCCEEDED"]
    fakes.run_states = [TrainingRun.STATE_CANCELLED]
    assert cli("runs", "watch", "run-1", code=1).stderr == f"{DONE.replace('succeeded', 'cancelled')}\n"


def test_runs_are_listed_by_model_and_state_up_to_the_limit(cli: Command, fakes: Fakes) -> None:
    header, *rows = cli("runs", "list", "--model", "toy", "--state", "running").stdout.splitlines()
    assert header == "run\tmodel\tdataset\tstate\tvalidation metrics\tcreated"
    assert rows == ["run-1\ttoy\twords 4\tsucceeded\taccuracy 0.7500\t2026-09-21 14:13:20"] * 2
    asked = fakes.last(training.ListTrainingRunsRequest)
    assert (asked.model, list(asked.states)) == ("toy", [TrainingRun.STATE_RUNNING])
    (found,) = json.loads(cli("runs", "list", "--limit", "1", "-o", "json").stdout)
    assert (found["run_id"], found["state"]) == ("run-1", "STATE_SUCCEEDED")


def test_a_run_is_shown_with_its_artifact(cli: Command) -> None:
    assert cli("runs", "show", "run-1").stdout.splitlines() == [
        DONE,
        "model toy, recipe toy_words (default)",
        "dataset words 4 (snap-4)",
        "created 2026-09-21 14:13:20 by ada, started 2026-09-21 14:13:20, ended 2026-09-21 14:13:20",
        "training took 3.0 s in 2 attempts",
        "artifact artifact-1, 70 bytes; code 0123456789ab with changes; 8 cores",
        "not bit-exact from step 6 on: torch 2.9.0, not 2.8.0",
    ]
    assert json.loads(cli("runs", "show", "run-1", "-o", "json").stdout)["lineage"]["seed"] == "42"


def test_a_run_is_cancelled_with_a_reason(cli: Command, fakes: Fakes) -> None:
    assert cli("runs", "cancel", "run-1", "--reason", "enough").stdout == "run run-1 cancelled, enough\n"
    asked = fakes.last(training.CancelTrainingRunRequest)
    assert (asked.run_id, asked.reason) == ("run-1", "enough")


def test_logs_join_characters_that_are_cut_between_chunks(cli: Command, fakes: Fakes) -> None:
    assert cli("runs", "logs", "run-1", "-f").stdout == "చాలా\n"
    assert fakes.last(training.ReadTrainingLogRequest).follow
    parts = [json.loads(line) for line in cli("runs", "logs", "run-1", "-o", "json").stdout.splitlines()]
    assert [part["attempt"] for part in parts] == [1, 1]
    assert "".join(part["text"] for part in parts) == "చాలా\n"


def test_a_run_without_a_log_says_why_there_may_be_none(
    cli: Command, fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Client, "run_log", lambda *_: iter(()))
    shown = cli("runs", "logs", "run-1")
    assert shown.stdout == ""
    assert shown.stderr == (
        "run run-1 has no log: its workers printed nothing yet, or it is kept no longer "
        "(MILLSTREAM_KEEP_LOGS_SECONDS of the trainer)\n"
    )


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three runs by their ids."""
    runs = [TrainingRun(run_id=run_id, state=TrainingRun.STATE_SUCCEEDED) for run_id in ("abcd-1", "abcd-2", "abce-1")]

    def run(client: Client, run_id: str) -> TrainingRun:
        found = [one for one in runs if one.run_id == run_id]
        if not found:
            raise NotFound(f"no training run {run_id}; see `millstream runs list`")
        return found[0]

    monkeypatch.setattr(Client, "run", run)
    monkeypatch.setattr(Client, "runs", lambda *_: iter(runs))


@pytest.mark.parametrize("given", ["abce-1", "abce", "abce-"])
def test_a_run_is_found_by_the_beginning_of_its_id(given: str, cli: Command, known: None) -> None:
    assert cli("runs", "show", given).stdout.startswith("run abce-1 succeeded")


def test_a_beginning_that_several_runs_or_none_have_is_an_error(cli: Command, known: None) -> None:
    assert cli("runs", "show", "abcd-", code=1).stderr == (
        "2 runs begin with abcd-, such as abcd-1, abcd-2: give more of the id\n"
    )
    for given in ("abc", "other"):
        assert "no training run" in cli("runs", "show", given, code=1).stderr


@pytest.mark.parametrize(
    ("command", "method"), [("cancel", "cancel_run"), ("logs", "run_log"), ("watch", "watch_run"), ("show", "run")]
)
def test_every_command_on_a_run_takes_the_beginning_of_its_id(
    command: str, method: str, cli: Command, known: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def answer(client: Client, run_id: str, *_: object) -> object:
        asked.append(run_id)
        if run_id != "abce-1":
            raise NotFound(f"no training run {run_id}")
        run = TrainingRun(run_id=run_id, state=TrainingRun.STATE_SUCCEEDED)
        return {"logs": iter(()), "watch": iter([run])}.get(command, run)

    monkeypatch.setattr(Client, method, answer)
    cli("runs", command, "abce")
    assert asked == ["abce", "abce-1"]
