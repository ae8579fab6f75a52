"""What every command has in common, on a real gRPC server."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
import typer
from grpc_status import rpc_status
from typer.testing import CliRunner

from millstream.cli.app import app
from millstream.cli.command import addresses
from millstream.errors import InvalidArgument, to_status
from millstream.registry.v1 import registry_service_pb2 as registry
from millstream.registry.v1.model_pb2 import AliasEntry, Model
from millstream.registry.v1.registry_service_pb2_grpc import (
    RegistryServiceServicer,
    add_RegistryServiceServicer_to_server,
)
from millstream.training.v1 import training_service_pb2 as training
from millstream.training.v1.training_run_pb2 import TrainingRun
from millstream.training.v1.training_service_pb2_grpc import (
    TrainingServiceServicer,
    add_TrainingServiceServicer_to_server,
)
from tests.worlds.waiting import HANG


class Answers(RegistryServiceServicer, TrainingServiceServicer):
    def __init__(self) -> None:
        self.authorization = ""
        self.lists = threading.Event()
        """Until it is set, a listing has no answer."""
        self.lists.set()

    def ListModels(self, request: Any, context: Any) -> registry.ListModelsResponse:
        self.lists.wait(HANG)
        self.authorization = dict(context.invocation_metadata()).get("authorization", "")
        return registry.ListModelsResponse(models=[Model(name="toy", etag="7")])

    def GetAlias(self, request: Any, context: Any) -> registry.GetAliasResponse:
        return registry.GetAliasResponse(entry=AliasEntry(model=request.model, alias=request.alias, version=1))

    def PromoteModelVersion(self, request: Any, context: Any) -> registry.PromoteModelVersionResponse:
        if request.version == 9:
            refusal = to_status(InvalidArgument("there is no version 9: the newest is 2", field="version"))
            context.abort_with_status(rpc_status.to_status(refusal))
        entry = AliasEntry(model=request.model, alias=request.alias, version=request.version, number=3, hold=True)
        entry.action, entry.override = AliasEntry.ACTION_PROMOTED, request.override
        return registry.PromoteModelVersionResponse(entry=entry)

    def WatchTrainingRun(self, request: Any, context: Any) -> Iterator[training.WatchTrainingRunResponse]:
        for step, state in ((1, "STATE_RUNNING"), (2, "STATE_FAILED")):
            run = TrainingRun(run_id=request.run_id, state=TrainingRun.State.Value(state), attempt=1)
            run.progress.step, run.progress.total_steps, run.progress.loss = step, 9, 0.5
            run.reason = "out of memory" if step == 2 else ""
            yield training.WatchTrainingRunResponse(run=run)


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Answers]:
    found = Answers()
    threads = ThreadPoolExecutor(2)
    server = grpc.server(threads)
    add_RegistryServiceServicer_to_server(found, server)
    add_TrainingServiceServicer_to_server(found, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    monkeypatch.setenv("MILLSTREAM_REGISTRY", f"127.0.0.1:{port}")
    monkeypatch.setenv("MILLSTREAM_TRAINER", f"127.0.0.1:{port}")
    yield found
    server.stop(0).wait()
    threads.shutdown()


def run(*words: str) -> Any:
    return CliRunner().invoke(app, list(words))


def test_json_is_one_document_with_the_protos_names(answers: Answers) -> None:
    (model,) = json.loads(run("models", "list", "-o", "json").stdout)
    assert (model["name"], model["etag"], model["actor"]) == ("toy", "7", "")
    entry = json.loads(run("promote", "toy", "2", "--override", "a test", "-o", "json").stdout)
    assert (entry["version"], entry["override"], entry["hold"]) == ("2", "a test", True)


def test_without_a_terminal_a_listing_is_lines_with_tabs(answers: Answers) -> None:
    header, line = run("models", "list").stdout.splitlines()
    assert header.split("\t")[0] == "model" and line.split("\t")[0] == "toy"


def test_a_stream_is_json_lines_and_a_failed_run_is_exit_code_1(answers: Answers) -> None:
    watched = run("runs", "watch", "r1", "-o", "json")
    assert [json.loads(line)["progress"]["step"] for line in watched.stdout.splitlines()] == ["1", "2"]
    assert watched.exit_code == 1 and "out of memory" in watched.stderr
    assert "run r1 running, step 1/9, loss 0.5000" in run("runs", "watch", "r1").stdout


def test_a_refusal_is_one_sentence_on_stderr(answers: Answers) -> None:
    refused = run("promote", "toy", "9")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert refused.stderr == "there is no version 9: the newest is 2\n"


def test_the_token_file_is_sent(answers: Answers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("secret\n")
    monkeypatch.setenv("MILLSTREAM_TOKEN_FILE", str(tmp_path / "token"))
    assert run("models", "list").exit_code == 0
    assert answers.authorization == "Bearer secret"
    monkeypatch.setenv("MILLSTREAM_TOKEN_FILE", str(tmp_path / "nothing"))
    assert "nothing" in run("models", "list").stderr


@pytest.mark.parametrize(
    "words",
    [
        ("promote", "toy"),
        ("promote", "toy", "0"),
        ("predict", "toy"),
        ("models", "lisst"),
        ("runs", "list", "--state", "odd"),
    ],
)
def test_wrong_usage_is_exit_code_2(words: tuple[str, ...], answers: Answers) -> None:
    assert run(*words).exit_code == 2


def test_a_platform_that_is_down_is_named_with_the_fix() -> None:
    alone = run("models", "list", "--port-base", "1")
    assert alone.exit_code == 1
    assert (
        "nothing listens at 127.0.0.1:5, so no platform is up there: `millstream up --port-base 1` starts one"
        in alone.stderr
    )


def test_addresses_come_from_options_then_the_environment_then_the_usual(monkeypatch: pytest.MonkeyPatch) -> None:
    assert addresses(None, None)["inference"] == "127.0.0.1:50055"
    monkeypatch.setenv("MILLSTREAM_INFERENCE", "10.0.0.1:1,10.0.0.2:1")
    assert addresses(None, None)["inference"] == "10.0.0.1:1,10.0.0.2:1"
    assert addresses(None, None)["registry"] == "127.0.0.1:50054"
    assert addresses("mill", None)["inference"] == "mill:50055"
    assert addresses(None, 20000)["dataprep"] == "127.0.0.1:20001"
    monkeypatch.setenv("MILLSTREAM_PORT_BASE", "23000")
    assert (
        addresses(None, None)["registry"] == "127.0.0.1:23004" and addresses("mill", None)["inference"] == "mill:23005"
    )
    assert (
        addresses(None, None)["inference"] == "10.0.0.1:1,10.0.0.2:1"
        and addresses(None, 1)["dataprep"] == "127.0.0.1:2"
    )
    monkeypatch.setenv("MILLSTREAM_PORT_BASE", "many")
    with pytest.raises(InvalidArgument, match="MILLSTREAM_PORT_BASE='many' is no port"):
        addresses(None, None)


def test_what_kubernetes_injects_names_no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLSTREAM_REGISTRY_PORT", "tcp://10.0.0.1:9104")
    assert addresses(None, None)["registry"] == "127.0.0.1:50054"


def test_a_call_ends_at_its_timeout(answers: Answers) -> None:
    answers.lists.clear()
    late = run("models", "list", "--call-timeout", "0.2")
    answers.lists.set()
    assert late.exit_code == 1
    assert late.stderr.startswith("no answer in time (") and "--call-timeout gives more" in late.stderr
    assert "leaves no time" in run("models", "list", "--call-timeout", "0").stderr


def leaves(group: Any, *above: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, found in group.commands.items():
        if hasattr(found, "commands"):
            yield from leaves(found, *above, name)
        else:
            yield (*above, name), found


def test_every_command_takes_o_json_and_has_a_help_text() -> None:
    found = dict(leaves(typer.main.get_command(app)))
    assert len(found) > 25
    for words, command in found.items():
        assert command.help, words
        options = {option for parameter in command.params for option in parameter.opts}
        assert words in (("up",), ("down",)) or {"-o", "--host", "--port-base", "--call-timeout"} <= options, words


def test_without_the_extra_one_sentence_says_how_to_get_it() -> None:
    code = "import sys; sys.modules['typer'] = None; from millstream.cli import main; main()"
    alone = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert alone.returncode == 1
    assert alone.stderr == "the command line needs typer: pip install 'millstream[cli]'\n"
