"""Callers are patient with an outage together; once that is over, one at a time asks and nobody else waits."""

import time

import pytest

from millstream.errors import Unavailable
from servicekit.blobs.s3.circuit import CircuitBreaker

AWAY = Unavailable("the store is away: start it", bucket="facts")


def test_all_try_again_while_an_outage_is_young() -> None:
    outage = CircuitBreaker(patience=60.0, answer=60.0)
    assert outage.is_worth_waiting(time.monotonic(), AWAY)
    with outage.asking(), outage.asking():
        pass


def test_later_each_tries_once_and_while_one_asks_the_others_are_refused_in_the_same_words() -> None:
    outage = CircuitBreaker(patience=1.0, answer=60.0)
    assert not outage.is_worth_waiting(time.monotonic() - 2.0, AWAY)
    assert not outage.is_worth_waiting(time.monotonic(), AWAY), "the patience is with the outage, not with each call"
    with outage.asking(), pytest.raises(Unavailable, match=AWAY.text) as refused, outage.asking():
        raise AssertionError("it was let through")
    assert refused.value is not AWAY and refused.value.metadata == AWAY.metadata
    with outage.asking():
        pass


def test_whoever_asks_for_too_long_keeps_nobody_from_asking() -> None:
    outage = CircuitBreaker(patience=1.0, answer=0.0)
    assert not outage.is_worth_waiting(time.monotonic() - 2.0, AWAY)
    with outage.asking(), outage.asking():
        pass


def test_an_answer_ends_it() -> None:
    outage = CircuitBreaker(patience=1.0, answer=60.0)
    assert not outage.is_worth_waiting(time.monotonic() - 2.0, AWAY)
    outage.over()
    with outage.asking(), outage.asking():
        pass
    assert outage.is_worth_waiting(time.monotonic(), AWAY), "the next one is a new one"


def test_a_call_that_alone_keeps_failing_is_given_up_too() -> None:
    outage = CircuitBreaker(patience=1.0, answer=60.0)
    since = time.monotonic() - 2.0
    outage.over()
    assert not outage.is_worth_waiting(since, AWAY)
