"""Whose turn it is: imports of one dataset end in order, and an import that may be deadly runs alone."""

from collections.abc import Hashable, Iterator
from contextlib import contextmanager

TURN_SECONDS = 0.1
"""Seconds until an import that waits for a suspect asks again."""


class Turns:
    """The imports of this process that run side by side.

    All that were at work when a process died are suspects, and one of them killed it. A suspect runs alone, so the next
    death is counted against the right one.
    """

    def __init__(self) -> None:
        self._taken: set[Hashable] = set()
        self._alone: Hashable = None
        """The suspect that runs alone, or waits for that; None: there is none."""

    def take(self, key: Hashable, *, suspect: bool) -> bool:
        """Whether the import may begin now. A suspect that may not is the next to begin."""
        if self._alone not in (None, key):
            return False
        self._alone = key if suspect else None
        return not (suspect and self._taken)

    @contextmanager
    def taken(self, key: Hashable) -> Iterator[None]:
        """The import runs."""
        self._taken.add(key)
        try:
            yield
        finally:
            self._taken.discard(key)

    def leave(self, key: Hashable) -> None:
        """The import waits for no turn, and needs to be alone no longer."""
        if self._alone == key:
            self._alone = None
