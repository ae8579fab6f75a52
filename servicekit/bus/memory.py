"""The bus in memory, for tests."""

import asyncio
from collections.abc import Sequence

from typing_extensions import override

from millstream.errors import Unavailable
from servicekit.bus.port import Bus, Message, Received, Subscription, check_message, check_names


class MemoryBus(Bus):
    """A log in a list, with one partition for each topic, in one event loop."""

    def __init__(self) -> None:
        self.log: list[Received] = []
        self.committed: dict[tuple[str, str], int] = {}
        self.owners: dict[tuple[str, str], list[object]] = {}
        self.changed = asyncio.Condition()

    @override
    async def publish(self, message: Message) -> None:
        check_message(message)
        offset = sum(1 for old in self.log if old.topic == message.topic)
        self.log.append(Received(message.topic, message.key, message.value, dict(message.headers), 0, offset))
        async with self.changed:
            self.changed.notify_all()

    @override
    def subscribe(self, group: str, topics: Sequence[str]) -> Subscription:
        check_names(group, *topics)
        return _MemorySubscription(self, group, topics)

    @override
    def tail(self, topics: Sequence[str], from_start: bool = False) -> Subscription:
        check_names(*topics)
        return _MemorySubscription(self, None, topics, from_start)

    @override
    async def check(self) -> None:
        await asyncio.sleep(0)

    @override
    async def close(self) -> None:
        await asyncio.sleep(0)


class _MemorySubscription(Subscription):
    """The member that joined a topic first owns it; when it leaves, the next takes over."""

    def __init__(self, bus: MemoryBus, group: str | None, topics: Sequence[str], from_start: bool = False) -> None:
        self.bus, self.group, self.topics, self.from_start = bus, group, tuple(topics), from_start
        self.position: dict[str, int] = {}
        self.started = self.closed = False

    @override
    async def start(self) -> None:
        if self.started or self.closed:
            return
        self.started = True
        for topic in self.topics:
            if self.group:
                self.bus.owners.setdefault((self.group, topic), []).append(self)
            elif not self.from_start:
                self.position[topic] = sum(1 for message in self.bus.log if message.topic == topic)
        await asyncio.sleep(0)

    def _owns(self, topic: str) -> bool:
        return not self.group or self.bus.owners.get((self.group, topic), [None])[0] is self

    def _pending(self) -> list[Received]:
        found = []
        for message in self.bus.log:
            if message.topic in self.topics and self._owns(message.topic):
                start = self.bus.committed.get((self.group, message.topic), 0) if self.group else 0
                if message.offset >= self.position.get(message.topic, start):
                    found.append(message)
        return found

    @override
    async def batch(self) -> Sequence[Received]:
        await self.start()
        async with self.bus.changed:
            await self.bus.changed.wait_for(lambda: self.closed or self._pending())
        if self.closed:
            raise Unavailable("this subscription is closed: the process is stopping")
        found = self._pending()
        for message in found:
            self.position[message.topic] = message.offset + 1
        return found

    @override
    async def commit(self) -> None:
        await asyncio.sleep(0)
        if self.group:
            for topic, position in self.position.items():
                if self._owns(topic):
                    self.bus.committed[(self.group, topic)] = position

    @override
    async def lag(self) -> int:
        await asyncio.sleep(0)
        return len(self._pending())

    @override
    async def close(self) -> None:
        self.closed = True
        for topic in self.topics:
            members = self.bus.owners.get((self.group or "", topic), [])
            if self in members:
                members.remove(self)
        async with self.bus.changed:
            self.bus.changed.notify_all()
