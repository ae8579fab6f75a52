"""`millstream status` on fake services: columns, problems, exit code."""

import json

import pytest

from millstream.operations.v1.service_status_pb2 import ConsumerStatus, Dependency, OutboxStatus, ServiceStatus
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
