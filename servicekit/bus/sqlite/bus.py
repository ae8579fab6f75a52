"""The bus in one SQLite file, shared by all processes of a host, in place of Kafka on a laptop and in tests.

One thread per bus works on the file, never the event loop; a second one watches it (watch.py). Delivery is at least
once: what a subscription returned and did not commit goes to the partition's next owner. The file must be on a local
disk, since WAL needs shared memory.
"""

import asyncio
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

from typing_extensions import override

from millstream.errors import Unavailable
from servicekit.bus.port import Bus, Message, Received, Subscription, check_message, check_names
from servicekit.bus.sqlite.log import PARTITIONS, Log, MemberLeases, Place
from servicekit.bus.sqlite.watch import Watch

T = TypeVar("T")

_LOCK_SECONDS = 5.0


class SqliteBus(Bus):
    """A log in the file `path`; the newest `retain` messages of each topic are kept.

    Several objects may use one file, in one process or in many. After a fork the child's bus starts empty: it shares no
    connection, thread or member with the parent's.
    """

    def __init__(self, path: Path, retain: int = 100_000) -> None:
        self.path, self.retain = Path(os.path.abspath(path)), retain
        self._closed = False
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._log = Log(self.path, _LOCK_SECONDS, self.retain)
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="sqlite-bus")
        self._members: set[_Subscription] = set()
        self._lock = threading.Lock()
        self._watch: Watch | None = None
        self._inherited: list[object] = []

    @override
    async def publish(self, message: Message) -> None:
        check_message(message)
        await self.in_thread(lambda log: log.append(message))
        self.notify()

    @override
    def subscribe(self, group: str, topics: Sequence[str]) -> Subscription:
        check_names(group, *topics)
        return GroupMember(self, group, topics)

    @override
    def tail(self, topics: Sequence[str], from_start: bool = False) -> Subscription:
        check_names(*topics)
        return _Tail(self, topics, from_start)

    @override
    async def check(self) -> None:
        await self.in_thread(Log.check)

    @override
    async def close(self) -> None:
        """Close all subscriptions, then end both threads. Every later call raises Unavailable."""
        self._after_fork()
        for member in self.members():
            await member.close()
        if self._closed:
            return
        self._closed = True
        if self._watch:
            self._watch.ended.set()
            await asyncio.to_thread(self._watch.join)
        await asyncio.get_running_loop().run_in_executor(self._executor, self._log.close)
        self._executor.shutdown(wait=False)

    async def in_thread(self, job: Callable[[Log], T]) -> T:
        """Run the job in the thread that owns the file. Raises Unavailable."""
        if self._closed:
            raise Unavailable(f"the bus on {self.path} is closed: this process is stopping", path=str(self.path))
        self._after_fork()
        return await asyncio.get_running_loop().run_in_executor(self._executor, job, self._log)

    def _after_fork(self) -> None:
        """Start empty in a forked child. Closing the parent's connection would break its locks, so it is kept untouched."""
        if self._pid != os.getpid():
            inherited = [self._log, self._executor, self._watch, *self._inherited]
            self._reset()
            self._inherited = inherited

    def add_member(self, member: "_Subscription") -> None:
        """Notify the subscription from now on, and renew its lease."""
        with self._lock:
            self._members.add(member)
            if not (self._watch or self._closed):
                self._watch = Watch(self.path, self.notify, self._leases)
                self._watch.start()

    def remove_member(self, member: "_Subscription") -> None:
        """Undo add_member()."""
        with self._lock:
            self._members.discard(member)

    def members(self) -> Sequence["_Subscription"]:
        """The open subscriptions, as a copy."""
        with self._lock:
            return list(self._members)

    def notify(self) -> None:
        """Have every subscription read on."""
        for member in self.members():
            member.notify()

    def _leases(self) -> MemberLeases:
        return {m.name: (m.group, m.topics) for m in self.members() if isinstance(m, GroupMember)}


class _Subscription(Subscription):
    """What tails and members of groups share: starting, waiting and closing."""

    def __init__(self, bus: SqliteBus, topics: Sequence[str]) -> None:
        self.bus, self.topics = bus, tuple(topics)
        self.started = self.closed = False
        self._changed = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    @override
    async def start(self) -> None:
        if not (self.started or self.closed):
            await self._position()
            self._loop = asyncio.get_running_loop()
            self.bus.add_member(self)
            self.started = True

    @override
    async def batch(self) -> Sequence[Received]:
        await self.start()
        while True:
            self._changed.clear()
            if self.closed:
                raise Unavailable("this subscription is closed: the process is stopping", path=str(self.bus.path))
            if found := await self._next():
                return found
            await self._changed.wait()

    def notify(self) -> None:
        """End the wait of batch(). Any thread may call it."""
        try:
            if self._loop:
                self._loop.call_soon_threadsafe(self._changed.set)
        except RuntimeError:  # the subscriber's loop is closed: its lease may run out
            self.bus.remove_member(self)

    @override
    async def close(self) -> None:
        self.closed = True
        self.bus.remove_member(self)
        self.notify()

    async def _position(self) -> None:
        raise NotImplementedError

    async def _next(self) -> Sequence[Received]:
        raise NotImplementedError


class _Tail(_Subscription):
    """Reads all partitions from one position on."""

    def __init__(self, bus: SqliteBus, topics: Sequence[str], from_start: bool) -> None:
        super().__init__(bus, topics)
        self._from_start = from_start
        self._reached = 0

    async def _position(self) -> None:
        self._reached = 0 if self._from_start else await self.bus.in_thread(Log.end)

    def _places(self, log: Log) -> Mapping[Place, int]:
        reached = self._reached if self._reached <= log.end() else 0  # the file was replaced: a new log starts at 1
        return {(topic, partition): reached for topic in self.topics for partition in range(PARTITIONS)}

    async def _next(self) -> Sequence[Received]:
        found = await self.bus.in_thread(lambda log: log.read(self._places(log)))
        if found:
            self._reached = found[-1].offset
        return found

    @override
    async def commit(self) -> None:
        return None

    @override
    async def lag(self) -> int:
        return await self.bus.in_thread(lambda log: log.count(self._places(log)))


class GroupMember(_Subscription):
    """Reads the partitions that it owns; `_reached` and `_committed` are (epoch, position) by partition."""

    def __init__(self, bus: SqliteBus, group: str, topics: Sequence[str]) -> None:
        super().__init__(bus, topics)
        self.group, self.name = group, uuid4().hex
        self._joined = False
        self._reached: dict[Place, tuple[int, int]] = {}
        self._committed: dict[Place, tuple[int, int]] = {}

    async def _position(self) -> None:
        self._joined = True  # first, because a start() that is cancelled may still join
        try:
            await self.bus.in_thread(lambda log: log.join(self.group, self.topics, self.name))
        except Unavailable:
            self._joined = False
            raise

    def _places(self, log: Log) -> Mapping[Place, tuple[int, int]]:
        """Where to read on: at our position, or at the group's in a partition that was assigned anew."""
        places = {}
        for place, held in log.held(self.name).items():
            epoch, position = self._reached.get(place, (0, 0))
            places[place] = (held.epoch, position if epoch == held.epoch else held.committed)
        return places

    async def _next(self) -> Sequence[Received]:
        def read(log: Log) -> tuple[Mapping[Place, tuple[int, int]], Sequence[Received]]:
            places = self._places(log)
            return places, log.read({place: position for place, (_, position) in places.items()})

        places, found = await self.bus.in_thread(read)
        self._reached = dict(places)
        for message in found:
            place = (message.topic, message.partition)
            self._reached[place] = (places[place][0], message.offset)
        return found

    @override
    async def commit(self) -> None:
        new = {place: reached for place, reached in self._reached.items() if reached != self._committed.get(place)}
        if new:
            await self.bus.in_thread(lambda log: log.commit(self.group, self.name, new))
            self._committed |= new

    @override
    async def lag(self) -> int:
        def count(log: Log) -> int:
            return log.count({place: position for place, (_, position) in self._places(log).items()})

        return await self.bus.in_thread(count)

    @override
    async def close(self) -> None:
        """Leave the group at once; if the file cannot be written now, the lease runs out instead."""
        await super().close()
        if self._joined:
            self._joined = False
            with suppress(Unavailable):
                await self.bus.in_thread(lambda log: log.leave(self.name))
