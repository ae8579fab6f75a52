"""A monotonic clock that a test moves by hand."""


class Clock:
    """Stands in for the module `time`, of which it has monotonic() and sleep()."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
