"""Seconds, Timestamp and Duration."""

import time

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from millstream.timestamps import duration, now, seconds_of, timestamp, timestamp_of_ns


@pytest.mark.parametrize("seconds", [0.0, 0.5, 1_790_000_000.25, -1.5])
def test_seconds_survive_both_ways(seconds: float) -> None:
    assert seconds_of(timestamp(seconds)) == seconds
    assert seconds_of(duration(seconds)) == seconds


def test_nanoseconds_are_exact() -> None:
    assert timestamp_of_ns(1_790_000_000_123_456_789) == Timestamp(seconds=1_790_000_000, nanos=123_456_789)


def test_an_unset_message_is_zero() -> None:
    assert seconds_of(Timestamp()) == seconds_of(Duration()) == 0


def test_now_is_the_wall_clock() -> None:
    before = time.time_ns()
    assert before <= now().ToNanoseconds() <= time.time_ns()
