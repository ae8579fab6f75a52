"""The circuit breaker: closed it lets every caller retry, half-open it lets one probe and fails the others at once."""

import time

import pytest

from millstream.errors import Unavailable
from servicekit.blobs.s3.circuit import CircuitBreaker

AWAY = Unavailable("the store is away: start it", bucket="facts")


def test_closed_it_lets_all_callers_retry() -> None:
    breaker = CircuitBreaker(retry_seconds=60.0, probe_seconds=60.0)
    assert breaker.record_failure(time.monotonic(), AWAY)
    with breaker.attempt(), breaker.attempt():
        pass


def test_half_open_it_fails_all_but_the_probe_with_the_last_error() -> None:
    breaker = CircuitBreaker(retry_seconds=1.0, probe_seconds=60.0)
    assert not breaker.record_failure(time.monotonic() - 2.0, AWAY)
    assert not breaker.record_failure(time.monotonic(), AWAY), "retry_seconds are counted for the store, not for a call"
    with breaker.attempt(), pytest.raises(Unavailable, match=AWAY.text) as refused, breaker.attempt():
        raise AssertionError("a second probe was let through")
    assert refused.value is not AWAY and refused.value.metadata == AWAY.metadata
    with breaker.attempt():
        pass


def test_a_probe_that_takes_too_long_blocks_no_other_probe() -> None:
    breaker = CircuitBreaker(retry_seconds=1.0, probe_seconds=0.0)
    assert not breaker.record_failure(time.monotonic() - 2.0, AWAY)
    with breaker.attempt(), breaker.attempt():
        pass


def test_an_answer_closes_it() -> None:
    breaker = CircuitBreaker(retry_seconds=1.0, probe_seconds=60.0)
    assert not breaker.record_failure(time.monotonic() - 2.0, AWAY)
    breaker.record_answer()
    with breaker.attempt(), breaker.attempt():
        pass
    assert breaker.record_failure(time.monotonic(), AWAY), "the next failure begins a new outage"


def test_a_call_that_has_failed_too_long_is_given_up_though_others_succeed() -> None:
    breaker = CircuitBreaker(retry_seconds=1.0, probe_seconds=60.0)
    since = time.monotonic() - 2.0
    breaker.record_answer()
    assert not breaker.record_failure(since, AWAY)
