"""Buses with injected faults (TEST_BUS), to test that work still converges."""

import asyncio
from collections.abc import Callable, Mapping, Sequence

from typing_extensions import override

from millstream.errors import InvalidArgument
from servicekit.bus.port import Bus, Message, Received, Subscription


class _FaultyBus(Bus):
    """Publishes on another bus; a mode says what it delivers."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    @override
    async def publish(self, message: Message) -> None:
        await self._bus.publish(message)

    @override
    async def check(self) -> None:
        await self._bus.check()

    @override
    async def close(self) -> None:
        await self._bus.close()


class DroppingBus(_FaultyBus):
    """Accepts every message and delivers none: only the resync finds work."""

    @override
    def subscribe(self, group: str, topics: Sequence[str]) -> Subscription:
        return _Silent()

    @override
    def tail(self, topics: Sequence[str], from_start: bool = False) -> Subscription:
        return _Silent()


class DuplicatingBus(_FaultyBus):
    """Delivers each batch three times in reverse order: duplicates and reordering, as after a rebalance."""

    @override
    def subscribe(self, group: str, topics: Sequence[str]) -> Subscription:
        return _Duplicating(self._bus.subscribe(group, topics))

    @override
    def tail(self, topics: Sequence[str], from_start: bool = False) -> Subscription:
        return _Duplicating(self._bus.tail(topics, from_start))


MODES: Mapping[str, Callable[[Bus], Bus]] = {"dropping": DroppingBus, "duplicating": DuplicatingBus}


def faulty(bus: Bus, mode: str) -> Bus:
    """The bus with faults of that mode. Raises InvalidArgument for one that is not in MODES."""
    if mode not in MODES:
        raise InvalidArgument(f"TEST_BUS={mode!r} is no fault mode: use {' or '.join(MODES)}", field="TEST_BUS")
    return MODES[mode](bus)


class _Silent(Subscription):
    @override
    async def start(self) -> None:
        await asyncio.sleep(0)

    @override
    async def batch(self) -> Sequence[Received]:
        await asyncio.Event().wait()
        return ()

    @override
    async def commit(self) -> None:
        await asyncio.sleep(0)

    @override
    async def lag(self) -> int:
        return 0

    @override
    async def close(self) -> None:
        await asyncio.sleep(0)


class _Duplicating(Subscription):
    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription

    @override
    async def start(self) -> None:
        await self._subscription.start()

    @override
    async def batch(self) -> Sequence[Received]:
        return list(await self._subscription.batch())[::-1] * 3

    @override
    async def commit(self) -> None:
        await self._subscription.commit()

    @override
    async def lag(self) -> int:
        return await self._subscription.lag()

    @override
    async def close(self) -> None:
        await self._subscription.close()
