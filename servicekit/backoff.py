"""Exponential backoff with jitter."""

import random

FIRST_SECONDS, LONGEST_SECONDS = 0.05, 5.0


def backoff(failures: int) -> float:
    """Seconds to wait after this many failures in a row; the jitter keeps replicas from retrying in step."""
    return growing(failures, FIRST_SECONDS, LONGEST_SECONDS)


def growing(failures: int, first: float, longest: float) -> float:
    """The same, for what must be retried more slowly: about `first` seconds, doubled by each failure up to `longest`."""
    return doubled(failures, first, longest) * random.uniform(0.5, 1.0)


def doubled(failures: int, first: float, longest: float) -> float:
    """Without jitter: `first` after one failure, doubled by each further one up to `longest`."""
    return min(longest, first * 2.0 ** min(failures - 1, 20))
