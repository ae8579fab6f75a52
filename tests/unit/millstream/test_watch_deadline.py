"""When a watch gives up."""

import pytest

from millstream.client import shared
from millstream.client.shared import WatchDeadline
from millstream.errors import Unavailable


class Clock:
    """A monotonic clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


def test_a_stream_that_was_quiet_for_an_hour_is_opened_again(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, broken = Clock(), Unavailable("the connection was too old")
    monkeypatch.setattr(shared, "time", clock)
    deadline = WatchDeadline(None, "it has not ended", started=clock.now)
    deadline.answered()
    clock.now += 3600
    assert deadline.backoff(broken) > 0
    clock.now += 29
    assert deadline.backoff(broken) > 0
    clock.now += 2
    with pytest.raises(Unavailable, match="too old"):
        deadline.backoff(broken)
    for answer in (deadline.answered, deadline.backoff):
        answer()
        assert deadline.backoff(broken) > 0, "an answer ends the silence"
        clock.now += 31
        with pytest.raises(Unavailable, match="too old"):
            deadline.backoff(broken)
