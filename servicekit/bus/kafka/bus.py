"""The bus on Kafka. It connects on first use, and blocks no event loop.

One producer publishes everything (writer.py). Each subscription has a consumer with a thread of its own (reader.py).
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from kafka.errors import KafkaError
from typing_extensions import override

from millstream.errors import Unavailable
from servicekit.bus.kafka.connection import link
from servicekit.bus.kafka.options import KafkaOptions
from servicekit.bus.kafka.reader import Reader
from servicekit.bus.kafka.topics import ensure
from servicekit.bus.kafka.writer import Writer
from servicekit.bus.port import Bus, Message, Received, Subscription, check_message, check_names

log = logging.getLogger(__name__)
logging.getLogger("kafka").setLevel(logging.CRITICAL)  # it logs an error for each attempt to connect

T = TypeVar("T")

FRESH_SECONDS = 5.0
"""An answer of the brokers counts as a successful check() for this time."""
FLUSH_SECONDS = 2.0
LEAVE_SECONDS = 5.0
THREADS = 8


class KafkaBus(Bus):
    """The brokers at `servers`, each `HOST:PORT`. Raises InvalidArgument for another form."""

    def __init__(self, servers: Sequence[str], options: KafkaOptions) -> None:
        self.link = link(servers, options)
        self.last_answer = 0.0
        self._writer: Writer | None = None
        self._lock = threading.Lock()
        self._failed_at, self._failure = 0.0, ""
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="kafka-bus")
        self._members: set[KafkaSubscription] = set()
        self._closed = False

    @override
    async def publish(self, message: Message) -> None:
        check_message(message)
        topic = self.name(message.topic)
        for may_retry in (True, False):
            writer = self._writer
            if writer is None or not writer.knows(topic) or self._closed:
                writer = await self.in_thread(lambda called_at: self._open_writer(topic, called_at))
            try:
                await writer.send(topic, message.key.encode(), message.value, message.headers)
            except KafkaError as error:
                await self.in_thread(partial(self._after_failure, writer, topic, error, may_retry))
            else:
                self.record_answer()
                return

    @override
    def subscribe(self, group: str, topics: Sequence[str]) -> Subscription:
        check_names(group, *topics)
        return KafkaSubscription(self, topics, group)

    @override
    def tail(self, topics: Sequence[str], from_start: bool = False) -> Subscription:
        check_names(*topics)
        return KafkaSubscription(self, topics, None, from_start)

    @override
    async def check(self) -> None:
        if self._closed or time.monotonic() - self.last_answer > FRESH_SECONDS:
            await self.in_thread(lambda called_at: self._single_flight(called_at, self.link.probe))

    @override
    async def close(self) -> None:
        """Close all subscriptions and send the messages in flight. Every later call raises Unavailable."""
        for member in list(self._members):
            await member.close()
        if self._closed:
            return
        self._closed = True
        await asyncio.get_running_loop().run_in_executor(self._threads, self._drop, FLUSH_SECONDS)
        self._threads.shutdown(wait=False)

    def name(self, name: str) -> str:
        """A topic's or group's name at the brokers: with the prefix."""
        return self.link.options.prefix + name

    def record_answer(self) -> None:
        """Record that the brokers have answered just now."""
        self.last_answer = time.monotonic()

    async def in_thread(self, job: Callable[[float], T]) -> T:
        """Run a blocking job in a thread, with the monotonic time of this call as its argument. Raises Unavailable."""
        if self._closed:
            raise Unavailable(f"the bus on {self.link.address} is closed: this process is stopping")
        return await asyncio.get_running_loop().run_in_executor(self._threads, job, time.monotonic())

    def add_member(self, member: "KafkaSubscription") -> None:
        """Have close() close the member too."""
        self._members.add(member)

    def remove_member(self, member: "KafkaSubscription") -> None:
        """Undo add_member()."""
        self._members.discard(member)

    def _single_flight(self, called_at: float, job: Callable[[], T]) -> T:
        """Run one job at a time; callers that waited while one failed fail with its error instead of trying again."""
        with self._lock:
            if self._failed_at > called_at:
                raise self.link.unavailable(self._failure)
            try:
                result = job()
            except Unavailable as error:
                self._failed_at = time.monotonic()
                self._failure = str(error).removeprefix(str(self.link.unavailable("")))
                raise
            self.record_answer()
            return result

    def _open_writer(self, topic: str, called_at: float) -> Writer:
        """The producer, connected and with the topic's metadata. Raises Unavailable."""

        def prepare() -> Writer:
            writer = self._writer
            if writer and writer.knows(topic):
                return writer
            self.link.probe()
            ensure(self.link, [topic])
            if writer and writer.lost:
                self._drop(0)
            try:
                writer = self._writer = self._writer or Writer(self.link)
                writer.learn(topic)
            except KafkaError as error:
                raise self.link.explain(error) from error
            return writer

        return self._single_flight(called_at, prepare)

    def _after_failure(self, writer: Writer, topic: str, error: KafkaError, may_retry: bool, called_at: float) -> None:
        """After a message was not acknowledged: return to have it sent again, or raise Unavailable with what to do."""

        def replace_writer() -> None:
            if writer is self._writer:  # else another failed message has replaced it already
                self.link.probe()
                ensure(self.link, [topic])
                self._drop(0)
            if not may_retry:
                raise self.link.explain(error)

        self._single_flight(called_at, replace_writer)

    def _drop(self, seconds: float) -> None:
        writer, self._writer = self._writer, None
        if writer:
            writer.close(seconds)


class KafkaSubscription(Subscription):
    """A member of a group, or a tail without one: the event loop's side of a Reader."""

    def __init__(self, bus: KafkaBus, topics: Sequence[str], group: str | None, from_start: bool = False) -> None:
        self.bus, self.topics, self.group, self.from_start = bus, tuple(topics), group, from_start
        self.closed = False
        self._reader: Reader | None = None
        self._changed = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    @override
    async def start(self) -> None:
        if self.closed or (self._reader and self._reader.positioned):
            return
        if self.bus._closed:
            await self.bus.in_thread(lambda _: None)
        if self._reader is None:
            self._loop = asyncio.get_running_loop()
            topics = [self.bus.name(topic) for topic in self.topics]
            group = self.bus.name(self.group) if self.group else None
            self._reader = Reader(self.bus.link, topics, group, self.from_start, self._notify, self.bus.record_answer)
            self.bus.add_member(self)
            self._reader.start()
        reader = self._reader
        while not (reader.positioned or self.closed):
            self._changed.clear()
            if reader.error:
                self._reader = None
                raise reader.error
            if not reader.positioned:
                await self._changed.wait()

    @override
    async def batch(self) -> Sequence[Received]:
        await self.start()
        while True:
            self._changed.clear()
            if self.closed or not self._reader:
                raise Unavailable("this subscription is closed: the process is stopping")
            if found := self._reader.take():
                return found
            await self._changed.wait()

    @override
    async def commit(self) -> None:
        reader = self._reader
        if self.group and reader and not self.closed:
            await self.bus.in_thread(lambda _: reader.commit())

    @override
    async def lag(self) -> int:
        await asyncio.sleep(0)
        return self._reader.lag() if self._reader else 0

    @override
    async def close(self) -> None:
        self.closed = True
        self.bus.remove_member(self)
        self._changed.set()
        if self._reader:
            self._reader.end()
            await asyncio.get_running_loop().run_in_executor(None, self._reader.join, LEAVE_SECONDS)

    def _notify(self) -> None:
        try:
            if self._loop:
                self._loop.call_soon_threadsafe(self._changed.set)
        except RuntimeError:  # the subscriber's loop is closed: it reads no more
            if self._reader:
                self._reader.end()
