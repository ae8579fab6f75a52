"""Which versions pass the gate, and the text of each result."""

import math

import pytest

from millstream.evaluation.v1.evaluation_report_pb2 import EvaluationReport, MetricResult
from millstream.registry.v1.model_pb2 import GateRule
from recipekit import gate
from recipekit.catalog import Catalog
from recipekit.gate import judge, rules_of

ACCURACY = MetricResult(metric="accuracy", higher_is_better=True, candidate=0.8, baseline=0.5, champion=0.85)
LOSS = MetricResult(metric="loss", higher_is_better=False, candidate=0.4, baseline=0.6, champion=0.3)
NOTHING_BESIDE = MetricResult(metric="accuracy", higher_is_better=True, candidate=0.8)


def verdict(rule: GateRule, *metrics: MetricResult, has_champion: bool = True) -> tuple[bool, str]:
    (result,) = judge([rule], metrics or (ACCURACY, LOSS), has_champion=has_champion)
    assert result.rule == rule
    return result.passed, result.text


@pytest.mark.parametrize(
    ("rule", "passed"),
    [
        (GateRule(metric="accuracy", at_least=0.8), True),
        (GateRule(metric="accuracy", at_least=0.81), False),
        (GateRule(metric="loss", at_most=0.4), True),
        (GateRule(metric="loss", at_most=0.39), False),
        (GateRule(metric="accuracy", over_baseline=0.3), True),
        (GateRule(metric="accuracy", over_baseline=0.31), False),
        (GateRule(metric="loss", over_baseline=0.2), True),
        (GateRule(metric="loss", over_baseline=0.21), False),
        (GateRule(metric="accuracy", over_champion=-0.05), True),
        (GateRule(metric="accuracy", over_champion=0.0), False),
        (GateRule(metric="loss", over_champion=-0.1), True),
        (GateRule(metric="loss", over_champion=0.0), False),
        (GateRule(metric="accuracy", at_least=0.7, over_champion=0.0), False),
        (GateRule(metric="accuracy"), True),
    ],
)
def test_a_rule(rule: GateRule, passed: bool) -> None:
    assert verdict(rule)[0] is passed


def test_the_text_has_the_figures() -> None:
    _, text = verdict(GateRule(metric="accuracy", at_least=0.9, over_baseline=0.1, over_champion=0.01))
    assert text == (
        "accuracy is 0.8000, not at least 0.9; "
        "accuracy is 0.8000 and the baseline's 0.5000: a gain of +0.3000, at least +0.1; "
        "accuracy is 0.8000 and the champion's 0.8500: a gain of -0.0500, not at least +0.01"
    )


def test_an_unknown_metric_fails_and_names_the_known() -> None:
    passed, text = verdict(GateRule(metric="f2", at_least=0.0))
    assert not passed
    assert text == "no metric is named 'f2'; the recipe measures accuracy, loss"


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_figure_that_is_not_a_number_fails(number: float) -> None:
    broken = MetricResult(metric="m", higher_is_better=True, candidate=number, baseline=0.0, champion=0.0)
    for rule in ("at_least", "at_most", "over_baseline", "over_champion"):
        assert not verdict(GateRule(metric="m", **{rule: 0.0}), broken)[0]
    beside = MetricResult(metric="m", higher_is_better=True, candidate=0.5, baseline=number, champion=number)
    assert not verdict(GateRule(metric="m", over_baseline=-1.0), beside)[0]
    assert not verdict(GateRule(metric="m", at_least=math.nan))[0]


def test_over_champion_does_not_apply_without_another_champion() -> None:
    passed, text = verdict(GateRule(metric="accuracy", over_champion=0.5), NOTHING_BESIDE, has_champion=False)
    assert passed and "there is no other champion to compare it with" in text


def test_a_champion_or_baseline_that_was_not_measured_fails() -> None:
    for other in ("champion", "baseline"):
        passed, text = verdict(GateRule(metric="accuracy", **{f"over_{other}": -1.0}), NOTHING_BESIDE)
        assert not passed
        assert f"not comparable with the {other}'s" in text


def test_no_rules_give_no_results_and_the_recipes_own_keep_what_they_leave_open() -> None:
    assert judge([], [ACCURACY], has_champion=True) == []
    (rule,) = rules_of(Catalog(["tests.recipes"]).spec("toy_words"))
    assert rule == GateRule(metric="accuracy", at_least=0.7, over_baseline=0.0, over_champion=-0.1)
    assert not rule.HasField("at_most")


WIDER = MetricResult(
    metric="accuracy", higher_is_better=True, candidate=0.9, baseline=0.5, champion=0.85, candidate_beside_champion=0.8
)


def test_over_the_champion_the_figure_on_the_rows_that_it_can_answer_is_judged_elsewhere_that_on_all() -> None:
    rule = GateRule(metric="accuracy", at_least=0.9, over_baseline=0.4, over_champion=0.0)
    report = EvaluationReport(
        version=2, champion_version=1, metrics=[WIDER], rows_compared=221, rows_beside_champion=150
    )
    (result,) = gate.verdict(report, [rule])
    assert not result.passed
    assert result.text == (
        "accuracy is 0.9000, at least 0.9; accuracy is 0.9000 and the baseline's 0.5000: a gain of +0.4000, at least +0.4; "
        "accuracy is 0.8000 and the champion's 0.8500 on the 150 of 221 test rows whose label the champion answers: "
        "a gain of -0.0500, not at least +0"
    )
    assert verdict(GateRule(metric="accuracy", over_champion=-0.05), WIDER)[0]


@pytest.mark.parametrize("rules", [[], [GateRule(metric="accuracy", at_least=0.0)]])
def test_where_no_row_could_be_compared_no_gate_is_passed(rules: list[GateRule]) -> None:
    report = EvaluationReport(model="toy", version=2, champion_version=1, rows_left_out=30)
    (result,) = gate.verdict(report, rules)
    assert not result.passed and result.text.startswith("nothing can be compared: all 30 test rows")
