"""A store whose calls are counted in the metrics, by operation."""

from collections.abc import AsyncIterator
from pathlib import Path

from typing_extensions import override

from servicekit.blobs.port import Blobs, Listed
from servicekit.metrics import BLOBS_CALLS


class CountedBlobs(Blobs):
    """Passes each call on; a listing counts once, however long it is."""

    def __init__(self, blobs: Blobs) -> None:
        self.blobs = blobs

    @override
    async def get(self, key: str) -> bytes:
        BLOBS_CALLS.labels("get").inc()
        return await self.blobs.get(key)

    @override
    async def put(self, key: str, data: bytes) -> None:
        BLOBS_CALLS.labels("put").inc()
        await self.blobs.put(key, data)

    @override
    async def put_if_absent(self, key: str, data: bytes) -> bool:
        BLOBS_CALLS.labels("put_if_absent").inc()
        return await self.blobs.put_if_absent(key, data)

    @override
    async def delete(self, key: str) -> None:
        BLOBS_CALLS.labels("delete").inc()
        await self.blobs.delete(key)

    @override
    async def exists(self, key: str) -> bool:
        BLOBS_CALLS.labels("exists").inc()
        return await self.blobs.exists(key)

    @override
    def list(self, prefix: str, after: str = "") -> AsyncIterator[Listed]:
        BLOBS_CALLS.labels("list").inc()
        return self.blobs.list(prefix, after)

    @override
    def children(self, prefix: str) -> AsyncIterator[str]:
        BLOBS_CALLS.labels("list").inc()
        return self.blobs.children(prefix)

    @override
    async def upload(self, key: str, path: Path) -> None:
        BLOBS_CALLS.labels("upload").inc()
        await self.blobs.upload(key, path)

    @override
    async def download(self, key: str, path: Path) -> None:
        BLOBS_CALLS.labels("download").inc()
        await self.blobs.download(key, path)

    @override
    def read(self, key: str) -> AsyncIterator[bytes]:
        BLOBS_CALLS.labels("read").inc()
        return self.blobs.read(key)

    @override
    async def check(self) -> None:
        BLOBS_CALLS.labels("check").inc()
        await self.blobs.check()
