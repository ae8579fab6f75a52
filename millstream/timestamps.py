"""Seconds since 1970 ↔ Timestamp: the one place for it."""

from google.protobuf.timestamp_pb2 import Timestamp


def timestamp(seconds: float) -> Timestamp:
    """Seconds since 1970 as a Timestamp."""
    time = Timestamp()
    time.FromNanoseconds(int(seconds * 1e9))
    return time
