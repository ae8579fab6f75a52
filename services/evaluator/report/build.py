"""Figures → the report's message."""

import time
from collections.abc import Sequence

from google.protobuf.struct_pb2 import ListValue

from millstream.evaluation.v1.evaluation_report_pb2 import EvaluationReport, MetricResult, ReportTable
from millstream.registry.v1.model_pb2 import GateRule, ModelVersion
from millstream.timestamps import duration, now
from recipekit.gate import rules_of, verdict
from recipekit.spec import Measured, Metric, Table
from servicekit.build_info import build_info
from services.evaluator.due import ChampionAlias
from services.evaluator.measure import Figures, cell, figure_of
from services.evaluator.store import report_id_of

FEW_ROWS = 100
"""Below it a report says how much one row counts."""


def report_on(version: ModelVersion, champion: ChampionAlias, request_number: int = 0) -> EvaluationReport:
    """A report with all that is known before measuring. `request_number`: of the newest request for one; 0: none."""
    lineage = version.lineage
    report = EvaluationReport(
        report_id=report_id_of(version.model, version.version, lineage.snapshot_id, champion.version, request_number),
        model=version.model,
        version=version.version,
        snapshot_id=lineage.snapshot_id,
        dataset=lineage.dataset,
        dataset_number=lineage.dataset_number,
        champion_version=champion.version,
        champion_entry=champion.entry,
        request_number=request_number,
        artifact_digest=version.artifact.digest,
        code_commit=build_info().commit,
        code_dirty=build_info().dirty,
        lineage=lineage,
    )
    report.create_time.CopyFrom(now())
    return report


def add_error(report: EvaluationReport, reason: str, started: float | None = None) -> EvaluationReport:
    """Give the report the status error. `started`: time.monotonic() at the start of the evaluation."""
    report.status = EvaluationReport.STATUS_ERROR
    report.error = reason
    return _timed(report, started)


def add_figures(
    report: EvaluationReport, figures: Figures, declared: Sequence[GateRule], started: float
) -> EvaluationReport:
    """Add the figures and the gate's verdict. `declared`: the model's own rules; empty: the recipe's apply."""
    spec = figures.spec
    if figures.rows_compared:
        report.metrics.extend(_metric(figures, metric) for metric in spec.metrics)
    report.tables.extend(_table(table) for table in figures.candidate.tables)
    report.rows_compared, report.rows_left_out = figures.rows_compared, figures.rows_left_out
    report.rows_beside_champion = figures.rows_beside_champion if _champion(figures) else 0
    report.baseline_name = spec.baseline_name
    report.backend, report.precision = figures.backend, figures.precision
    report.label_change.CopyFrom(figures.labels.change())
    report.notes.extend([*figures.notes, *figures.labels.notes(), *_few_rows(report)])
    rules = list(declared) or rules_of(spec)
    if figures.rows_compared and not rules:
        report.notes.append("neither the model nor its recipe declares a gate, so every version passes")
    report.gate.extend(verdict(report, rules))
    passed = all(result.passed for result in report.gate)
    report.status = EvaluationReport.STATUS_PASSED if passed else EvaluationReport.STATUS_FAILED
    return _timed(report, started)


def _few_rows(report: EvaluationReport) -> list[str]:
    few = [(report.rows_compared, "compared")]
    if report.rows_beside_champion < report.rows_compared:
        few.append((report.rows_beside_champion, "compared with the champion"))
    return [
        f"only {rows} rows were {how}: one row more or less that is right moves an accuracy by {1 / rows:.4f}"
        for rows, how in few
        if 0 < rows < FEW_ROWS
    ]


def _champion(figures: Figures) -> Measured | None:
    """None: it was not measured, or its figures say nothing beside those of the version."""
    return None if figures.labels.is_disjoint else figures.champion


def _metric(figures: Figures, metric: Metric) -> MetricResult:
    champion, mine = _champion(figures), figures.candidate_beside_champion
    return MetricResult(
        metric=metric.name,
        meaning=metric.meaning,
        higher_is_better=metric.higher_is_better,
        candidate=figure_of(figures.candidate, metric.name),
        baseline=figure_of(figures.baseline, metric.name) if figures.baseline else None,
        champion=figure_of(champion, metric.name) if champion else None,
        candidate_beside_champion=figure_of(mine, metric.name) if champion and mine else None,
    )


def _table(table: Table) -> ReportTable:
    rows = []
    for row in table.rows:
        values = ListValue()
        values.extend([cell(value) for value in row])
        rows.append(values)
    return ReportTable(title=table.title, columns=[str(column) for column in table.columns], rows=rows)


def _timed(report: EvaluationReport, started: float | None) -> EvaluationReport:
    report.create_time.CopyFrom(now())
    if started is not None:
        report.elapsed.CopyFrom(duration(time.monotonic() - started))
    return report
