"""Versions that this replica could not load for troubles of its own: why, and when it tries again.

Held in memory alone, so a restart tries at once, and no other replica is concerned.
"""

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from servicekit.backoff import doubled

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 30.0, 3600.0


@dataclass(frozen=True)
class LoadFailure:
    """The last try, how often the version was lifted before it, and the clock's time of the next."""

    reason: str
    tries: int
    lifts: int
    next_try: float


class LoadFailures:
    """By model and version."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: dict[tuple[str, int], LoadFailure] = {}

    def add(self, model: str, version: int, reason: str, lifts: int) -> None:
        """Note a failed try. The pause before the next doubles with each, up to an hour."""
        before = self._failures.get((model, version))
        tries = before.tries + 1 if before and before.lifts == lifts else 1
        pause = doubled(tries, FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
        self._failures[model, version] = LoadFailure(reason, tries, lifts, self._clock() + pause)

    def get(self, model: str, version: int) -> LoadFailure | None:
        """The last failure of a version, None if it has none."""
        return self._failures.get((model, version))

    def is_due(self, failure: LoadFailure, lifts: int) -> bool:
        """Whether the version is to be tried now: the pause is over, or it was lifted since."""
        return lifts > failure.lifts or failure.next_try <= self._clock()

    def keep_only(self, model: str, versions: Collection[int]) -> None:
        """Forget a model's other versions: they were loaded, or no alias needs them any more."""
        for key in [key for key in self._failures if key[0] == model and key[1] not in versions]:
            del self._failures[key]

    def pause(self, model: str) -> float | None:
        """Seconds until the next try of one of a model's versions; None: none has failed."""
        dues = [failure.next_try for key, failure in self._failures.items() if key[0] == model]
        return max(0.0, min(dues) - self._clock()) if dues else None
