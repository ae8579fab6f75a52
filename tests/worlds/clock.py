"""Clocks that a test moves by hand: the monotonic one, and that of a store."""

from typing_extensions import override

from servicekit.blobs.memory import MemoryBlobs


class Clock:
    """Stands in for the module `time`, of which it has monotonic() and sleep()."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class ClockedBlobs(MemoryBlobs):
    """A store whose own clock is `ahead` by so many seconds, for what is put from then on."""

    ahead = 0.0

    @override
    async def put(self, key: str, data: bytes) -> None:
        await super().put(key, data)
        value, modified = self._objects[key]
        self._objects[key] = (value, modified + self.ahead)
