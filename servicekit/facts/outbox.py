"""Says every fact at least once, without ever making a request wait for the bus.

The order is: marker, object, publish, remove the marker. A process that dies on the way leaves the marker, and any
replica's sweep (every second) publishes the stored object and removes it. The event is built from what the object holds, so
a marker holds only the key.

An event that no bus could carry, or that cannot be built at all, is a bug of ours, or a fact of a later version that was
taken back: its marker is set aside with an error instead of being tried each second for ever, and the next start of the
service, of a better version perhaps, tries it again.
The fact itself stands in its object, and whoever looks finds it.
"""

import asyncio
import hashlib
import logging
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from google.protobuf.message import DecodeError
from google.protobuf.message import Message as Proto

from millstream.errors import InvalidArgument, MillstreamError, NotFound
from millstream.operations.v1.stored_pb2 import OutboxMarker
from servicekit.blobs.port import Blobs, check_key
from servicekit.bus.port import Bus, Message
from servicekit.facts.events import to_message
from servicekit.failpoints import failpoint
from servicekit.ids import hash_of
from servicekit.incidents import Incident
from servicekit.metrics import OUTBOX_FAILURES, OUTBOX_PARKED, OUTBOX_PENDING, OUTBOX_PUBLISHED

log = logging.getLogger(__name__)
SWEEP_SECONDS = 1.0
ORPHAN_SECONDS = 3600.0
AT_ONCE = 16
"""After a long outage of the bus thousands of facts may wait."""


@dataclass(frozen=True)
class Fact:
    """What an object means on the bus: the event and the noun's id."""

    key: str
    event: Proto


Announce = Mapping[str, Callable[[str, bytes], Fact]]
"""Pattern of an object's key (`*` is one segment) → the fact that the object's key and bytes state."""


def kind_name(pattern: str) -> str:
    """A pattern as one word: `models/*/aliases/*/*` → models-aliases."""
    return "-".join(segment for segment in pattern.split("/") if segment != "*")


class _Kind:
    """One kind of fact: which objects state it, and how its event is built."""

    def __init__(self, pattern: str, build: Callable[[str, bytes], Fact]) -> None:
        self.name, self.build = kind_name(pattern), build
        self._expression = re.compile(re.escape(pattern).replace(r"\*", "[^/]+"))

    def matches(self, key: str) -> bool:
        return self._expression.fullmatch(key) is not None


class Outbox:
    """Owned by one service; the worker of the trainer uses one without a bus, and the trainer's sweep publishes for it."""

    def __init__(self, blobs: Blobs, bus: Bus | None, service: str, announce: Announce) -> None:
        self.blobs, self.bus, self.service = blobs, bus, service
        self._kinds = [_Kind(pattern, build) for pattern, build in announce.items()]
        self._publishing: dict[str, asyncio.Task[None]] = {}
        """By marker."""
        self.incident = Incident("outbox")
        self.pending = self.parked = 0
        self._soon = asyncio.Event()
        self._at_once = asyncio.Semaphore(AT_ONCE)

    async def put(self, key: str, data: bytes) -> bool:
        """put_if_absent() of an object that is a fact. False: another was first, whose fact is then said again."""
        kind, marker = self._kind(key), self._marker(key)
        await self.blobs.put(marker, OutboxMarker(key=key).SerializeToString())
        failpoint(f"outbox.{kind.name}.marked")
        made = await self.blobs.put_if_absent(key, data)
        failpoint(f"outbox.{kind.name}.stored")
        self._start(key, marker, data if made else None)
        return made

    async def run(self) -> None:
        """Sweep for ever."""
        retried = False
        while True:
            try:
                if not retried:
                    await self.retry_parked()
                    retried = True
                await self.sweep()
            except MillstreamError as error:
                self.incident.begin(str(error))
            self._soon.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(SWEEP_SECONDS):
                    await self._soon.wait()

    def sweep_soon(self) -> None:
        """Somebody else, a worker, may have left a marker."""
        self._soon.set()

    async def sweep(self) -> None:
        """Start publishing what every marker names, except what is being published already."""
        pending = 0
        async for listed in self.blobs.list(f"outbox/{self.service}/"):
            pending += 1
            if listed.key in self._publishing:
                continue
            with suppress(NotFound):
                try:
                    key = OutboxMarker.FromString(await self.blobs.get(listed.key)).key
                    self._kind(check_key(key))
                except (DecodeError, InvalidArgument, LookupError) as error:
                    await self._park(listed.key, f"a later version wrote it, or it is damaged: {error}")
                    continue
                if await self.blobs.exists(key):
                    self._start(key, listed.key)
                elif await self._store_time() - listed.modified > ORPHAN_SECONDS:
                    await self.blobs.delete(listed.key)
        self.pending = pending
        OUTBOX_PENDING.set(pending)
        if not pending:
            self.incident.over()

    async def retry_parked(self) -> None:
        """Have the next sweep try what an earlier process set aside."""
        async for listed in self.blobs.list(f"outbox-parked/{self.service}/"):
            with suppress(NotFound):  # another replica does the same
                data = await self.blobs.get(listed.key)
                await self.blobs.put(f"outbox/{self.service}/{listed.key.rpartition('/')[2]}", data)
                await self.blobs.delete(listed.key)

    async def flush(self) -> None:
        """Wait until what is being published now has been, or has failed."""
        await asyncio.gather(*self._publishing.values(), return_exceptions=True)

    def _start(self, key: str, marker: str, stored: bytes | None = None) -> None:
        """`stored` is the object's content where it is known."""
        if self.bus and marker not in self._publishing:
            task = asyncio.create_task(self._publish(self.bus, key, marker, stored))
            self._publishing[marker] = task
            task.add_done_callback(lambda _: self._publishing.pop(marker, None))

    async def _publish(self, bus: Bus, key: str, marker: str, stored: bytes | None) -> None:
        try:
            kind = self._kind(key)
            message = self._message(kind, key, await self.blobs.get(key) if stored is None else stored)
            async with self._at_once:
                await bus.publish(message)
            failpoint(f"outbox.{kind.name}.published")
            await self.blobs.delete(marker)
            OUTBOX_PUBLISHED.inc()
            self.incident.over()
        except InvalidArgument as error:
            await self._park(marker, f"{key}: {error}")
        except Exception as error:
            OUTBOX_FAILURES.inc()
            self.incident.begin(str(error))

    def _message(self, kind: _Kind, key: str, data: bytes) -> Message:
        """Raises InvalidArgument where the stored object gives no event: a bug, which trying again cannot mend."""
        try:
            fact = kind.build(key, data)
            return to_message(fact.event, fact.key, hash_of(key), self.service)
        except Exception as error:
            raise InvalidArgument(f"no event can be built: {type(error).__name__}: {error}") from error

    async def _park(self, marker: str, reason: str) -> None:
        aside = f"outbox-parked/{self.service}/{marker.rpartition('/')[2]}"
        try:
            await self.blobs.put(aside, await self.blobs.get(marker))
            failpoint("outbox.parked")
            await self.blobs.delete(marker)
        except NotFound:  # another replica was faster
            return
        except MillstreamError as error:
            self.incident.begin(str(error))
            return
        OUTBOX_PARKED.inc()
        self.parked += 1
        log.error("fact set aside: this version cannot publish it", extra={"marker": aside, "reason": reason})

    async def _store_time(self) -> float:
        """What the store's own clock says now, the only clock that its listing can be compared with."""
        probe = f"clock/{self.service}"
        await self.blobs.put(probe, b"")
        async for listed in self.blobs.list(probe):
            return listed.modified
        return 0.0

    def _kind(self, key: str) -> "_Kind":
        for kind in self._kinds:
            if kind.matches(key):
                return kind
        raise LookupError(f"{self.service} has no event for {key}: add its pattern to the service's facts")

    def _marker(self, key: str) -> str:
        return f"outbox/{self.service}/{hashlib.sha256(key.encode()).hexdigest()[:32]}"
