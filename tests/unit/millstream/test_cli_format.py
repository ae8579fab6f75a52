"""Messages as short texts."""

import time
from collections.abc import Iterator

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from millstream.cli.format import count, file_lines, inexact_lines, run_line, time_left, when
from millstream.dataset.v1.import_pb2 import FileReport, Import
from millstream.training.v1.lineage_pb2 import Lineage
from millstream.training.v1.training_run_pb2 import TrainingRun


@pytest.fixture
def in_india(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "IST-5:30")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_times_are_in_the_local_zone(in_india: None) -> None:
    assert when(Timestamp(seconds=1_790_000_000)) == "2026-09-21 19:43:20"
    assert when(Timestamp()) == "-"


def test_a_count_of_one_is_singular() -> None:
    assert (count(1, "attempt"), count(2, "attempt")) == ("1 attempt", "2 attempts")


def test_a_run_of_a_version_that_kept_no_reasons_says_from_which_step_it_is_not_exact() -> None:
    assert inexact_lines(Lineage()) == []
    assert inexact_lines(Lineage(inexact_from_step=0)) == ["not bit-exact from step 0 on"]


def test_a_run_in_one_line() -> None:
    run = TrainingRun(run_id="r", state=TrainingRun.STATE_RUNNING, attempt=2)
    run.progress.step, run.progress.total_steps, run.progress.loss = 5, 10, 0.25
    run.progress.metrics["accuracy"] = 0.5
    run.progress.remaining.seconds = 3
    assert run_line(run) == (
        "run r running, attempt 2, step 5/10, at most 3 s to go, loss 0.2500, validation: accuracy 0.5000"
    )


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (125, "2 min 5 s"), (11_400, "3 h 10 min")]
)
def test_a_time_left_has_its_two_largest_units(seconds: float, text: str) -> None:
    assert time_left(seconds) == text


def test_a_file_that_is_mostly_quarantined_stands_out_with_its_main_reasons() -> None:
    reasons = {"label: missing": 30, "not JSON": 40, "a": 1, "b": 2, "c": 3, "d": 4, "e": 1}
    found = Import(dataset="words", snapshot_number=2, file=FileReport(quarantine_reasons=reasons))
    found.file.rows.read, found.file.rows.kept, found.file.rows.quarantined = 100, 19, 81
    assert file_lines(found) == [
        "the file: 19 of 100 rows kept, 0 duplicate, 81 quarantined",
        "warning: 81 of 100 rows (81%) are in quarantine and no model sees them: correct the file and import it again",
        "quarantined, not JSON: 40",
        "quarantined, label: missing: 30",
        "quarantined, d: 4",
        "quarantined, c: 3",
        "quarantined, b: 2",
        "quarantined, 2 other reasons: 2",
        "see the quarantined rows: `millstream datasets rows words --number 2 --split quarantine`",
        "see the snapshot: `millstream datasets show words --number 2`",
    ]
    found.state = Import.STATE_UNCHANGED
    assert "the quarantined rows are stored nowhere" in "".join(file_lines(found)), "they belong to no snapshot"
    found.file.rows.kept, found.file.rows.quarantined = 50, 50
    assert not any(line.startswith("warning") for line in file_lines(found)), "half of the rows is not over half"


def test_an_import_of_an_earlier_version_says_nothing_of_its_file() -> None:
    assert file_lines(Import(dataset="words", state=Import.STATE_SUCCEEDED, snapshot_number=2)) == []
