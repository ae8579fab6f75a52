"""What the ended attempts of a run mean: when it has failed, and how long the next attempt waits."""

from typing import Any

import pytest

from millstream.training.v1.attempt_pb2 import AttemptEnd, AttemptFailure
from services.trainer.store import Ending
from services.trainer.verdict import LONGEST_PAUSE_SECONDS, MOST_DEATHS, MOST_TROUBLES, pause, verdict


def died(checkpoint_step: int = 0) -> AttemptEnd:
    return AttemptEnd(cause=AttemptEnd.CAUSE_DIED, reason="it was killed by SIGKILL", checkpoint_step=checkpoint_step)


def stopped() -> AttemptEnd:
    return AttemptEnd(cause=AttemptEnd.CAUSE_STOPPED, reason="its worker was asked to stop")


def trouble() -> AttemptEnd:
    return AttemptEnd(cause=AttemptEnd.CAUSE_TROUBLE, reason="Unavailable: the store is away")


def failed(step: int = 0, message: str = "broken", **more: Any) -> AttemptFailure:
    return AttemptFailure(error_class="ValueError", message=message, step=step, **more)


@pytest.mark.parametrize(
    ("endings", "reason"),
    [
        ([], ""),
        ([died()] * (MOST_DEATHS - 1), ""),
        ([died()] * MOST_DEATHS, "its worker died 5 times without a new checkpoint, at last it was killed by SIGKILL"),
        ([died(step) for step in range(50)], ""),
        ([*[died()] * (MOST_DEATHS - 1), *[died(10)] * (MOST_DEATHS - 1)], ""),
        ([died(10), *[died(5)] * (MOST_DEATHS - 1)], "its worker died 5 times"),
        ([*[died()] * (MOST_DEATHS - 1), stopped(), died()], "its worker died 5 times"),
        ([stopped()] * 200, ""),
        ([trouble()] * (MOST_TROUBLES - 1), ""),
        ([trouble()] * MOST_TROUBLES, "100 attempts ended without a new checkpoint, at last: Unavailable"),
        ([*[trouble()] * 50, *[died()] * (MOST_DEATHS - 1)], ""),
        ([failed(1), failed(2)], ""),
        ([failed(1), failed(1, "another")], ""),
        ([failed(7), died(), failed(7)], "ValueError: broken (twice at the same step"),
        ([failed(1), failed(2), trouble(), failed(3)], "ValueError: broken (attempt 4, 3 have failed)"),
        ([failed(invalid=True)], "ValueError: broken; see"),
        ([failed(invalid=True), died()], "ValueError: broken; see"),
    ],
)
def test_a_run_fails_when_another_attempt_would_not_help(endings: list[Ending], reason: str) -> None:
    found = verdict(endings)
    assert found.startswith(reason) and bool(found) == bool(reason)


def test_attempts_in_vain_follow_one_another_more_and_more_slowly() -> None:
    assert [pause([died()] * count) for count in range(6)] == [0, 0, 1, 2, 4, 8]
    assert [pause([trouble()] * count) for count in (1, 2, 3, 90)] == [0, 1, 2, LONGEST_PAUSE_SECONDS]
    assert pause([failed(1), failed(2)]) == 1
    assert pause([died(), died(), died(5)]) == 0, "the third attempt got further"
    assert pause([died(), died(), stopped()]) == 0, "a worker that was asked to stop is replaced at once"
