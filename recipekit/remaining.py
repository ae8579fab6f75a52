"""How long a training still takes, from the steps that it has done and when."""

from collections import deque

WINDOW_SECONDS = 300.0
"""The rate is of the latest half of the training, and of at least so much: it then holds whole evaluations."""
REPORTS = 1000
"""That are kept of the window, however long the training is."""


class RemainingTime:
    """Estimates from a moving window of reports, with the evaluations and checkpoints between them.

    The time before the first report counts for nothing: an attempt starts up, and its first step warms up.
    """

    def __init__(self) -> None:
        self._reports: deque[tuple[float, int]] = deque()
        self._began = 0.0
        self._latest = (0.0, 0)

    def add(self, now: float, step: int) -> None:
        """Take note of a report after this step, at a time of a clock in seconds that never goes back."""
        if not self._reports:
            self._began = now
        window = max(WINDOW_SECONDS, (now - self._began) / 2)
        self._latest = (now, step)
        if not self._reports or now - self._reports[-1][0] >= window / REPORTS:
            self._reports.append(self._latest)
        start = now - window
        while len(self._reports) > 2 and self._reports[1][0] <= start:
            self._reports.popleft()

    def seconds(self, total_steps: int) -> float | None:
        """From the last report to this step; None: no step was done since the first report."""
        if not self._reports:
            return None
        (began, first), (last, step) = self._reports[0], self._latest
        if step <= first:
            return None
        return (last - began) / (step - first) * max(0, total_steps - step)
