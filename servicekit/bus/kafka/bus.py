"""The bus on Kafka. Nothing here connects before it is used, and nothing blocks the event loop.

One producer for all that is published (servicekit/bus/kafka/writer.py), and for each subscription one consumer with a thread
of its own (servicekit/bus/kafka/reader.py).
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
logging.getLogger("kafka").setLevel(logging.CRITICAL)  # it logs an error for each try to connect

T = TypeVar("T")

FRESH_SECONDS = 5.0
FLUSH_SECONDS = 2.0
LEAVE_SECONDS = 5.0
THREADS = 8


class KafkaBus(Bus):
    def __init__(self, servers: Sequence[str], options: KafkaOptions) -> None:
        self.link = link(servers, options)
        self.succeeded = 0.0
        self._writer: Writer | None = None
        self._lock = threading.Lock()
        self._failed_at, self._failed = 0.0, ""
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="kafka-bus")
        self._members: set[KafkaSubscription] = set()
        self._closed = False

    @override
    async def publish(self, message: Message) -> None:
        check_message(message)
        topic = self.name(message.topic)
        for again in (True, False):
            writer = self._writer
            if writer is None or not writer.knows(topic) or self._closed:
                writer = await self.work(lambda asked: self._ready(topic, asked))
            try:
                await writer.send(topic, message.key.encode(), message.value, message.headers)
            except KafkaError as error:
                await self.work(partial(self._recover, writer, topic, error, again))
            else:
                self.heard()
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
        if self._closed or time.monotonic() - self.succeeded > FRESH_SECONDS:
            await self.work(lambda asked: self._once(asked, self.link.probe))

    @override
    async def close(self) -> None:
        """Let all subscriptions leave and send what is under way. Whatever comes after is Unavailable."""
        for member in list(self._members):
            await member.close()
        if self._closed:
            return
        self._closed = True
        await asyncio.get_running_loop().run_in_executor(self._threads, self._drop, FLUSH_SECONDS)
        self._threads.shutdown(wait=False)

    def name(self, name: str) -> str:
        return self.link.options.prefix + name

    def heard(self) -> None:
        """The brokers have answered just now."""
        self.succeeded = time.monotonic()

    async def work(self, job: Callable[[float], T]) -> T:
        """Do what blocks in a thread. The job is told when it was asked for."""
        if self._closed:
            raise Unavailable(f"the bus on {self.link.address} is closed: this process is stopping")
        return await asyncio.get_running_loop().run_in_executor(self._threads, job, time.monotonic())

    def enter(self, member: "KafkaSubscription") -> None:
        self._members.add(member)

    def exit(self, member: "KafkaSubscription") -> None:
        self._members.discard(member)

    def _once(self, asked: float, job: Callable[[], T]) -> T:
        """One at a time; whoever has waited for a try that failed need not try again."""
        with self._lock:
            if self._failed_at > asked:
                raise self.link.unavailable(self._failed)
            try:
                done = job()
            except Unavailable as error:
                self._failed_at, self._failed = (
                    time.monotonic(),
                    str(error).removeprefix(str(self.link.unavailable(""))),
                )
                raise
            self.heard()
            return done

    def _ready(self, topic: str, asked: float) -> Writer:
        """The producer, once it knows the topic."""

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

        return self._once(asked, prepare)

    def _recover(self, writer: Writer, topic: str, error: KafkaError, again: bool, asked: float) -> None:
        """After a message was not acknowledged: return if it may be sent again, else raise what is to be mended."""

        def look() -> None:
            if writer is self._writer:  # else another message of it has failed before, and this was seen to
                self.link.probe()
                ensure(self.link, [topic])
                self._drop(0)
            if not again:
                raise self.link.explain(error)

        self._once(asked, look)

    def _drop(self, seconds: float) -> None:
        writer, self._writer = self._writer, None
        if writer:
            writer.close(seconds)


class KafkaSubscription(Subscription):
    """A member of a group, or a tail: the event loop's side of a Reader."""

    def __init__(self, bus: KafkaBus, topics: Sequence[str], group: str | None, from_start: bool = False) -> None:
        self.bus, self.topics, self.group, self.from_start = bus, tuple(topics), group, from_start
        self.closed = False
        self._reader: Reader | None = None
        self._woken = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    @override
    async def start(self) -> None:
        if self.closed or (self._reader and self._reader.positioned):
            return
        if self.bus._closed:
            await self.bus.work(lambda _: None)
        if self._reader is None:
            self._loop = asyncio.get_running_loop()
            topics = [self.bus.name(topic) for topic in self.topics]
            group = self.bus.name(self.group) if self.group else None
            self._reader = Reader(self.bus.link, topics, group, self.from_start, self._wake, self.bus.heard)
            self.bus.enter(self)
            self._reader.start()
        reader = self._reader
        while not (reader.positioned or self.closed):
            self._woken.clear()
            if reader.error:
                self._reader = None
                raise reader.error
            if not reader.positioned:
                await self._woken.wait()

    @override
    async def batch(self) -> Sequence[Received]:
        await self.start()
        while True:
            self._woken.clear()
            if self.closed or not self._reader:
                raise Unavailable("this subscription is closed: the process is stopping")
            if found := self._reader.take():
                return found
            await self._woken.wait()

    @override
    async def commit(self) -> None:
        reader = self._reader
        if self.group and reader and not self.closed:
            await self.bus.work(lambda _: reader.commit())

    @override
    async def lag(self) -> int:
        await asyncio.sleep(0)
        return self._reader.lag() if self._reader else 0

    @override
    async def close(self) -> None:
        self.closed = True
        self.bus.exit(self)
        self._woken.set()
        if self._reader:
            self._reader.end()
            await asyncio.get_running_loop().run_in_executor(None, self._reader.join, LEAVE_SECONDS)

    def _wake(self) -> None:
        try:
            if self._loop:
                self._loop.call_soon_threadsafe(self._woken.set)
        except RuntimeError:  # its loop is closed: nobody waits there
            if self._reader:
                self._reader.end()
