"""`millstream status` on fake services: columns, problems, exit code."""

import fcntl
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from millstream.defaults import SERVICES
from millstream.errors import PermissionDenied
from millstream.inference.v1.inference_service_pb2 import ListLoadProblemsResponse, LoadProblem
from millstream.operations.v1.service_status_pb2 import (
    ConsumerStatus,
    Dependency,
    OutboxStatus,
    ServiceStatus,
    StoredKind,
)
from millstream.timestamps import duration, timestamp
from tests.unit.millstream.conftest import Command
from tests.worlds.fake_services import LETTER, Fakes

COLUMNS = "service\taddress\tready\tblobs\tbus\tconsumer\toutbox\tdead letters\tcommit"
NO_BUS = Dependency(problem="the broker cannot be reached: start it")
REFUSED = LoadProblem(model="toy", alias="champion", version=4, reason="golden row 0", refused=True)


@pytest.fixture(autouse=True)
def quiet(fakes: Fakes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits for a person, and the present folder has no platform's state."""
    fakes.letters, fakes.answers[ListLoadProblemsResponse] = [], ListLoadProblemsResponse()
    monkeypatch.chdir(tmp_path)


def test_every_replica_has_a_line(cli: Command, platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLSTREAM_TRAINER", f"{platform},{platform}")
    header, *rows = cli("status").stdout.splitlines()
    assert header == COLUMNS
    assert [row.split("\t")[0] for row in rows] == [
        "dataprep", "trainer", "trainer", "evaluator", "registry", "inference",
    ]  # fmt: skip
    assert rows[0].split("\t")[1:] == [platform, "yes", "ok", "ok", "ok, lag 3", "ok, 2 pending", "0", "0123456789ab"]


def test_a_problem_is_named_once_with_all_replicas_that_report_it(cli: Command, fakes: Fakes, platform: str) -> None:
    fakes.status = ServiceStatus(
        ready=False, not_ready_reason=NO_BUS.problem, blobs=Dependency(ok=True), bus=NO_BUS, dirty=True, commit="abc",
        consumer=ConsumerStatus(problem=NO_BUS.problem), outbox=OutboxStatus(problem=NO_BUS.problem, pending=4),
    )  # fmt: skip
    failed = cli("status", code=1)
    row = failed.stdout.splitlines()[1].split("\t")
    assert row[2:] == ["NO", "ok", "PROBLEM", "PROBLEM", "PROBLEM, 4 pending", "0", "abc+"]
    (line,) = failed.stderr.splitlines()
    assert line.startswith(f"dataprep ({platform}), trainer ({platform}), ")
    assert line.endswith(f"inference ({platform}): bus: {NO_BUS.problem}")
    found = json.loads(cli("status", "-o", "json", code=1).stdout)
    assert [replica["problems"] for replica in found] == [[f"bus: {NO_BUS.problem}"]] * 5
    assert found[0]["outbox"]["pending"] == "4"


def test_each_kind_of_problem_has_its_own_text(cli: Command, fakes: Fakes) -> None:
    fakes.status = ServiceStatus(
        ready=False, not_ready_reason="still loading", blobs=Dependency(), bus=Dependency(ok=True),
        consumer=ConsumerStatus(flood="a flood", lag=7), outbox=OutboxStatus(parked=1),
    )  # fmt: skip
    failed = cli("status", code=1)
    assert failed.stdout.splitlines()[1].split("\t")[2:6] == ["NO", "not probed", "ok", "FLOOD, lag 7"]
    for text in ("not ready: still loading", "consumer: a flood", "outbox: 1 fact parked"):
        assert text in failed.stderr


def test_services_without_consumer_and_outbox_show_dashes(cli: Command, fakes: Fakes) -> None:
    fakes.status = ServiceStatus(ready=True, blobs=Dependency(ok=True), bus=Dependency(ok=True))
    assert cli("status").stdout.splitlines()[1].split("\t")[5:] == ["-", "-", "0", "-"]


def test_a_replica_that_is_down_gives_no_answer(cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLSTREAM_EVALUATOR", "127.0.0.1:1")
    failed = cli("status", code=1)
    (row,) = [line for line in failed.stdout.splitlines() if line.startswith("evaluator")]
    assert row.split("\t")[2:] == ["no answer", "-", "-", "-", "-", "-", "-"]
    assert "evaluator (127.0.0.1:1): nothing listens at 127.0.0.1:1" in failed.stderr


def test_damaged_objects_are_problems_of_the_replicas_that_met_them(cli: Command, fakes: Fakes) -> None:
    fakes.status = ServiceStatus(
        ready=True, blobs=Dependency(ok=True), bus=Dependency(ok=True), damaged=["the stored object a/b is damaged"]
    )
    assert "the stored object a/b is damaged" in cli("status", code=1).stderr


STORED = ServiceStatus(
    service="trainer",
    ready=True,
    blobs=Dependency(ok=True),
    bus=Dependency(ok=True),
    storage_time=timestamp(1_700_000_000.0),
    storage=[
        StoredKind(kind="runs", objects=1200, size_bytes=1_234_567),
        StoredKind(
            kind="checkpoints", objects=2, size_bytes=532, keep=duration(0), deleted_objects=7, deleted_bytes=2**31
        ),
        StoredKind(kind="logs", objects=40, size_bytes=20_000, keep=duration(30 * 86_400)),
        StoredKind(kind="markers"),
    ],
)


def test_storage_is_shown_by_kind_the_most_first(cli: Command, fakes: Fakes) -> None:
    fakes.status = STORED
    lines = cli("status", "--storage").stdout.splitlines()
    assert [line.split("\t") for line in lines[:-1]] == [
        ["service", "kind", "objects", "size", "kept", "deleted"],
        ["trainer", "runs", "1,200", "1.2 MB", "for ever", "-"],
        ["trainer", "logs", "40", "20.0 kB", "at least 30 days", "-"],
        ["trainer", "checkpoints", "2", "532 B", "while needed", "2.1 GB"],
    ]
    assert lines[-1].startswith("1.3 MB in all, listed at 2023-11-1")


def test_storage_is_a_document_for_each_service(cli: Command, fakes: Fakes) -> None:
    fakes.status = STORED
    (found,) = json.loads(cli("status", "--storage", "-o", "json").stdout)
    assert (found["service"], found["storage_time"]) == ("trainer", "2023-11-14T22:13:20Z")
    assert found["storage"][1]["deleted_bytes"] == str(2**31)


def test_storage_that_was_not_listed_yet_says_when_it_will_be(cli: Command, fakes: Fakes) -> None:
    fakes.status = ServiceStatus(service="trainer", ready=True, blobs=Dependency(ok=True), bus=Dependency(ok=True))
    assert cli("status", "--storage").stdout == "not listed yet by trainer: ask again a minute after its start\n"


def test_dead_letters_are_counted_and_are_not_well(cli: Command, fakes: Fakes) -> None:
    fakes.letters = [LETTER] * 13
    failed = cli("status", code=1)
    assert failed.stdout.splitlines()[2].split("\t")[-2] == "13"
    assert "trainer (" in failed.stderr
    assert "13 dead letters that nobody has replayed or dropped: `millstream dlq list trainer`" in failed.stderr
    assert [replica["dead_letters"] for replica in json.loads(cli("status", "-o", "json", code=1).stdout)] == [13] * 5


def test_dead_letters_are_unknown_to_a_caller_who_is_no_operator(
    cli: Command, fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> Iterator[object]:
        raise PermissionDenied("it needs the role operator")
        yield

    monkeypatch.setattr("millstream.Client.dead_letters", refuse)
    assert cli("status").stdout.splitlines()[1].split("\t")[-2] == "unknown"
    assert json.loads(cli("status", "-o", "json").stdout)[0]["dead_letters"] is None


def test_a_version_that_inference_refuses_is_not_well(cli: Command, fakes: Fakes) -> None:
    fakes.answers[ListLoadProblemsResponse] = ListLoadProblemsResponse(problems=[REFUSED])
    (line,) = cli("status", code=1).stderr.splitlines()
    assert line.startswith("inference (") and line.endswith(
        "toy version 4, which champion names, is refused by inference: golden row 0: `millstream rollback toy`, or "
        "`millstream models retry toy 4`"
    )
    found = json.loads(cli("status", "-o", "json", code=1).stdout)
    assert [one["reason"] for one in found[-1]["unserved"]] == ["golden row 0"]


def test_a_version_that_one_replica_cannot_load_is_not_well(cli: Command, fakes: Fakes) -> None:
    here = LoadProblem(model="toy", alias="champion", version=4, reason="no memory")
    fakes.answers[ListLoadProblemsResponse] = ListLoadProblemsResponse(problems=[here])
    assert "is not loaded here: no memory: `millstream models problems toy`" in cli("status", code=1).stderr


@pytest.fixture
def local(platform: str, tmp_path: Path) -> Iterator[Path]:
    """The state folder of a platform with two replicas of each service, whose first ones are the fake services."""
    state = tmp_path / ".millstream"
    state.mkdir()
    (state / "platform.json").write_text(json.dumps(dict.fromkeys(SERVICES, f"{platform},{platform}")))
    with (state / "lock").open("w") as lock:
        lock.write("1")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield state


def test_every_replica_of_the_local_platform_is_shown(cli: Command, local: Path) -> None:
    assert len(cli("status").stdout.splitlines()) == 1 + 2 * 5


def test_another_platform_than_the_local_one_is_shown_alone(
    cli: Command, local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLSTREAM_TRAINER", "127.0.0.1:1")
    assert len(cli("status", code=1).stdout.splitlines()) == 1 + 5


def test_a_platform_is_found_by_its_state_folder(
    cli: Command, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for service in SERVICES:
        monkeypatch.delenv(f"MILLSTREAM_{service.upper()}")
    elsewhere = local.rename(tmp_path / "elsewhere")
    assert len(cli("status", "--state", str(elsewhere)).stdout.splitlines()) == 1 + 2 * 5
    failed = cli("status", "--state", str(local), code=1)
    assert f"no platform serves on {local}: `millstream up --state {local}` starts one" in failed.stderr
