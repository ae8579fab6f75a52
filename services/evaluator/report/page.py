"""A report as one page of HTML that needs nothing else: no script, no font, no image from anywhere.

The page is a function of the report alone, so it can be drawn again at any time.
"""

import json
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from google.protobuf.json_format import MessageToDict

from millstream.evaluation.v1.evaluation_report_pb2 import EvaluationReport, MetricResult, ReportTable
from millstream.timestamps import seconds_of

if TYPE_CHECKING:
    from jinja2 import Template

TEMPLATE = "report.html.j2"
VERSION = "this version"
STATUS_TEXTS = {
    EvaluationReport.STATUS_PASSED: ("passed", "The gate lets it through."),
    EvaluationReport.STATUS_FAILED: ("failed", "The gate holds it back."),
    EvaluationReport.STATUS_ERROR: ("error", "It could not be evaluated."),
}


def render(report: EvaluationReport) -> str:
    """The page as HTML; every text of the report is escaped."""
    status, verdict = STATUS_TEXTS.get(report.status, ("unknown", ""))
    return _template().render(
        report=report,
        status=status,
        verdict=verdict,
        metrics=[_metric(metric) for metric in report.metrics],
        fewer=0 < report.rows_beside_champion < report.rows_compared,
        compared=any((report.label_change.kept, report.label_change.new, report.label_change.lost)),
        tables=[_table(table) for table in report.tables],
        lineage=_lineage(report),
        config={name: _setting(value) for name, value in MessageToDict(report.lineage.config).items()},
        packages=dict(sorted(report.lineage.packages.items())),
        seconds=seconds_of(report.elapsed),
    )


@cache
def _template() -> "Template":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure"] = figure
    return environment.get_template(TEMPLATE)


def figure(value: Any) -> str:
    """A number as people read it: whole ones with thousands apart, others to four places."""
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else str(value)
    if float(value).is_integer() and abs(value) >= 2:
        return f"{value:,.0f}"
    return f"{value:.2e}" if 0 < abs(value) < 0.001 else f"{value:.4f}"


def _setting(value: Any) -> str:
    """A value of a config, exact; a Struct makes every number a float."""
    return value if isinstance(value, str) else json.dumps(_plain(value), ensure_ascii=False)


def _metric(metric: MetricResult) -> dict[str, Any]:
    values = {VERSION: metric.candidate}
    if metric.HasField("baseline"):
        values["baseline"] = metric.baseline
    beside: dict[str, float] = {}
    if metric.HasField("candidate_beside_champion"):
        beside = {VERSION: metric.candidate_beside_champion, "champion": metric.champion}
    elif metric.HasField("champion"):
        values["champion"] = metric.champion
    finite = [abs(value) for value in (*values.values(), *beside.values()) if math.isfinite(value)]
    full = max([1.0, *finite]) if max(finite, default=0.0) <= 1 else max(finite)
    direction = "higher is better" if metric.higher_is_better else "lower is better"
    return {
        "name": metric.metric,
        "meaning": metric.meaning,
        "direction": direction,
        "bars": _bars(metric, values, full),
        "beside": _bars(metric, beside, full),
    }


def _bars(metric: MetricResult, values: dict[str, float], full: float) -> list[dict[str, Any]]:
    """One for each figure; `full` is that of a whole bar."""
    return [
        {
            "name": name,
            "kind": name.split()[-1],
            "value": value,
            "width": round(100 * abs(value) / full, 2) if math.isfinite(value) else 0,
            "gain": "" if name == VERSION else _gain(metric, values[VERSION], value),
        }
        for name, value in values.items()
    ]


def _gain(metric: MetricResult, mine: float, other: float) -> str:
    gain = (mine - other) * (1 if metric.higher_is_better else -1)
    if not math.isfinite(gain):
        return "not comparable"
    return f"this version is {abs(gain):.4f} {'better' if gain > 0 else 'worse'}" if gain else "this version is equal"


def _table(table: ReportTable) -> dict[str, Any]:
    rows = [[_plain(value) for value in row] for row in table.rows]
    matrix = _is_matrix(table.columns, rows)
    return {
        "title": table.title,
        "columns": list(table.columns),
        "matrix": matrix,
        "rows": [_cells(row, shaded=matrix) for row in rows],
    }


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return int(value) if isinstance(value, float) and math.isfinite(value) and value.is_integer() else value


def _is_matrix(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> bool:
    """A confusion matrix: the same labels down and across, and numbers in between."""
    return (
        len(rows) > 0
        and [str(row[0]) for row in rows if row] == list(columns[1:])
        and all(isinstance(value, int | float) for row in rows for value in row[1:])
    )


def _cells(row: Sequence[Any], *, shaded: bool) -> list[dict[str, Any]]:
    total = sum(abs(value) for value in row[1:]) if shaded else 0
    cells = []
    for place, value in enumerate(row):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        shade = round(0.75 * abs(value) / total, 3) if shaded and place and total else None
        text = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else figure(value)
        cells.append({"text": text, "number": number, "shade": shade})
    return cells


def _lineage(report: EvaluationReport) -> list[tuple[str, str]]:
    lineage = report.lineage
    facts = [
        ("training run", lineage.run_id),
        ("recipe", lineage.recipe),
        ("dataset", f"{report.dataset}, snapshot {report.dataset_number}" if report.dataset else ""),
        ("snapshot", report.snapshot_id),
        ("artifact", report.artifact_digest),
        ("trained by code", _commit(lineage.code_commit, lineage.code_dirty)),
        ("trained on", lineage.hardware),
        ("seed", str(lineage.seed)),
        ("attempts", str(lineage.attempts) if lineage.attempts else ""),
        ("no longer bit-exact from step", _step(report)),
        ("because it resumed with something else", "; ".join(lineage.departures)),
        ("evaluated by code", _commit(report.code_commit, report.code_dirty)),
        ("backend", report.backend),
        ("precision", report.precision),
        ("report", report.report_id),
    ]
    return [(name, text) for name, text in facts if text]


def _commit(commit: str, dirty: bool) -> str:
    return f"{commit}{' with local changes' if dirty else ''}" if commit else ""


def _step(report: EvaluationReport) -> str:
    return str(report.lineage.inexact_from_step) if report.lineage.HasField("inexact_from_step") else ""
