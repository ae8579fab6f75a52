"""`millstream reports`."""

from pathlib import Path
from typing import Annotated

import typer

from millstream.cli.command import Cli, Failed, command
from millstream.cli.format import count, report_status, rule_line, when
from millstream.cli.output import Cells, as_dict
from millstream.errors import MillstreamError
from millstream.evaluation.v1.evaluation_report_pb2 import EvaluationReport, LabelChange, MetricResult
from millstream.registry.v1.model_pb2 import GateRule

app = typer.Typer(name="reports", help="Evaluation reports.", no_args_is_help=True)

Named = Annotated[str, typer.Argument(metavar="REPORT | MODEL", help="a report's id, or a model's name")]
Version = Annotated[
    int,
    typer.Argument(
        metavar="VERSION", min=0, show_default=False, help="of the model; else the newest that has a report"
    ),
]


@command(app, "list")
def list_reports(
    cli: Cli,
    model: Annotated[str, typer.Argument(help="the model's name")],
    version: Annotated[int, typer.Option(help="only of this version")] = 0,
) -> None:
    """A model's reports, of the newest version first."""
    cli.screen.many(cli.of_model(model, cli.client.reports(model, version)), _cells)


def _cells(report: EvaluationReport) -> Cells:
    primary = report.metrics[0] if report.metrics else None
    unmeasured = "-" if report.status else report.error
    return {
        "report": report.report_id,
        "version": report.version,
        "status": report_status(report),
        "test metric": f"{primary.metric} {primary.candidate:.4f}" if primary else unmeasured,
        "champion": f"version {report.champion_version}" if report.champion_version else "-",
        "created": when(report.create_time),
    }


def _find(cli: Cli, name: str, version: int) -> EvaluationReport:
    """The report of this id, which has dots, or the newest of a model or of a version of it. Raises Failed."""
    if "." in name:
        if version:
            raise Failed(f"{name} is a report already: leave {version} out, or name the model")
        return cli.client.report(name)
    found = next(cli.client.reports(name, version), None)
    if not found:
        what = f"version {version} of {name}" if version else f"model {name}"
        raise Failed(f"{what} has no report: see `millstream models show {name}`")
    return found


@command(app, "show")
def show(cli: Cli, name: Named, version: Version = 0) -> None:
    """A report: its metrics, labels, the results of the gate's rules, its notes, and the present gate if that differs."""
    report = _find(cli, name, version)
    lines = [
        f"{report.model} version {report.version} {report_status(report)}, compared with {_compared_with(report)}",
        f"{report.rows_compared} test rows of {report.dataset} {report.dataset_number}, {report.rows_left_out} left out",
        *_beside_champion(report),
    ]
    if report.request_number:
        lines.append(f"made on request {report.request_number}")
    if report.label_change.labels:
        lines.append(_labels(report.label_change))
    lines += [_metric(metric, report) for metric in report.metrics]
    lines += [f"gate: {'passed' if result.passed else 'FAILED'}: {result.text}" for result in report.gate]
    lines += [f"note: {note}" for note in report.notes]
    if report.error:
        lines.append(report.error)
    changed = _changed_gate(cli, report)
    lines += changed[1]
    cli.screen.one({**as_dict(report), "changed_gate": [as_dict(rule) for rule in changed[0]]}, "\n".join(lines))


def _changed_gate(cli: Cli, report: EvaluationReport) -> tuple[list[GateRule], list[str]]:
    """The model's present rules where they are not those of the report, and lines on them; neither if they are not known."""
    try:
        model = cli.client.model(report.model)
    except MillstreamError:
        return [], []
    of_recipe = not model.spec.gate and report.lineage.recipe not in ("", model.spec.recipe)
    before, now = [result.rule for result in report.gate if result.HasField("rule")], list(model.present_gate)
    was_judged = bool(before) or report.status == EvaluationReport.STATUS_PASSED
    if before == now or of_recipe or not was_judged or not now:
        return [], []
    return now, [
        f"the gate of {report.model} has changed since; it is now: {'; '.join(map(rule_line, now))}",
        "a promotion judges the figures of this report by the present gate",
    ]


def _compared_with(report: EvaluationReport) -> str:
    champion = f"version {report.champion_version} and " if report.champion_version else ""
    return f"{champion}{report.baseline_name or 'no baseline'}"


def _beside_champion(report: EvaluationReport) -> list[str]:
    """On which rows it was compared with the champion, where they are not all."""
    if report.rows_beside_champion in (0, report.rows_compared):
        return []
    return [
        f"compared with the champion on the {report.rows_beside_champion} of {report.rows_compared} test rows whose label "
        "it answers"
    ]


def _labels(change: LabelChange) -> str:
    """The labels of the training rows, each with its rows; those that the version gains, loses or nearly loses."""
    compared = change.kept or change.new or change.lost
    groups: dict[str, list[str]] = {"": [], "new": [], "lookalike": [], "unproven": [], "lost": []}
    for one in change.labels:
        kind = "" if not compared or (one.version_rows and one.champion_rows) else "new" if one.version_rows else "lost"
        kind = "unproven" if one.unproven else "lookalike" if one.looks_like else kind
        rows = count(one.version_rows or one.champion_rows, "row")
        groups[kind].append(f"{one.label!r} ({rows}{f', like {one.looks_like!r}' if one.looks_like else ''})")
    parts = [f"{kind} {', '.join(labels)}".strip() for kind, labels in groups.items() if labels]
    return f"labels: {'; '.join(parts)}"


def _metric(metric: MetricResult, report: EvaluationReport) -> str:
    parts = [f"{metric.metric}: {metric.candidate:.4f}"]
    if metric.HasField("baseline"):
        parts.append(f"baseline {metric.baseline:.4f}")
    if metric.HasField("candidate_beside_champion"):
        rows = f"on {report.rows_beside_champion} of {report.rows_compared} rows"
        parts.append(f"{rows} {metric.candidate_beside_champion:.4f} and champion {metric.champion:.4f}")
    elif metric.HasField("champion"):
        parts.append(f"champion {metric.champion:.4f}")
    return f"{', '.join(parts)} ({metric.meaning})"


@command(app, "page")
def page(
    cli: Cli,
    name: Named,
    version: Version = 0,
    out: Annotated[Path | None, typer.Option(help="write it to this file", dir_okay=False)] = None,
) -> None:
    """A report as one page of HTML, with its plots."""
    report_id = _find(cli, name, version).report_id
    html = cli.client.report_page(report_id)
    if out:
        out.write_text(html, encoding="utf-8")
        cli.screen.one({"report_id": report_id, "file": str(out)}, f"the page is in {out}")
    else:
        cli.screen.one({"report_id": report_id, "html": html}, html)


@command(app, "again")
def again(
    cli: Cli,
    model: Annotated[str, typer.Argument(help="the model's name")],
    version: Annotated[int, typer.Argument(min=1)],
    reason: Annotated[str, typer.Option(help="kept with the request")] = "",
) -> None:
    """Request another report on a version, for example after a trouble that has passed. The newest report counts."""
    number = cli.client.evaluate_again(model, version, reason=reason)
    text = f"report {number} requested on {model} version {version}: see `millstream reports list {model}`"
    cli.screen.one({"model": model, "version": version, "request_number": number}, text)
