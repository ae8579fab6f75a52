"""Conversion between float seconds and protobuf's Timestamp (seconds since 1970, UTC) and Duration."""

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp


def now() -> Timestamp:
    """The present time by this machine's wall clock."""
    time = Timestamp()
    time.GetCurrentTime()
    return time


def timestamp(seconds: float) -> Timestamp:
    """Seconds since 1970 as a Timestamp; a float is exact to about a microsecond."""
    return timestamp_of_ns(_nanoseconds(seconds))


def timestamp_of_ns(nanoseconds: int) -> Timestamp:
    """Nanoseconds since 1970 as a Timestamp."""
    time = Timestamp()
    time.FromNanoseconds(nanoseconds)
    return time


def duration(seconds: float) -> Duration:
    """Seconds as a Duration."""
    made = Duration()
    made.FromNanoseconds(_nanoseconds(seconds))
    return made


def seconds_of(time: Timestamp | Duration) -> float:
    """A Timestamp as seconds since 1970, a Duration as seconds. An unset message is 0."""
    return time.ToNanoseconds() / 10**9  # by an int: Python rounds the quotient once


def _nanoseconds(seconds: float) -> int:
    """Exact for the whole seconds: `seconds * 1e9` would lose up to 128 ns in a date of today."""
    whole, fraction = divmod(seconds, 1.0)
    return int(whole) * 10**9 + round(fraction * 1e9)
