"""The object store in memory, for tests."""

import asyncio
import time
from bisect import bisect_right, insort
from collections.abc import AsyncIterator
from pathlib import Path

from typing_extensions import override

from millstream.errors import InvalidArgument, NotFound
from servicekit.blobs.port import CHUNK, Blobs, Listed, check_folder, check_key


class MemoryBlobs(Blobs):
    """Objects in a dict, for tests in one event loop."""

    def __init__(self) -> None:
        self._objects: dict[str, tuple[bytes, float]] = {}
        self._keys: list[str] = []

    @override
    async def get(self, key: str) -> bytes:
        await asyncio.sleep(0)
        if check_key(key) not in self._objects:
            raise NotFound(f"no object {key}", key=key)
        return self._objects[key][0]

    @override
    async def put(self, key: str, data: bytes) -> None:
        await asyncio.sleep(0)
        if check_key(key) not in self._objects:
            self._insert(key)
        self._objects[key] = (bytes(data), time.time())

    @override
    async def put_if_absent(self, key: str, data: bytes) -> bool:
        await asyncio.sleep(0)
        if check_key(key) in self._objects:
            return False
        self._insert(key)
        self._objects[key] = (bytes(data), time.time())
        return True

    def _insert(self, key: str) -> None:
        below = bisect_right(self._keys, f"{key}/")
        if below < len(self._keys) and self._keys[below].startswith(f"{key}/"):
            raise InvalidArgument(f"{key!r} is the folder of other keys", field="key")
        parts = key.split("/")
        for above in ("/".join(parts[:depth]) for depth in range(1, len(parts))):
            if above in self._objects:
                raise InvalidArgument(f"a key cannot be below the object {above!r}", field="key")
        insort(self._keys, key)

    @override
    async def delete(self, key: str) -> None:
        await asyncio.sleep(0)
        if self._objects.pop(check_key(key), None):
            self._keys.remove(key)

    @override
    async def exists(self, key: str) -> bool:
        await asyncio.sleep(0)
        return check_key(key) in self._objects

    @override
    async def list(self, prefix: str, after: str = "") -> AsyncIterator[Listed]:
        await asyncio.sleep(0)
        keys = self._keys[bisect_right(self._keys, after) :] if after else list(self._keys)
        for key in keys:
            if key.startswith(prefix) and key in self._objects:
                data, modified = self._objects[key]
                yield Listed(key, len(data), modified)

    @override
    async def children(self, prefix: str) -> AsyncIterator[str]:
        last = ""
        async for listed in self.list(check_folder(prefix)):
            name = listed.key[len(prefix) :].partition("/")[0]
            if name != last:
                last = name
                yield name

    @override
    async def upload(self, key: str, path: Path) -> None:
        await self.put(key, path.read_bytes())

    @override
    async def download(self, key: str, path: Path) -> None:
        beside = path.with_name(f".{path.name}.part")
        beside.write_bytes(await self.get(key))
        beside.replace(path)

    @override
    async def read(self, key: str) -> AsyncIterator[bytes]:
        data = await self.get(key)
        for start in range(0, len(data), CHUNK):
            yield data[start : start + CHUNK]

    @override
    async def check(self) -> None:
        await asyncio.sleep(0)
