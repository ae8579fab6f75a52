"""The names of objects under a prefix that are really stored.

A listing may show a key that was never stored, and go on showing it (Blobs.list). Whoever draws a conclusion from names,
such as "this has ended", asks here.
"""

import asyncio

from servicekit.blobs.port import Blobs

AT_ONCE = 16
"""Look-ups in flight."""


class StoredNames:
    """The names below one prefix, of objects that are written once and never deleted: so each is looked up only once."""

    def __init__(self, blobs: Blobs, prefix: str) -> None:
        """`prefix` ends with a slash; a name is the rest of the key."""
        self.blobs, self.prefix = blobs, prefix
        self._found: set[str] = set()

    async def all(self) -> list[str]:
        """Every stored name, sorted. Raises Unavailable."""
        names = [listed.key.removeprefix(self.prefix) async for listed in self.blobs.list(self.prefix)]
        new = [name for name in names if name not in self._found]
        for start in range(0, len(new), AT_ONCE):
            await asyncio.gather(*(self._look_up(name) for name in new[start : start + AT_ONCE]))
        return [name for name in names if name in self._found]

    async def _look_up(self, name: str) -> None:
        if await self.blobs.exists(self.prefix + name):
            self._found.add(name)
