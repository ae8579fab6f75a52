"""A report is built from figures: the gate's verdict, what is compared, and what a table's cells hold."""

import math
import time
from dataclasses import replace
from typing import Any

import pytest

from millstream.evaluation.v1.evaluation_report_pb2 import EvaluationReport
from millstream.registry.v1.model_pb2 import GateRule, ModelVersion
from millstream.training.v1.lineage_pb2 import Lineage
from recipekit.spec import Measured, Table
from services.evaluator.due import ChampionAlias
from services.evaluator.measure import Figures
from services.evaluator.report.build import add_error, add_figures, report_on
from tests.worlds.evaluator import CATALOG

SPEC = CATALOG.spec("toy_words")
VERSION = ModelVersion(model="toy", version=3, lineage=Lineage(snapshot_id="s1", dataset="words", dataset_number=7))


def measured(value: float, *tables: Table) -> Measured:
    return Measured({metric.name: value for metric in SPEC.metrics}, tables)


def figures(**change: Any) -> Figures:
    return replace(Figures(SPEC, "python", "fp64", 30, 2, measured(0.8), measured(0.5), measured(0.7)), **change)


def built(champion_version: int, rules: list[GateRule], **change: Any) -> EvaluationReport:
    report = report_on(VERSION, ChampionAlias(champion_version, 4, frozenset({champion_version})))
    return add_figures(report, figures(**change), rules, time.monotonic())


def test_a_report_names_what_it_compares_before_anything_is_measured() -> None:
    report = report_on(VERSION, ChampionAlias(2, 5, frozenset({1, 2})))
    assert report.report_id.startswith("toy.3.")
    assert (report.champion_version, report.champion_entry) == (2, 5)
    assert (report.dataset, report.dataset_number, report.snapshot_id) == ("words", 7, "s1")
    assert report.code_commit and report.create_time.ToNanoseconds()


@pytest.mark.parametrize(
    ("champion", "status"),
    [(2, EvaluationReport.STATUS_FAILED), (3, EvaluationReport.STATUS_PASSED), (0, EvaluationReport.STATUS_PASSED)],
)
def test_over_champion_applies_to_challengers_only(champion: int, status: int) -> None:
    report = built(champion, [GateRule(metric="accuracy", over_champion=0.2)])
    assert report.status == status


def test_one_failed_rule_fails_the_version() -> None:
    rules = [GateRule(metric="accuracy", at_least=0.7), GateRule(metric="accuracy", at_least=0.9)]
    report = built(0, rules)
    assert [result.passed for result in report.gate] == [True, False]
    assert report.status == EvaluationReport.STATUS_FAILED
    assert (report.rows_compared, report.rows_left_out, report.backend) == (30, 2, "python")


def test_a_missing_baseline_or_champion_has_no_figure() -> None:
    report = built(2, [], baseline=None, champion=None, notes=["the baseline was not measured"])
    assert not report.metrics[0].HasField("baseline") and not report.metrics[0].HasField("champion")
    assert report.notes[0] == "the baseline was not measured"


def test_figures_beside_the_champion_are_of_the_rows_that_it_can_answer() -> None:
    report = built(2, [], candidate_beside_champion=measured(0.6), rows_beside_champion=20)
    assert (report.rows_compared, report.rows_beside_champion) == (30, 20)
    assert (report.metrics[0].candidate, report.metrics[0].candidate_beside_champion) == (0.8, 0.6)
    failed = built(2, [], champion=None, candidate_beside_champion=measured(0.6), rows_beside_champion=20)
    assert not failed.rows_beside_champion and not failed.metrics[0].HasField("candidate_beside_champion")


def test_the_cells_of_a_table_are_what_json_can_hold() -> None:
    table = Table("Words", ("word", "weight"), (("good", 2), ("bad", math.nan), (None, True), (("a", "b"), 0.5)))
    report = built(0, [], candidate=measured(0.8, table))
    assert [list(row) for row in report.tables[0].rows] == [
        ["good", 2.0],
        ["bad", "nan"],
        [None, True],
        ["('a', 'b')", 0.5],
    ]


def test_an_error_says_why_and_how_long_it_took() -> None:
    report = add_error(report_on(VERSION, ChampionAlias()), "no test rows", time.monotonic() - 5)
    assert (report.status, report.error) == (EvaluationReport.STATUS_ERROR, "no test rows")
    assert report.elapsed.ToNanoseconds() >= 5_000_000_000
