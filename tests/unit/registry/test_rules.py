"""The rules of promotion and rollback."""

import pytest

from millstream.defaults import CHAMPION
from millstream.errors import FailedPrecondition
from millstream.evaluation.v1.evaluation_report_pb2 import EvaluationReport, GateResult, LabelChange, MetricResult
from millstream.registry.v1.model_pb2 import AliasEntry, GateRule, ModelSpec
from recipekit.catalog import Catalog
from services.registry.rules import (
    deciding_report,
    next_promotion,
    objections,
    present_gate,
    rollback_target,
    why_not_compared,
)

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
    "change",
    [
        LabelChange(lost=1, kept=1),
        LabelChange(lost=2, new=2),
        LabelChange(kept=2, unproven=1),
        LabelChange(kept=2, new=1, lookalike=1),
        LabelChange(unknown="the data is gone"),
    ],
)
def test_lost_unproven_lookalike_or_unknown_labels_never_pass_even_without_a_gate(change: LabelChange) -> None:
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


def test_a_report_of_before_that_compared_on_rows_of_new_labels_replaces_no_champion() -> None:
    wider, equal = report(2, 1), report(3, 1)
    for one in (wider, equal):
        one.metrics[0].champion = 0.4
    wider.label_change.kept = equal.label_change.kept = 2
    wider.label_change.new = 1
    gate = [GateRule(metric="accuracy", over_champion=0.0)]
    assert not objections(wider, gate) and not objections(equal, gate), "what it says of its figures stays"
    assert next_promotion(moves(1), [wider], lambda _: gate) is None
    assert deciding_report([wider], moves(1), 2, CHAMPION) is None
    assert next_promotion(moves(1), [equal], lambda _: gate) == equal
    wider.rows_beside_champion = 30
    assert next_promotion(moves(1), [wider], lambda _: gate) == wider


def test_where_no_row_could_be_compared_a_present_gate_without_rules_is_not_passed() -> None:
    unseen = report(2, 1, FAILED)
    unseen.rows_left_out = 30
    del unseen.metrics[:]
    assert next_promotion(moves(1), [unseen], lambda _: []) is None
    assert "--override" in objections(unseen, [])[0]


def test_of_two_reports_on_one_comparison_the_newest_counts() -> None:
    first, again = report(2, 1), report(2, 1, FAILED)
    first.create_time.FromSeconds(1)
    again.create_time.FromSeconds(2)
    for reports in ([first, again], [again, first]):
        assert next_promotion(moves(1), reports, lambda _: GATE) is None


@pytest.mark.parametrize("seconds", [0, 2])
def test_a_requested_report_counts_whatever_its_status_and_its_clock_for_both_ways_of_promotion(seconds: int) -> None:
    first, requested = report(2, 1), report(2, 1, ERROR)
    first.create_time.FromSeconds(1)
    requested.create_time.FromSeconds(seconds)
    requested.request_number = 1
    requested.ClearField("label_change")
    for reports in ([first, requested], [requested, first]):
        assert deciding_report(reports, moves(1), 2, CHAMPION) is requested
        assert next_promotion(moves(1), reports, lambda _: GATE) is None


@pytest.mark.parametrize(
    ("why", "entries", "alias", "decides"),
    [
        ("beside the present champion", moves(1), CHAMPION, "2-1"),
        ("beside one before it no report will do", moves(1, 3), CHAMPION, None),
        ("a first champion replaces none", moves(), CHAMPION, "2-0"),
        ("the champion itself may be held by hand", moves(1, 2), CHAMPION, "2-1"),
        ("another alias leaves the champion in place", moves(1, 3), "stable", "2-1"),
    ],
)
def test_by_hand_a_report_beside_the_champion_that_is_replaced_decides(
    why: str, entries: list[AliasEntry], alias: str, decides: str | None
) -> None:
    alone, beside = report(2, 0), report(2, 1)
    beside.create_time.FromSeconds(1)
    found = deciding_report([beside, alone], entries, 2, alias)
    assert (found.report_id if found else None) == decides, why


def test_by_hand_a_report_that_compared_no_labels_replaces_no_champion() -> None:
    old = report(2, 1)
    old.ClearField("label_change")
    assert deciding_report([old], moves(1), 2, CHAMPION) is None


def labels(version: int, champion: int, **rows: int) -> EvaluationReport:
    """A report whose version has these rows of each label."""
    made = report(version, champion)
    made.model = "toy"
    for label, number in rows.items():
        made.label_change.labels.add(label=label, version_rows=number)
    return made


def test_what_no_report_compares_is_refused_with_the_labels_that_lack_and_the_next_step() -> None:
    mine, champions = labels(2, 1, good=3, bad=4, mixed=0), labels(3, 1, good=5, mixed=16, bad=1)
    text = why_not_compared(moves(1, 3), [mine], [champions])
    assert text == (
        "no report compares it with the champion, version 3, and none lists labels of that one: 'mixed' (16 rows); "
        "request one by `millstream reports again toy 2`"
    )
    kept = why_not_compared(moves(1, 3), [labels(2, 1, good=3, bad=4, mixed=1)], [champions])
    unread = why_not_compared(moves(1, 3), [mine], [])
    assert "lists labels" not in kept + unread and "reports again toy 2" in kept and "reports again toy 2" in unread
    assert "millstream rollback toy 2" in why_not_compared(moves(2, 3), [mine], [champions])
    newest_first = [champions, labels(3, 0, good=5)]
    assert "'mixed' (16 rows)" in why_not_compared(moves(1, 3), [mine], newest_first), "the champion's newest counts"


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
