"""Exponential backoff with jitter."""

import random

FIRST_SECONDS, LONGEST_SECONDS = 0.05, 5.0


def backoff(failures: int, first: float = FIRST_SECONDS, longest: float = LONGEST_SECONDS) -> float:
    """Seconds to wait after this many failures in a row; the jitter keeps replicas from retrying in step."""
    return min(longest, first * 2.0 ** min(failures - 1, 20)) * random.uniform(0.5, 1.0)
