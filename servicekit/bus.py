"""The bus port: messages on topics, read by groups that remember how far they came, or tailed by anybody.

Delivery is at least once and in order per key. Three adapters pass one contract suite: memory (here), a SQLite log
(servicekit/sqlite.py) and Kafka (servicekit/kafka.py). servicekit/adapters.py opens them by address.
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from millstream.errors import InvalidArgument, Unavailable

MAX_VALUE = 1_000_000  # what Kafka takes without being told to take more, less room for key and headers
_NAME = re.compile(r"(?!\.\.?$)[A-Za-z0-9._-]{1,249}")


@dataclass(frozen=True)
class Message:
    topic: str
    key: str
    value: bytes
    headers: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Received(Message):
    """A message and its place: offsets grow within one partition of one topic."""

    partition: int = 0
    offset: int = 0


class Subscription(Protocol):
    """One member of a group, or a tail. Used by one task at a time."""

    async def start(self) -> None:
        """Return once the position is fixed: what is published after this returns will be seen."""
        ...

    async def batch(self) -> Sequence[Received]:
        """Wait for messages and return at least one. Starts first if start() was not called."""
        ...

    async def commit(self) -> None:
        """Remember, for the group, all that batch() has returned. A tail has nothing to remember."""
        ...

    async def lag(self) -> int:
        """Messages published and not yet returned by batch(), as far as this member knows."""
        ...

    async def close(self) -> None:
        """Leave the group at once, so that another member takes over without waiting; batch() is Unavailable then."""
        ...


class Bus(Protocol):
    async def publish(self, message: Message) -> None:
        """Return once the message is kept. Raises Unavailable."""
        ...

    def subscribe(self, group: str, topics: Sequence[str]) -> Subscription:
        """Join a group: each message reaches one member, from the oldest not committed (first: from the start)."""
        ...

    def tail(self, topics: Sequence[str], from_start: bool = False) -> Subscription:
        """Every message from now on (or from the oldest kept), without a group."""
        ...

    async def check(self) -> None:
        """Raise Unavailable, naming what to mend, unless messages can be published now."""
        ...

    async def close(self) -> None: ...


def check_names(*names: str) -> None:
    """Raise InvalidArgument for a topic or group that some adapter could not have; the rules are Kafka's."""
    for name in names:
        if not _NAME.fullmatch(name):
            raise InvalidArgument(f"{name!r} is no topic or group: use 1-249 of A-Z a-z 0-9 . _ -", field="topic")


def check_message(message: Message) -> None:
    """Raise InvalidArgument for a message that some adapter could not carry."""
    check_names(message.topic)
    if len(message.value) > MAX_VALUE:
        text = (
            f"a value of {len(message.value)} bytes: a message carries at most {MAX_VALUE}; store the rest as an object"
        )
        raise InvalidArgument(text, field="value")
    try:
        "".join((message.key, *message.headers)).encode()
    except UnicodeEncodeError:
        raise InvalidArgument("key and names of headers must be valid Unicode, without lone surrogates") from None


class MemoryBus:
    """A log in a list, one partition a topic, for tests in one event loop."""

    def __init__(self) -> None:
        self.log: list[Received] = []
        self.committed: dict[tuple[str, str], int] = {}
        self.owners: dict[tuple[str, str], list[object]] = {}
        self.changed = asyncio.Condition()

    async def publish(self, message: Message) -> None:
        check_message(message)
        offset = sum(1 for old in self.log if old.topic == message.topic)
        self.log.append(Received(message.topic, message.key, message.value, dict(message.headers), 0, offset))
        async with self.changed:
            self.changed.notify_all()

    def subscribe(self, group: str, topics: Sequence[str]) -> Subscription:
        check_names(group, *topics)
        return _MemorySubscription(self, group, topics)

    def tail(self, topics: Sequence[str], from_start: bool = False) -> Subscription:
        check_names(*topics)
        return _MemorySubscription(self, None, topics, from_start)

    async def check(self) -> None:
        await asyncio.sleep(0)

    async def close(self) -> None:
        await asyncio.sleep(0)


class _MemorySubscription:
    """The member that joined a topic first reads it; when it leaves the next one takes over."""

    def __init__(self, bus: MemoryBus, group: str | None, topics: Sequence[str], from_start: bool = False) -> None:
        self.bus, self.group, self.topics, self.from_start = bus, group, tuple(topics), from_start
        self.position: dict[str, int] = {}
        self.started = self.closed = False

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

    def _owned(self, topic: str) -> bool:
        return not self.group or self.bus.owners.get((self.group, topic), [None])[0] is self

    def _pending(self) -> list[Received]:
        found = []
        for message in self.bus.log:
            if message.topic in self.topics and self._owned(message.topic):
                start = self.bus.committed.get((self.group, message.topic), 0) if self.group else 0
                if message.offset >= self.position.get(message.topic, start):
                    found.append(message)
        return found

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

    async def commit(self) -> None:
        await asyncio.sleep(0)
        if self.group:
            for topic, position in self.position.items():
                if self._owned(topic):
                    self.bus.committed[(self.group, topic)] = position

    async def lag(self) -> int:
        await asyncio.sleep(0)
        return len(self._pending())

    async def close(self) -> None:
        self.closed = True
        for topic in self.topics:
            members = self.bus.owners.get((self.group or "", topic), [])
            if self in members:
                members.remove(self)
        async with self.bus.changed:
            self.bus.changed.notify_all()
