"""The rules of promotion and rollback."""

import pytest

from millstream.errors import FailedPrecondition
from millstream.evaluation.v1.evaluation_report_pb2 import EvaluationReport
from millstream.registry.v1.model_pb2 import AliasEntry
from services.registry.rules import next_promotion, rollback_target

PASSED, FAILED = EvaluationReport.STATUS_PASSED, EvaluationReport.STATUS_FAILED


def moves(*versions: int, hold: bool = False) -> list[AliasEntry]:
    entries = [AliasEntry(version=version) for version in versions]
    if entries:
        entries[-1].hold = hold
    return entries


def report(version: int, champion: int, status: EvaluationReport.Status.ValueType = PASSED) -> EvaluationReport:
    return EvaluationReport(
        report_id=f"{version}-{champion}", version=version, champion_version=champion, status=status
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
    found = next_promotion(entries, reports)
    assert (found.report_id if found else None) == promoted, why


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
