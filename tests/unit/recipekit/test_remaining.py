"""The estimate of a training's remaining time, from recorded sequences of (time, step); no clock is read."""

from itertools import pairwise

import pytest

from recipekit.remaining import REPORTS, WINDOW_SECONDS, RemainingTime

Reports = list[tuple[float, int]]


def training(
    steps: int, seconds: float, *, start_up: float = 0.0, first: float = 0.0, every: int = 0, pause: float = 0.0
) -> Reports:
    """What a worker reports, about once a second, of `steps` steps of so many seconds; step 1 takes `first` more.

    `every` so many steps an evaluation and a checkpoint take `pause` seconds, after which it reports at once.
    """
    now, last, reports = start_up + first, 0.0, []
    for step in range(1, steps + 1):
        now += seconds
        evaluated = bool(every) and step % every == 0
        now += pause if evaluated else 0.0
        if step in (1, steps) or evaluated or now - last >= 1.0:
            reports.append((now, step))
            last = now
    return reports


def worst(reports: Reports) -> float:
    """The largest error of an estimate from the tenth second after the first step on, as a share of the time left.

    The longest time between two reports is free: an evaluation is not spread over the steps before it.
    """
    estimate, (end, total), errors = RemainingTime(), reports[-1], [0.0]
    longest = max(later - earlier for (earlier, _), (later, _) in pairwise(reports))
    for now, step in reports[:-1]:
        estimate.add(now, step)
        if now >= reports[0][0] + 10:
            told = estimate.seconds(total)
            assert told is not None
            errors.append(max(0.0, abs(told - (end - now)) - longest) / (end - now))
    return max(errors)


SEQUENCES = {
    "steady": training(600, 0.1),
    "a start-up of nine seconds": training(600, 0.1, start_up=9),
    "a slow first step": training(600, 0.1, first=8),
    "slow steps": training(40, 3.0, first=5),
    "an evaluation each ten seconds": training(600, 0.1, every=100, pause=1.5),
    "an evaluation each four minutes": training(24_000, 0.1, start_up=5, every=2400, pause=40),
    "hours, and a slow start": training(20_000, 0.5, start_up=20, first=60, every=1000, pause=50),
}


@pytest.mark.parametrize("name", SEQUENCES)
def test_it_is_right_within_a_fifth_from_the_tenth_second_on(name: str) -> None:
    assert worst(SEQUENCES[name]) <= 0.2


BUSY: Reports = [(360.8, 7), (362.7, 11), (366.8, 21), (379.6, 41), (380.7, 45), (381.6, 60), (382.5, 75)]
"""As a worker reported on a busy machine, after six minutes of start-up. At step 11 it said `at most 2110.3 s to go`."""


def test_a_minute_is_never_an_hour() -> None:
    estimate = RemainingTime()
    told = []
    for now, step in BUSY:
        estimate.add(now, step)
        told.append(estimate.seconds(75))
    assert told[0] is None
    assert [round(left) for left in told[1:] if left is not None] == [30, 23, 19, 16, 6, 0]


def test_it_follows_a_machine_that_becomes_slower() -> None:
    fast = training(3000, 0.1)
    slow = [(fast[-1][0] + now, 3000 + step) for now, step in training(3000, 0.2)]
    estimate, (end, total) = RemainingTime(), slow[-1]
    for now, step in [*fast, *slow]:
        estimate.add(now, step)
        if now >= fast[-1][0] + WINDOW_SECONDS:
            told = estimate.seconds(total)
            assert told is not None and abs(told - (end - now)) <= 0.2 * (end - now) + 1


def test_an_attempt_that_resumes_counts_its_own_steps() -> None:
    estimate = RemainingTime()
    for now, step in ((30.0, 501), (31.0, 511), (32.0, 521)):
        estimate.add(now, step)
    assert estimate.seconds(621) == pytest.approx(10.0)


def test_nothing_is_left_after_the_last_step_and_nothing_is_known_before_the_first() -> None:
    estimate = RemainingTime()
    assert estimate.seconds(10) is None
    estimate.add(1.0, 1)
    estimate.add(2.0, 10)
    assert estimate.seconds(10) == 0.0


def test_what_is_kept_of_a_training_of_a_week_is_bounded() -> None:
    estimate = RemainingTime()
    for second in range(7 * 86_400):
        estimate.add(float(second), 2 * second)
    assert len(estimate._reports) <= 2 * REPORTS
    assert estimate.seconds(4 * 7 * 86_400) == pytest.approx(7 * 86_400, rel=0.01)
