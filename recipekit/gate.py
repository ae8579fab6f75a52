"""The gate: rules and a report's figures in, a verdict with its reasons out. Nothing else decides whether a version passes.

The evaluator writes the verdict into the report. The registry judges the same figures again when it promotes, by the rules
that the model has then.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from millstream.evaluation.v1.evaluation_report_pb2 import EvaluationReport, GateResult, LabelCount, MetricResult
from millstream.registry.v1.model_pb2 import GateRule
from recipekit.edges import visible
from recipekit.spec import Spec

ROUNDING = 1e-9
"""A figure this close below its limit misses it only by the binary representation of decimals."""
MOST_NAMED = 10
"""Labels that one sentence names."""


def rules_of(spec: Spec) -> list[GateRule]:
    """The recipe's own gate, for a Model that declares none."""
    return [
        GateRule(
            metric=rule.metric,
            at_least=rule.at_least,
            at_most=rule.at_most,
            over_baseline=rule.over_baseline,
            over_champion=rule.over_champion,
        )
        for rule in spec.gate
    ]


def verdict(report: EvaluationReport, rules: Iterable[GateRule]) -> list[GateResult]:
    """One result per rule, after one that fails if the labels do. The version passes if all of them passed.

    If no row could be compared, one that fails stands in for the rules, so no gate is passed, not even one without rules.
    """
    has_champion = _has_champion(report)
    lost = _judge_labels(report) if has_champion else []
    if report.rows_left_out and not report.rows_compared:
        return [_nothing_compared(report), *lost]
    return [*lost, *judge(rules, report.metrics, has_champion=has_champion, rows=_rows_beside_champion(report))]


def is_damaged(report: EvaluationReport) -> bool:
    """Whether it stands for a report that is damaged; its `error` says what to do."""
    return report.status == EvaluationReport.STATUS_UNSPECIFIED


def is_unsure_of_labels(report: EvaluationReport) -> bool:
    """Whether it stands beside another champion, and was made before labels were compared, or before a version was compared
    without the rows of labels that the champion never answers: it promotes nothing by itself.

    A version that could not be evaluated has no labels to compare, and no figures to pass by.
    """
    if report.status == EvaluationReport.STATUS_ERROR or not _has_champion(report):
        return False
    return not report.HasField("label_change") or _has_unfair_figures(report)


def _has_unfair_figures(report: EvaluationReport) -> bool:
    """The champion's, where rows were not counted yet that it can answer: it missed all others."""
    measured = any(metric.HasField("champion") for metric in report.metrics)
    return measured and report.label_change.new > 0 and not report.rows_beside_champion


def beside_champion(metric: MetricResult) -> float:
    """The version's figure on the rows on which the champion was measured."""
    return metric.candidate_beside_champion if metric.HasField("candidate_beside_champion") else metric.candidate


def _rows_beside_champion(report: EvaluationReport) -> str:
    """Where a rule over the champion has its figures from, for its sentence; "": from all rows."""
    if report.rows_beside_champion in (0, report.rows_compared):
        return ""
    return f" on the {report.rows_beside_champion} of {report.rows_compared} test rows whose label the champion answers"


def format_labels(labels: Iterable[LabelCount]) -> str:
    """Labels with their rows, at most ten: `'good' (12 rows), 'bad' (1 row)`; invisible characters are escaped."""
    texts = []
    for label in labels:
        rows = label.version_rows or label.champion_rows
        texts.append(f"{visible(label.label)} ({rows} row{'' if rows == 1 else 's'})")
    return _first(texts)


def _first(texts: Sequence[str]) -> str:
    return ", ".join([*texts[:MOST_NAMED], *(["…"] if texts[MOST_NAMED:] else [])])


def _has_champion(report: EvaluationReport) -> bool:
    return report.champion_version not in (0, report.version)


def _judge_labels(report: EvaluationReport) -> list[GateResult]:
    """A version that is not shown to answer every label of the champion changes what callers get: a person decides."""
    change, champion = report.label_change, f"the champion, version {report.champion_version}"
    if change.unknown:
        text = f"the labels of {champion}, are not known: {change.unknown}"
    elif change.lost and not change.kept:
        new = format_labels(label for label in change.labels if label.version_rows)
        text = f"not comparable, no label in common: {champion}, answers {_lost(report)}, this version {new}"
    elif change.lost or change.unproven or change.lookalike:
        found = [f"labels of {champion}, are lost: {_lost(report)}"] if change.lost else []
        if change.unproven:
            found.append(
                f"labels of {champion}, have too few training rows left or are no longer tested: {_unproven(report)}"
            )
        if change.lookalike:
            found.append(f"new labels look like labels of {champion}: {_lookalikes(report)}")
        text = "; ".join(found)
    else:
        return []
    return [_needs_a_person(report, text)]


def _nothing_compared(report: EvaluationReport) -> GateResult:
    text = (
        f"nothing can be compared: all {report.rows_left_out} test rows are among the training or validation rows of the "
        f"champion, version {report.champion_version}, or of this version; import rows that neither has seen"
    )
    return _needs_a_person(report, text)


def _needs_a_person(report: EvaluationReport, why: str) -> GateResult:
    command = f"millstream promote {report.model} {report.version} --override REASON"
    return GateResult(passed=False, text=f"{why}. If that is wanted, promote it by hand: `{command}`")


def _lost(report: EvaluationReport) -> str:
    return format_labels(label for label in report.label_change.labels if not label.version_rows)


def _unproven(report: EvaluationReport) -> str:
    """At most ten, with what each version has of it: `'mixed' (1 training and 0 test rows, the champion's 16 and 4)`."""
    texts = [
        f"{visible(one.label)} ({one.version_rows} training and {one.version_test_rows} test rows, "
        f"the champion's {one.champion_rows} and {one.champion_test_rows})"
        for one in report.label_change.labels
        if one.unproven
    ]
    return _first(texts)


def _lookalikes(report: EvaluationReport) -> str:
    """At most ten, each with the champion's label: `'Good' (12 rows) like 'good'`."""
    texts = [
        f"{visible(one.label)} ({one.version_rows} rows) like {visible(one.looks_like)}"
        for one in report.label_change.labels
        if one.looks_like
    ]
    return _first(texts)


def judge(
    rules: Iterable[GateRule], metrics: Sequence[MetricResult], *, has_champion: bool, rows: str = ""
) -> list[GateResult]:
    """One result per rule. `has_champion`: another version is champion, so `over_champion` rules apply.

    `rows`: says on which rows it was compared, where they are not all.
    """
    known = {metric.metric: metric for metric in metrics}
    return [_judge_rule(rule, known, rows if has_champion else None) for rule in rules]


def _why_no_limit(rule: GateRule) -> str:
    if rule.HasField("over_champion"):
        return "there is no other champion to compare it with"
    return "its rule sets no limit"


@dataclass(frozen=True)
class _Check:
    passed: bool
    text: str


def _judge_rule(rule: GateRule, known: dict[str, MetricResult], beside_rows: str | None) -> GateResult:
    """`beside_rows`: on which rows the champion was compared; None: there is no other."""
    metric = known.get(rule.metric)
    if metric is None:
        text = f"no metric is named {rule.metric!r}; the recipe measures {', '.join(known) or 'none'}"
        return GateResult(rule=rule, passed=False, text=text)
    checks = [
        *_absolute(rule, metric),
        *_gain_over(rule, metric, "baseline", metric.candidate),
        *([] if beside_rows is None else _gain_over(rule, metric, "champion", beside_champion(metric), beside_rows)),
    ]
    if not checks:
        return GateResult(
            rule=rule, passed=True, text=f"{rule.metric} is {metric.candidate:.4f}; {_why_no_limit(rule)}"
        )
    passed = all(check.passed for check in checks)
    return GateResult(rule=rule, passed=passed, text="; ".join(check.text for check in checks))


def _absolute(rule: GateRule, metric: MetricResult) -> list[_Check]:
    checks = []
    figure = f"{metric.metric} is {metric.candidate:.4f}"
    if rule.HasField("at_least"):
        reached = math.isfinite(metric.candidate) and metric.candidate >= rule.at_least - ROUNDING
        checks.append(_Check(reached, f"{figure}, {'at least' if reached else 'not at least'} {rule.at_least:g}"))
    if rule.HasField("at_most"):
        within = math.isfinite(metric.candidate) and metric.candidate <= rule.at_most + ROUNDING
        checks.append(_Check(within, f"{figure}, {'at most' if within else 'not at most'} {rule.at_most:g}"))
    return checks


def _gain_over(rule: GateRule, metric: MetricResult, other: str, mine: float, rows: str = "") -> list[_Check]:
    """The gain over the baseline or the champion on these rows, counted in the metric's better direction."""
    if not rule.HasField(f"over_{other}"):  # type: ignore[arg-type]
        return []
    if not metric.HasField(other):  # type: ignore[arg-type]
        return [_Check(False, f"{metric.metric} is not comparable with the {other}'s, see the notes")]
    wanted, theirs = getattr(rule, f"over_{other}"), getattr(metric, other)
    gain = (mine - theirs) * (1 if metric.higher_is_better else -1)
    reached = math.isfinite(gain) and gain >= wanted - ROUNDING
    figures = f"{metric.metric} is {mine:.4f} and the {other}'s {theirs:.4f}{rows}"
    return [
        _Check(reached, f"{figures}: a gain of {gain:+.4f}, {'at least' if reached else 'not at least'} {wanted:+g}")
    ]
