"""A store and a bus in memory that can be down."""

from collections.abc import AsyncIterator

from millstream.errors import Unavailable
from servicekit.blobs.memory import MemoryBlobs
from servicekit.blobs.port import Listed
from servicekit.bus.memory import MemoryBus
from servicekit.bus.port import Message


class Blobs(MemoryBlobs):
    down = False
    asked_in_vain = 0

    async def get(self, key: str) -> bytes:
        self._check()
        return await super().get(key)

    async def put(self, key: str, data: bytes) -> None:
        self._check()
        await super().put(key, data)

    async def list(self, prefix: str, after: str = "") -> AsyncIterator[Listed]:
        self._check()
        async for listed in super().list(prefix, after):
            yield listed

    def _check(self) -> None:
        if self.down:
            self.asked_in_vain += 1
            raise Unavailable("the store is down")


class Bus(MemoryBus):
    down = False

    async def publish(self, message: Message) -> None:
        if self.down:
            raise Unavailable("the bus is down")
        await super().publish(message)
