"""The rules of promotion and rollback."""

import pytest

from millstream.errors import FailedPrecondition
from millstream.evaluation.v1.evaluation_report_pb2 import EvaluationReport, GateResult, LabelChange, MetricResult
from millstream.registry.v1.model_pb2 import AliasEntry, GateRule, ModelSpec
from recipekit.catalog import Catalog
from services.registry.rules import next_promotion, objections, present_gate, rollback_target

PASSED, FAILED, ERROR = EvaluationReport.STATUS_PASSED, EvaluationReport.STATUS_FAILED, EvaluationReport.STATUS_ERROR
GATE = [GateRule(metric="accuracy", at_least=0.7)]
CATALOG = Catalog(["tests.recipes"])


def moves(*versions: int, hold: bool = False) -> list[AliasEntry]:
    entries = [AliasEntry(version=version) for version in versions]
    if entries:
        entries[-1].hold = hold
    return entries


def report(version: int, champion: int, status: EvaluationReport.Status.ValueType = PASSED) -> EvaluationReport:
    return EvaluationReport(
        report_id=f"{version}-{champion}",
        version=version,
        champion_version=champion,
        status=status,
        metrics=[MetricResult(metric="accuracy", candidate=0.8 if status == PASSED else 0.2, higher_is_better=True)],
        label_change=LabelChange(),
    )


@pytest.mark.parametrize(
    ("why", "entries", "reports", "promoted"),
    [
        ("the first passing version becomes champion", moves(), [report(1, 0)], "1-0"),
        ("a failed report promotes nothing", moves(), [report(1, 0, FAILED)], None),
        ("a newer version that beat the champion follows it", moves(1), [report(2, 1)], "2-1"),
        ("a report that compared with an older champion promotes nothing", moves(1, 2), [report(3, 1)], None),
        ("the newest of several passing versions wins", moves(1), [report(2, 1), report(3, 1)], "3-1"),
        ("never to a lower number", moves(3), [report(2, 3)], None),
        ("on hold nothing moves", moves(1, hold=True), [report(2, 1)], None),
        ("a version that was rolled back is not promoted again", moves(1, 2, 1), [report(2, 1)], None),
        ("after a rollback a newer version may come", moves(1, 2, 1), [report(2, 1), report(3, 1)], "3-1"),
        ("the champion itself is not promoted again", moves(2), [report(2, 2)], None),
        ("without reports nothing moves", moves(1), [], None),
    ],
)
def test_promotion(why: str, entries: list[AliasEntry], reports: list[EvaluationReport], promoted: str | None) -> None:
    found = next_promotion(entries, reports, lambda _: GATE)
    assert (found.report_id if found else None) == promoted, why


@pytest.mark.parametrize(("least", "promoted"), [(0.9, None), (0.8, "2-1"), (0.2, "3-1")])
def test_the_figures_are_judged_by_the_present_gate_whatever_the_report_said(
    least: float, promoted: str | None
) -> None:
    reports = [report(2, 1), report(3, 1, FAILED)]
    found = next_promotion(moves(1), reports, lambda _: [GateRule(metric="accuracy", at_least=least)])
    assert (found.report_id if found else None) == promoted


@pytest.mark.parametrize("status", [ERROR, EvaluationReport.STATUS_UNSPECIFIED])
def test_a_version_that_could_not_be_evaluated_passes_no_gate(status: EvaluationReport.Status.ValueType) -> None:
    assert next_promotion(moves(1), [report(2, 1, status)], lambda _: []) is None
    assert objections(report(2, 1, status), []) == ["it could not be evaluated"]


@pytest.mark.parametrize(
    "change", [LabelChange(lost=1, kept=1), LabelChange(lost=2, new=2), LabelChange(unknown="the data is gone")]
)
def test_lost_or_unknown_labels_never_pass_even_without_a_gate(change: LabelChange) -> None:
    losing = report(2, 1)
    losing.label_change.CopyFrom(change)
    assert next_promotion(moves(1), [losing], lambda _: []) is None
    (objection,) = objections(losing, [])
    assert "--override" in objection


def test_a_report_that_compared_no_labels_promotes_only_where_there_is_no_champion() -> None:
    first, second = report(1, 0), report(2, 1)
    for old in (first, second):
        old.ClearField("label_change")
    assert next_promotion(moves(), [first], lambda _: GATE) == first
    assert next_promotion(moves(1), [second], lambda _: GATE) is None
    again = report(2, 1)
    assert next_promotion(moves(1), [again, second], lambda _: GATE) == again


def test_of_two_reports_on_one_comparison_the_newest_counts() -> None:
    first, again = report(2, 1), report(2, 1, FAILED)
    first.create_time.FromSeconds(1)
    again.create_time.FromSeconds(2)
    for reports in ([first, again], [again, first]):
        assert next_promotion(moves(1), reports, lambda _: GATE) is None


def test_the_present_gate_is_the_models_own_else_the_recipes_else_the_reports() -> None:
    judged = report(2, 1)
    judged.gate.append(GateResult(passed=True, rule=GateRule(metric="accuracy", at_least=0.3)))
    judged.gate.append(GateResult(passed=False, text="of the labels"))
    assert present_gate(ModelSpec(gate=GATE), CATALOG, judged) == GATE
    assert [rule.at_least for rule in present_gate(ModelSpec(), CATALOG, judged)] == [0.3]
    judged.lineage.recipe = "toy_words"
    assert [rule.at_least for rule in present_gate(ModelSpec(), CATALOG, judged)] == [0.7]


@pytest.mark.parametrize(
    ("entries", "wanted", "target"),
    [(moves(1, 2), 0, 1), (moves(1, 2, 3), 0, 2), (moves(1, 2, 3, 2), 0, 1), (moves(1, 2, 3), 1, 1)],
)
def test_a_rollback_goes_to_the_version_before_the_present_one_was_first_named(
    entries: list[AliasEntry], wanted: int, target: int
) -> None:
    assert rollback_target(entries, wanted) == target


@pytest.mark.parametrize(
    ("entries", "wanted", "text"),
    [(moves(), 0, "never named"), (moves(1), 0, "first"), (moves(1, 2), 7, "promote it instead")],
)
def test_a_rollback_without_a_target_is_refused(entries: list[AliasEntry], wanted: int, text: str) -> None:
    with pytest.raises(FailedPrecondition, match=text):
        rollback_target(entries, wanted)
