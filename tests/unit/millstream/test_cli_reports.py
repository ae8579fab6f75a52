"""`millstream reports` on fake services: the calls, the tables and the JSON."""

import json
from pathlib import Path

import pytest

from millstream import Client
from millstream.errors import NotFound
from millstream.evaluation.v1 import evaluation_service_pb2 as evaluation
from millstream.evaluation.v1.evaluation_report_pb2 import EvaluationReport
from millstream.registry.v1 import registry_service_pb2 as registry
from millstream.registry.v1.model_pb2 import GateRule, Model
from tests.unit.millstream.conftest import Command
from tests.worlds.fake_services import REPORT, Fakes


def test_reports_are_listed(cli: Command, fakes: Fakes) -> None:
    assert cli("reports", "list", "toy", "--version", "3").stdout.splitlines() == [
        "report\tversion\tstatus\ttest metric\tchampion\tcreated",
        "toy.3.0123456789abcdef\t3\tfailed\taccuracy 0.7500\tversion 2\t2026-09-21 14:13:20",
    ]
    asked = fakes.last(evaluation.ListEvaluationReportsRequest)
    assert (asked.model, asked.version) == ("toy", 3)
    (found,) = json.loads(cli("reports", "list", "toy", "-o", "json").stdout)
    assert (found["report_id"], found["status"]) == ("toy.3.0123456789abcdef", "STATUS_FAILED")


def test_a_report_shows_its_metrics_and_gate(cli: Command) -> None:
    assert cli("reports", "show", "toy.3.0123456789abcdef").stdout.splitlines() == [
        "toy version 3 failed, compared with version 2 and most frequent label",
        "7 test rows of words 4, 1 left out",
        r"labels: 'good' (4 rows); new 'fine' (1 row); lost 'b\u200bad' (3 rows)",
        "accuracy: 0.7500, baseline 0.5000, champion 0.7000 (share that is right)",
        "gate: FAILED: accuracy 0.75 is below 0.8",
        "note: only 7 rows",
    ]
    assert (
        json.loads(cli("reports", "show", "toy.3.0123456789abcdef", "-o", "json").stdout)["gate"][0]["passed"] is False
    )


def judged_by(fakes: Fakes, *rules: GateRule) -> None:
    """The report holds one rule, and the model's present gate is these."""
    report = EvaluationReport()
    report.CopyFrom(REPORT)
    report.gate[0].rule.CopyFrom(GateRule(metric="accuracy", at_least=0.8))
    fakes.answers[evaluation.GetEvaluationReportResponse] = evaluation.GetEvaluationReportResponse(report=report)
    fakes.answers[registry.GetModelResponse] = registry.GetModelResponse(model=Model(name="toy", present_gate=rules))


def test_a_report_shows_the_present_gate_where_it_differs(cli: Command, fakes: Fakes) -> None:
    judged_by(fakes, GateRule(metric="accuracy", at_least=0.7))
    assert cli("reports", "show", "toy.3.0123456789abcdef").stdout.splitlines()[-2:] == [
        "the gate of toy has changed since; it is now: accuracy at least 0.7",
        "a promotion judges the figures of this report by the present gate",
    ]
    (rule,) = json.loads(cli("reports", "show", "toy.3.0123456789abcdef", "-o", "json").stdout)["changed_gate"]
    assert (rule["metric"], rule["at_least"]) == ("accuracy", 0.7)


def test_a_report_by_the_present_gate_says_nothing_of_it(cli: Command, fakes: Fakes) -> None:
    judged_by(fakes, GateRule(metric="accuracy", at_least=0.8))
    assert "has changed since" not in cli("reports", "show", "toy.3.0123456789abcdef").stdout
    assert json.loads(cli("reports", "show", "toy.3.0123456789abcdef", "-o", "json").stdout)["changed_gate"] == []


def test_a_report_is_found_by_its_model_and_version(cli: Command, fakes: Fakes) -> None:
    by_id = cli("reports", "show", "toy.3.0123456789abcdef").stdout
    assert cli("reports", "show", "toy").stdout == by_id
    assert fakes.last(evaluation.ListEvaluationReportsRequest).version == 0
    assert cli("reports", "show", "toy", "3").stdout == by_id
    assert fakes.last(evaluation.ListEvaluationReportsRequest).version == 3
    assert cli("reports", "page", "toy", "3").stdout == "<html>తె</html>\n"
    assert fakes.last(evaluation.GetEvaluationReportPageRequest).report_id == "toy.3.0123456789abcdef"


def test_what_names_no_report_says_what_to_do(cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "leave 3 out" in cli("reports", "show", "toy.3.0123456789abcdef", "3", code=1).stderr
    monkeypatch.setattr(Client, "reports", lambda *_: iter(()))
    assert cli("reports", "show", "toy", "7", code=1).stderr == (
        "version 7 of toy has no report: see `millstream models show toy`\n"
    )


def test_a_report_says_on_which_rows_it_compares_with_the_champion(
    cli: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    wider = EvaluationReport()
    wider.CopyFrom(REPORT)
    wider.rows_beside_champion, wider.metrics[0].candidate_beside_champion = 5, 0.6
    monkeypatch.setattr("tests.worlds.fake_services.REPORT", wider)
    lines = cli("reports", "show", "toy.3.0123456789abcdef").stdout.splitlines()
    assert lines[2] == "compared with the champion on the 5 of 7 test rows whose label it answers"
    assert lines[4] == (
        "accuracy: 0.7500, baseline 0.5000, on 5 of 7 rows 0.6000 and champion 0.7000 (share that is right)"
    )


def test_the_page_is_printed_or_written(cli: Command, fakes: Fakes, tmp_path: Path) -> None:
    assert cli("reports", "page", "toy.3.0123456789abcdef").stdout == "<html>తె</html>\n"
    out = tmp_path / "report.html"
    assert cli("reports", "page", "toy.3.0123456789abcdef", "--out", str(out)).stdout == f"the page is in {out}\n"
    assert out.read_text(encoding="utf-8") == "<html>తె</html>"
    assert fakes.last(evaluation.GetEvaluationReportPageRequest).report_id == "toy.3.0123456789abcdef"
    found = json.loads(cli("reports", "page", "toy.3.0123456789abcdef", "-o", "json").stdout)
    assert found == {"report_id": "toy.3.0123456789abcdef", "html": "<html>తె</html>"}


def test_another_report_is_requested(cli: Command, fakes: Fakes) -> None:
    run = cli("reports", "again", "toy", "3", "--reason", "a GPU was out of order")
    assert run.stdout == "report 2 requested on toy version 3: see `millstream reports list toy`\n"
    asked = fakes.last(evaluation.EvaluateModelVersionRequest)
    assert (asked.model, asked.version, asked.reason) == ("toy", 3, "a GPU was out of order") and asked.request_id
    found = json.loads(cli("reports", "again", "toy", "3", "-o", "json").stdout)
    assert found == {"model": "toy", "version": 3, "request_number": 2}


@pytest.mark.parametrize("words", [("reports", "list", "nosuch"), ("runs", "list", "--model", "nosuch")])
def test_what_a_model_that_is_not_there_has_is_an_error_and_not_an_empty_list(
    words: tuple[str, ...], cli: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_model(client: Client, name: str) -> None:
        raise NotFound(f"no model {name}; there are: toy")

    for method in ("reports", "runs"):
        monkeypatch.setattr(Client, method, lambda *_: iter(()))
    assert cli(*words).stdout.splitlines()[1:] == [], "a model without any has an empty list"
    monkeypatch.setattr(Client, "model", no_model)
    assert cli(*words, code=1).stderr == "no model nosuch; there are: toy\n"
