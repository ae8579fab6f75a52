"""One outage, seen by many callers: they wait it out together, and once that was long enough one at a time still asks."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy

from millstream.errors import Unavailable


class CircuitBreaker:
    """When it began is told by the first failure since the last answer.

    For `patience` seconds from then on every caller goes on trying. Afterwards each tries once; and while one of them waits
    for an answer (`answer` seconds at most), the others are refused at once, in the words of the last failure.
    """

    def __init__(self, patience: float, answer: float) -> None:
        self.patience, self.answer = patience, answer
        self._lock = threading.Lock()
        self.began: float | None = None
        """On the monotonic clock; None: there is no outage."""
        self._error = Unavailable("")
        self._asking, self._asked = 0, 0.0

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Around each try. Raises Unavailable where it is not worth one."""
        now = time.monotonic()
        with self._lock:
            waited_for = self._asking and now - self._asked < self.answer
            if waited_for and self.began is not None and now - self.began > self.patience:
                raise copy(self._error)
            self._asking, self._asked = self._asking + 1, now
        try:
            yield
        finally:
            with self._lock:
                self._asking -= 1

    def over(self) -> None:
        """There was an answer."""
        self.began = None

    def is_worth_waiting(self, since: float, error: Unavailable) -> bool:
        """Note that a call has been failing since then, lastly by this error; the answer is whether to try it again."""
        with self._lock:
            self._error = error
            self.began = since if self.began is None else self.began
            return time.monotonic() - min(since, self.began) <= self.patience
