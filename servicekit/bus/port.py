"""The bus port: messages on topics, read by groups that remember their position, or tailed without a group.

Delivery is at least once and in order per key. Three adapters pass one contract suite (tests/suites/bus.py): memory, sqlite
and kafka. servicekit/runtime/backends.py opens them by address.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from millstream.errors import InvalidArgument

MAX_VALUE = 1_000_000  # bytes: Kafka's default limit, less room for key and headers
_NAME = re.compile(r"(?!\.\.?$)[A-Za-z0-9._-]{1,249}")


@dataclass(frozen=True)
class Message:
    """What is published. Messages with equal keys stay in order. Headers are bytes by name."""

    topic: str
    key: str
    value: bytes
    headers: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Received(Message):
    """A message and its position: offsets grow within one partition of one topic."""

    partition: int = 0
    offset: int = 0


class Subscription(Protocol):
    """One member of a group, or a tail. Used by one task at a time."""

    async def start(self) -> None:
        """Return once the position is fixed: everything published later is delivered. Raises Unavailable."""
        ...

    async def batch(self) -> Sequence[Received]:
        """Wait for messages and return at least one; calls start() first if that was not done. Raises Unavailable."""
        ...

    async def commit(self) -> None:
        """Store, for the group, the position after everything that batch() returned. A no-op for a tail."""
        ...

    async def lag(self) -> int:
        """Messages published and not yet returned by batch(), as far as this member has read."""
        ...

    async def close(self) -> None:
        """Leave the group at once, so that another member takes over; batch() raises Unavailable from then on."""
        ...


class Bus(Protocol):
    """A log of messages by topic, shared by processes. Used by one event loop."""

    async def publish(self, message: Message) -> None:
        """Return once the message is durable. A publish that raises Unavailable may still have happened."""
        ...

    def subscribe(self, group: str, topics: Sequence[str]) -> Subscription:
        """A member of a group: each message reaches one member, from the oldest uncommitted on. A new group reads all."""
        ...

    def tail(self, topics: Sequence[str], from_start: bool = False) -> Subscription:
        """Every message from start() on (or from the oldest kept), without a group."""
        ...

    async def check(self) -> None:
        """Raise Unavailable, with what to do, unless messages can be published now."""
        ...

    async def close(self) -> None:
        """Close all subscriptions and connections; every later call raises Unavailable."""
        ...


def check_names(*names: str) -> None:
    """Raise InvalidArgument for a topic or group that some adapter could not have; the rules are those of Kafka."""
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
