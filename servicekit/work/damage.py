"""The damaged stored objects that the work of a service has met: in its log, and in its status until they are restored."""

import logging
from collections.abc import AsyncIterator
from typing import TypeVar

from millstream.errors import DataLoss
from servicekit.work.keys import Key

log = logging.getLogger(__name__)
K = TypeVar("K", bound=Key)
MOST_SHOWN = 100


class Damage:
    """A text for each damaged object, from the last resync of each kind of work and the last try of each key."""

    def __init__(self) -> None:
        self._listed: dict[str, set[str]] = {}
        self._tried: dict[Key, str] = {}

    async def without(self, kind: str, found: AsyncIterator[K | DataLoss]) -> AsyncIterator[K]:
        """The keys that a resync finds. Each damaged object that it meets is logged once."""
        damaged = set[str]()
        async for one in found:
            if not isinstance(one, DataLoss):
                yield one
            elif one.text not in damaged:
                damaged.add(one.text)
                log.error("stored object damaged", extra={"kind": kind, "error": one.text})
        self._listed[kind] = damaged

    def tried(self, key: Key, error: BaseException | None = None) -> None:
        """How a try ended: None, well. A damaged object that the try before did not meet is logged."""
        before = self._tried.pop(key, "")
        if isinstance(error, DataLoss):
            self._tried[key] = error.text
            if error.text != before:
                log.error("stored object damaged", extra={"error": error.text})

    def texts(self) -> list[str]:
        """What is damaged, sorted, at most MOST_SHOWN."""
        return sorted({*self._tried.values()}.union(*self._listed.values()))[:MOST_SHOWN]
