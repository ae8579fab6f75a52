"""The names of objects under a prefix that are really stored.

A listing may show a key that was never stored, and go on showing it (Blobs.list). Whoever draws a conclusion from names,
such as "this has ended", asks here.
"""

from servicekit.blobs.port import Blobs
from servicekit.concurrency import in_order


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
        stored = [exists async for exists in in_order(self._exists, new)]
        self._found |= {name for name, exists in zip(new, stored, strict=True) if exists}
        return [name for name in names if name in self._found]

    async def _exists(self, name: str) -> bool:
        return await self.blobs.exists(self.prefix + name)
