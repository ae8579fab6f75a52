"""Messages as short texts."""

import time
from collections.abc import Iterator

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from millstream.cli.format import count, run_line, when
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


def test_a_run_in_one_line() -> None:
    run = TrainingRun(run_id="r", state=TrainingRun.STATE_RUNNING, attempt=2)
    run.progress.step, run.progress.total_steps, run.progress.loss = 5, 10, 0.25
    run.progress.metrics["accuracy"] = 0.5
    run.progress.remaining.seconds = 3
    assert run_line(run) == (
        "run r running, attempt 2, step 5/10, loss 0.2500, validation: accuracy 0.5000, at most 3.0 s to go"
    )
