"""The circuit breaker that all requests to one store share."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy

from millstream.errors import Unavailable


class CircuitBreaker:
    """Closed for `retry_seconds` from the first failure on, so that every caller retries; then half-open: one caller probes.

    While half-open each caller tries once. Those that come while a probe waits for its answer (`probe_seconds` at most)
    fail at once with a copy of the last error. Any answer of the store closes it. Threads may share it.
    """

    def __init__(self, retry_seconds: float, probe_seconds: float) -> None:
        self.retry_seconds, self.probe_seconds = retry_seconds, probe_seconds
        self._lock = threading.Lock()
        self.failing_since: float | None = None
        """On the monotonic clock; None: the last request was answered."""
        self._error = Unavailable("")
        self._in_flight, self._newest_start = 0, 0.0

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Surrounds each request. Raises Unavailable, without a request, while another caller probes."""
        now = time.monotonic()
        with self._lock:
            probing = self._in_flight and now - self._newest_start < self.probe_seconds
            half_open = self.failing_since is not None and now - self.failing_since > self.retry_seconds
            if probing and half_open:
                raise copy(self._error)
            self._in_flight, self._newest_start = self._in_flight + 1, now
        try:
            yield
        finally:
            with self._lock:
                self._in_flight -= 1

    def record_answer(self) -> None:
        """Close: the store answered, if only to refuse."""
        self.failing_since = None

    def record_failure(self, since: float, error: Unavailable) -> bool:
        """Record that a call has been failing since that time, most recently by this error; True: retry it."""
        with self._lock:
            self._error = error
            self.failing_since = since if self.failing_since is None else self.failing_since
            return time.monotonic() - min(since, self.failing_since) <= self.retry_seconds
