"""A store in memory that counts its calls."""

from collections import Counter
from collections.abc import AsyncIterator

from typing_extensions import override

from servicekit.blobs.memory import MemoryBlobs
from servicekit.blobs.port import Listed


class CountingBlobs(MemoryBlobs):
    """`calls`: by operation and first segment of the key, such as `get models`."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def _count(self, operation: str, key: str) -> None:
        self.calls[f"{operation} {key.partition('/')[0]}"] += 1

    @override
    async def get(self, key: str) -> bytes:
        self._count("get", key)
        return await super().get(key)

    @override
    async def exists(self, key: str) -> bool:
        self._count("exists", key)
        return await super().exists(key)

    @override
    async def put(self, key: str, data: bytes) -> None:
        self._count("put", key)
        await super().put(key, data)

    @override
    async def put_if_absent(self, key: str, data: bytes) -> bool:
        self._count("put_if_absent", key)
        return await super().put_if_absent(key, data)

    @override
    async def delete(self, key: str) -> None:
        self._count("delete", key)
        await super().delete(key)

    @override
    async def list(self, prefix: str, after: str = "") -> AsyncIterator[Listed]:
        self._count("list", prefix)
        async for listed in super().list(prefix, after):
            yield listed
