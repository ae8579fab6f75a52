"""The bus in one SQLite file, shared by all processes of a host: the laptop's and the tests' Kafka.

Work on the file is done by one thread per bus, never on the event loop; a second one watches (watch.py).
What a subscription has returned but not committed is delivered again, to whoever owns the partition then. The file must
lie on a local disk: WAL needs shared memory.
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

_PATIENCE = 5.0


class SqliteBus(Bus):
    """A log in the file `path`; the newest `retain` messages of each topic are kept.

    Several objects may use one file, in one process or in many. After a fork the child starts with nothing of the
    parent's: no connection, no thread, no member.
    """

    def __init__(self, path: Path, retain: int = 100_000) -> None:
        self.path, self.retain = Path(os.path.abspath(path)), retain
        self._closed = False
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._log = Log(self.path, _PATIENCE, self.retain)
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="sqlite-bus")
        self._members: set[_Member] = set()
        self._lock = threading.Lock()
        self._watch: Watch | None = None
        self._inherited: list[object] = []

    @override
    async def publish(self, message: Message) -> None:
        check_message(message)
        await self.work(lambda log: log.append(message))
        self.wake()

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
        await self.work(Log.check)

    @override
    async def close(self) -> None:
        """Let all subscriptions leave, then end both threads. Whatever comes after is Unavailable."""
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

    async def work(self, job: Callable[[Log], T]) -> T:
        """Do the job on the thread that owns the file. Raises Unavailable."""
        if self._closed:
            raise Unavailable(f"the bus on {self.path} is closed: this process is stopping", path=str(self.path))
        self._after_fork()
        return await asyncio.get_running_loop().run_in_executor(self._executor, job, self._log)

    def _after_fork(self) -> None:
        """Closing a connection that the parent still uses would break its locks, so it is kept, untouched."""
        if self._pid != os.getpid():
            inherited = [self._log, self._executor, self._watch, *self._inherited]
            self._reset()
            self._inherited = inherited

    def enter(self, member: "_Member") -> None:
        """Wake the member from now on, and keep its lease."""
        with self._lock:
            self._members.add(member)
            if not (self._watch or self._closed):
                self._watch = Watch(self.path, self.wake, self._leases)
                self._watch.start()

    def exit(self, member: "_Member") -> None:
        with self._lock:
            self._members.discard(member)

    def members(self) -> Sequence["_Member"]:
        with self._lock:
            return list(self._members)

    def wake(self) -> None:
        for member in self.members():
            member.wake()

    def _leases(self) -> MemberLeases:
        return {m.name: (m.group, m.topics) for m in self.members() if isinstance(m, GroupMember)}


class _Member(Subscription):
    """What tails and members of groups have in common: waiting."""

    def __init__(self, bus: SqliteBus, topics: Sequence[str]) -> None:
        self.bus, self.topics = bus, tuple(topics)
        self.started = self.closed = False
        self._woken = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    @override
    async def start(self) -> None:
        if not (self.started or self.closed):
            await self._position()
            self._loop = asyncio.get_running_loop()
            self.bus.enter(self)
            self.started = True

    @override
    async def batch(self) -> Sequence[Received]:
        await self.start()
        while True:
            self._woken.clear()
            if self.closed:
                raise Unavailable("this subscription is closed: the process is stopping", path=str(self.bus.path))
            if found := await self._next():
                return found
            await self._woken.wait()

    def wake(self) -> None:
        try:
            if self._loop:
                self._loop.call_soon_threadsafe(self._woken.set)
        except RuntimeError:  # its loop is closed: nobody waits there, and its lease may run out
            self.bus.exit(self)

    @override
    async def close(self) -> None:
        self.closed = True
        self.bus.exit(self)
        self.wake()

    async def _position(self) -> None:
        raise NotImplementedError

    async def _next(self) -> Sequence[Received]:
        raise NotImplementedError


class _Tail(_Member):
    """Reads all partitions from one position on."""

    def __init__(self, bus: SqliteBus, topics: Sequence[str], from_start: bool) -> None:
        super().__init__(bus, topics)
        self._from_start = from_start
        self._reached = 0

    async def _position(self) -> None:
        self._reached = 0 if self._from_start else await self.bus.work(Log.end)

    def _places(self, log: Log) -> Mapping[Place, int]:
        reached = self._reached if self._reached <= log.end() else 0  # the file was replaced: a new log starts at 1
        return {(topic, partition): reached for topic in self.topics for partition in range(PARTITIONS)}

    async def _next(self) -> Sequence[Received]:
        found = await self.bus.work(lambda log: log.read(self._places(log)))
        if found:
            self._reached = found[-1].offset
        return found

    @override
    async def commit(self) -> None:
        return None

    @override
    async def lag(self) -> int:
        return await self.bus.work(lambda log: log.count(self._places(log)))


class GroupMember(_Member):
    """Reads the partitions that it owns; by place it knows (epoch, position) of what it returned and committed."""

    def __init__(self, bus: SqliteBus, group: str, topics: Sequence[str]) -> None:
        super().__init__(bus, topics)
        self.group, self.name = group, uuid4().hex
        self._joined = False
        self._reached: dict[Place, tuple[int, int]] = {}
        self._committed: dict[Place, tuple[int, int]] = {}

    async def _position(self) -> None:
        self._joined = True  # before it is so: a start() that is cancelled may have joined all the same
        try:
            await self.bus.work(lambda log: log.join(self.group, self.topics, self.name))
        except Unavailable:
            self._joined = False
            raise

    def _places(self, log: Log) -> Mapping[Place, tuple[int, int]]:
        """Where to read on: where we were, or at the group's offset in a partition that we did not own just before."""
        places = {}
        for place, held in log.held(self.name).items():
            epoch, position = self._reached.get(place, (0, 0))
            places[place] = (held.epoch, position if epoch == held.epoch else held.committed)
        return places

    async def _next(self) -> Sequence[Received]:
        def read(log: Log) -> tuple[Mapping[Place, tuple[int, int]], Sequence[Received]]:
            places = self._places(log)
            return places, log.read({place: position for place, (_, position) in places.items()})

        places, found = await self.bus.work(read)
        self._reached = dict(places)
        for message in found:
            place = (message.topic, message.partition)
            self._reached[place] = (places[place][0], message.offset)
        return found

    @override
    async def commit(self) -> None:
        new = {place: reached for place, reached in self._reached.items() if reached != self._committed.get(place)}
        if new:
            await self.bus.work(lambda log: log.commit(self.group, self.name, new))
            self._committed |= new

    @override
    async def lag(self) -> int:
        def count(log: Log) -> int:
            return log.count({place: position for place, (_, position) in self._places(log).items()})

        return await self.bus.work(count)

    @override
    async def close(self) -> None:
        """Leave at once; if the file cannot be written now, the lease ends it."""
        await super().close()
        if self._joined:
            self._joined = False
            with suppress(Unavailable):
                await self.bus.work(lambda log: log.leave(self.name))
