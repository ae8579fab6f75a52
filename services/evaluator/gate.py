"""The gate: rules and figures in, a verdict with its reasons out. Nothing else decides whether a version passes."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from millstream.evaluation.v1.evaluation_report_pb2 import GateResult, MetricResult
from millstream.registry.v1.model_pb2 import GateRule
from recipekit.spec import Spec

ROUNDING = 1e-9
"""A figure this close below its limit misses it only by the binary representation of decimals."""


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


def judge(rules: Iterable[GateRule], metrics: Sequence[MetricResult], *, has_champion: bool) -> list[GateResult]:
    """One result per rule. `has_champion`: another version is champion, so `over_champion` rules apply."""
    known = {metric.metric: metric for metric in metrics}
    return [_judge_rule(rule, known, has_champion) for rule in rules]


@dataclass(frozen=True)
class _Check:
    passed: bool
    text: str


def _judge_rule(rule: GateRule, known: dict[str, MetricResult], has_champion: bool) -> GateResult:
    metric = known.get(rule.metric)
    if metric is None:
        text = f"no metric is named {rule.metric!r}; the recipe measures {', '.join(known) or 'none'}"
        return GateResult(rule=rule, passed=False, text=text)
    checks = [
        *_absolute(rule, metric),
        *_gain_over(rule, metric, "baseline"),
        *_gain_over(rule, metric, "champion", applies=has_champion),
    ]
    if not checks:
        return GateResult(
            rule=rule, passed=True, text=f"{rule.metric} is {metric.candidate:.4f}; its rule sets no limit"
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


def _gain_over(rule: GateRule, metric: MetricResult, other: str, *, applies: bool = True) -> list[_Check]:
    """The gain over the baseline or the champion, counted in the metric's better direction."""
    if not rule.HasField(f"over_{other}") or not applies:  # type: ignore[arg-type]
        return []
    if not metric.HasField(other):  # type: ignore[arg-type]
        return [_Check(False, f"{metric.metric} cannot be compared: the {other} was not measured, see the notes")]
    wanted, theirs = getattr(rule, f"over_{other}"), getattr(metric, other)
    gain = (metric.candidate - theirs) * (1 if metric.higher_is_better else -1)
    reached = math.isfinite(gain) and gain >= wanted - ROUNDING
    figures = f"{metric.metric} is {metric.candidate:.4f} and the {other}'s {theirs:.4f}"
    return [
        _Check(reached, f"{figures}: a gain of {gain:+.4f}, {'at least' if reached else 'not at least'} {wanted:+g}")
    ]
