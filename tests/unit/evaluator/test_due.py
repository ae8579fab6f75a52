"""Which reports are pending, to the last branch."""

import pytest

from millstream.evaluation.v1.evaluation_report_pb2 import EvaluationReport
from services.evaluator.due import ChampionAlias, champion_of, is_pending, newest_of

PASSED, FAILED, ERROR = EvaluationReport.STATUS_PASSED, EvaluationReport.STATUS_FAILED, EvaluationReport.STATUS_ERROR


def beside(
    champion: int, entry: int, status: EvaluationReport.Status.ValueType = PASSED, seconds: int = 0
) -> EvaluationReport:
    report = EvaluationReport(champion_version=champion, champion_entry=entry, status=status)
    report.create_time.FromSeconds(seconds)
    report.label_change.SetInParent()
    return report


def without_labels(champion: int, entry: int, status: EvaluationReport.Status.ValueType = PASSED) -> EvaluationReport:
    """A report that was made before labels were compared."""
    report = beside(champion, entry, status)
    report.ClearField("label_change")
    return report


def on_all_rows(champion: int, entry: int) -> EvaluationReport:
    """A report that was made before a version with new labels was compared without their rows."""
    report = beside(champion, entry)
    report.version = 9
    report.label_change.kept, report.label_change.new = 2, 1
    report.metrics.add(metric="accuracy", champion=0.4)
    return report


def now(version: int, entry: int, *ever: int) -> ChampionAlias:
    return ChampionAlias(version, entry, frozenset({version, *ever}))


CASES = {
    "a first one, without a champion": (1, ChampionAlias(), [], True),
    "a first one, beside a champion": (2, now(1, 1), [], True),
    "a first one, even below the champion": (1, now(2, 1), [], True),
    "a first one, even when it is champion itself": (1, now(1, 1), [], True),
    "nothing while the champion is the one compared with": (2, now(1, 1), [beside(1, 1)], False),
    "nothing while there is still no champion": (1, ChampionAlias(), [beside(0, 0)], False),
    "another when the first champion came": (2, now(1, 1), [beside(0, 0)], True),
    "another when the champion changed": (3, now(2, 2, 1), [beside(1, 1)], True),
    "another when it failed beside the champion that was replaced": (3, now(2, 2, 1), [beside(1, 1, FAILED)], True),
    "another when it failed and the champion went back": (3, now(1, 3, 2), [beside(2, 2, FAILED)], True),
    "another when it failed while there was no champion": (3, now(2, 2, 1), [beside(0, 0, FAILED)], True),
    "nothing when it failed beside the present champion": (3, now(2, 2, 1), [beside(2, 2, FAILED)], False),
    "nothing when the newest ended as error": (3, now(2, 2, 1), [beside(1, 1, ERROR)], False),
    "nothing when an older one passed and the newest ended as error": (
        4, now(3, 3, 1, 2), [beside(2, 2, ERROR), beside(1, 1)], False,
    ),
    "another when an older one ended as error and the newest passed": (
        4, now(3, 3, 1, 2), [beside(1, 1, ERROR), beside(2, 2)], True,
    ),
    "newest goes by the champion's ledger, not by clocks": (
        4, now(3, 3, 1, 2), [beside(2, 2, ERROR, seconds=1), beside(1, 1, PASSED, seconds=9)], False,
    ),
    "nothing for a version below the champion": (2, now(3, 1), [beside(0, 0)], False),
    "nothing for the champion itself": (2, now(2, 1), [beside(0, 0)], False),
    "nothing for a version that once was champion": (3, now(2, 2, 3), [beside(0, 0)], False),
    "nothing when the champion went back to one compared with": (
        4, now(1, 3, 2), [beside(1, 1), beside(2, 2)], False,
    ),
    "another when the one that passed beside this champion compared no labels": (
        2, now(1, 1), [without_labels(1, 1)], True,
    ),
    "another when the one that passed beside this champion compared on rows that it cannot answer": (
        2, now(1, 1), [on_all_rows(1, 1)], True,
    ),
    "nothing once such a comparison was made again": (2, now(1, 1), [without_labels(1, 1), beside(1, 1, FAILED)], False),
    "nothing when one that compared no labels failed anyhow": (2, now(1, 1), [without_labels(1, 1, FAILED)], False),
    "nothing when there was no champion whose labels to compare": (1, now(0, 0), [without_labels(0, 0)], False),
    "nothing for a version below the champion, whatever its report compared": (
        1, now(2, 1), [without_labels(2, 1)], False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_pending(name: str) -> None:
    version, champion, reports, expected = CASES[name]
    assert is_pending(version, champion, reports) is expected
    assert is_pending(version, champion, reports[::-1]) is expected


def test_the_champion_is_what_the_newest_entry_names_in_whatever_order_they_come() -> None:
    assert champion_of({2: 5, 3: 4, 1: 4}) == ChampionAlias(4, 3, frozenset({4, 5}))
    assert champion_of({}) == ChampionAlias(0, 0, frozenset())


@pytest.mark.parametrize("status", [PASSED, FAILED, ERROR])
def test_a_request_is_answered_once_whatever_the_reports_before_it_say(
    status: EvaluationReport.Status.ValueType,
) -> None:
    before, answer = beside(0, 0, status, seconds=9), beside(0, 0, status, seconds=1)
    answer.request_number = 2
    champion = ChampionAlias()
    assert is_pending(1, champion, [before], request_number=1)
    assert is_pending(1, champion, [before, answer], request_number=3)
    assert not is_pending(1, champion, [before, answer], request_number=2)
    assert newest_of([before, answer]) is answer and newest_of([answer, before]) is answer
