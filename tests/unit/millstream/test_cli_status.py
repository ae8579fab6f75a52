"""`millstream status` on fake services: columns, problems, exit code."""

import json

import pytest

from millstream.operations.v1.service_status_pb2 import (
    ConsumerStatus,
    Dependency,
    OutboxStatus,
    ServiceStatus,
    StoredKind,
)
from millstream.timestamps import duration, timestamp
from tests.unit.millstream.conftest import Command
from tests.worlds.fake_services import Fakes

COLUMNS = "service\taddress\tready\tblobs\tbus\tconsumer\toutbox\tcommit"
NO_BUS = Dependency(problem="the broker cannot be reached: start it")


def test_every_replica_has_a_line(cli: Command, platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLSTREAM_TRAINER", f"{platform},{platform}")
    header, *rows = cli("status").stdout.splitlines()
    assert header == COLUMNS
    assert [row.split("\t")[0] for row in rows] == [
        "dataprep", "trainer", "trainer", "evaluator", "registry", "inference",
    ]  # fmt: skip
    assert rows[0].split("\t")[1:] == [platform, "yes", "ok", "ok", "ok, lag 3", "ok, 2 pending", "0123456789ab"]


def test_a_problem_is_named_once_with_all_replicas_that_report_it(cli: Command, fakes: Fakes, platform: str) -> None:
    fakes.status = ServiceStatus(
        ready=False, not_ready_reason=NO_BUS.problem, blobs=Dependency(ok=True), bus=NO_BUS, dirty=True, commit="abc",
        consumer=ConsumerStatus(problem=NO_BUS.problem), outbox=OutboxStatus(problem=NO_BUS.problem, pending=4),
    )  # fmt: skip
    failed = cli("status", code=1)
    row = failed.stdout.splitlines()[1].split("\t")
    assert row[2:] == ["NO", "ok", "PROBLEM", "PROBLEM", "PROBLEM, 4 pending", "abc+"]
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
    assert cli("status").stdout.splitlines()[1].split("\t")[5:] == ["-", "-", "-"]


def test_a_replica_that_is_down_gives_no_answer(cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLSTREAM_EVALUATOR", "127.0.0.1:1")
    failed = cli("status", code=1)
    (row,) = [line for line in failed.stdout.splitlines() if line.startswith("evaluator")]
    assert row.split("\t")[2:] == ["no answer", "-", "-", "-", "-", "-"]
    assert "evaluator (127.0.0.1:1): no answer (" in failed.stderr


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
