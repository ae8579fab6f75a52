"""A store whose listing shows keys that were never stored, as one does after a writer died during a put (see Blobs.list)."""

from collections.abc import AsyncIterator

from typing_extensions import override

from servicekit.blobs.memory import MemoryBlobs
from servicekit.blobs.port import Listed


class PhantomBlobs(MemoryBlobs):
    """Lists these keys beside what is stored."""

    def __init__(self, *keys: str) -> None:
        super().__init__()
        self.keys = keys

    @override
    async def list(self, prefix: str, after: str = "") -> AsyncIterator[Listed]:
        stored = [listed async for listed in super().list(prefix, after)]
        known = {listed.key for listed in stored}
        vain = [Listed(key, 0, 0.0) for key in self.keys if key not in known and key.startswith(prefix) and key > after]
        for listed in sorted([*stored, *vain], key=lambda one: one.key):
            yield listed
