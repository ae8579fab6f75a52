"""A transactional outbox: every fact is published at least once, and no request waits for the bus.

The order is: markers, object, publish, delete the outbox's marker. A process that dies on the way leaves the marker, and
any replica's sweep (every second) publishes the object and deletes it. The event is built from the object, so a marker holds
only its key. The other markers are those of services that act on the fact (open_work.py).

An event that cannot be built, or that no bus can carry, is a bug, or a fact of a later version that was rolled back. Its
marker is parked with an error, and retried when the service next starts. The fact itself is stored, so a resync finds
it.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from google.protobuf.message import Message as Proto

from millstream.defaults import is_event
from millstream.errors import DataLoss, InvalidArgument, MillstreamError, NotFound
from millstream.operations.v1.stored_pb2 import OutboxMarker
from servicekit.blobs.patterns import matcher
from servicekit.blobs.port import Blobs, check_key
from servicekit.blobs.stored import decode
from servicekit.bus.port import Bus, Message
from servicekit.facts.events import to_message
from servicekit.facts.markers import delete_orphan, fact_id_of
from servicekit.facts.open_work import open_work_on
from servicekit.failpoints import failpoint
from servicekit.incidents import Incident
from servicekit.metrics import OUTBOX_FAILURES, OUTBOX_PARKED, OUTBOX_PENDING, OUTBOX_PUBLISHED

log = logging.getLogger(__name__)
SWEEP_SECONDS = 1.0
PUBLISHES_AT_ONCE = 16
"""After a long outage of the bus thousands of facts may be pending."""


@dataclass(frozen=True)
class Fact:
    """The event of an object, and the key that orders it on the bus (the id of the dataset, run, model …).

    A fact that gives its own service work and is not published has the stored message itself as `event`.
    """

    key: str
    event: Proto


Announce = Mapping[str, Callable[[str, bytes], Fact]]
"""Pattern of an object's key (`*` is one segment) → the fact that the object's key and bytes state."""


def kind_name(pattern: str) -> str:
    """The name of a pattern, for failpoints: `models/*/aliases/*/*` → models-aliases."""
    return "-".join(segment for segment in pattern.split("/") if segment != "*")


class _Kind:
    """One kind of fact: which objects state it, and how its event is built."""

    def __init__(self, pattern: str, build: Callable[[str, bytes], Fact]) -> None:
        self.name, self.build = kind_name(pattern), build
        self._expression = matcher(pattern)

    def matches(self, key: str) -> bool:
        return self._expression.fullmatch(key) is not None


class Outbox:
    """The outbox of one service. Without a bus, as in the trainer's worker, the service's sweep publishes."""

    def __init__(self, blobs: Blobs, bus: Bus | None, service: str, announce: Announce) -> None:
        self.blobs, self.bus, self.service = blobs, bus, service
        self._kinds = [_Kind(pattern, build) for pattern, build in announce.items()]
        self._publishing: dict[str, asyncio.Task[None]] = {}
        """By the marker's key."""
        self.incident = Incident("outbox")
        self.pending = self.parked = 0
        """Facts stored and not published at the last sweep, and facts parked since the start."""
        self._sweep_now = asyncio.Event()
        self._slots = asyncio.Semaphore(PUBLISHES_AT_ONCE)

    async def put(self, key: str, data: bytes) -> bool:
        """put_if_absent() of an object that is a fact. False: another call was first, and its fact is published again.

        Raises LookupError for a key that no pattern matches, and Unavailable; then the fact may have been stored.
        """
        kind, marker = self._kind(key), self._marker(key)
        fact = self._fact(kind, key, data)
        published = fact is None or is_event(fact.event)
        marked = [self.blobs.put(marker, OutboxMarker(key=key).SerializeToString())] if published else []
        if fact:
            marked.append(open_work_on(self.blobs, key, fact.event))
        await asyncio.gather(*marked)
        failpoint(f"outbox.{kind.name}.marked")
        stored = await self.blobs.put_if_absent(key, data)
        failpoint(f"outbox.{kind.name}.stored")
        if published:
            self._start(key, marker, data if stored else None)
        return stored

    async def reopen(self, key: str) -> None:
        """Mark a stored fact once more for the services that act on it. Raises NotFound, DataLoss, Unavailable."""
        data = await self.blobs.get(key)
        await open_work_on(self.blobs, key, self._kind(key).build(key, data).event)

    async def run(self) -> None:
        """Retry what is parked, then sweep until cancelled."""
        retried = False
        while True:
            try:
                if not retried:
                    await self.retry_parked()
                    retried = True
                await self.sweep()
            except MillstreamError as error:
                self.incident.report(str(error))
            self._sweep_now.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(SWEEP_SECONDS):
                    await self._sweep_now.wait()

    def sweep_soon(self) -> None:
        """Sweep at once: another process, such as a worker, may have left a marker."""
        self._sweep_now.set()

    async def sweep(self) -> None:
        """Start to publish every marked object that is not being published already. Raises Unavailable."""
        pending = 0
        async for listed in self.blobs.list(f"outbox/{self.service}/"):
            pending += 1
            if listed.key in self._publishing:
                continue
            with suppress(NotFound):
                try:
                    key = decode(OutboxMarker, await self.blobs.get(listed.key), listed.key).key
                    self._kind(check_key(key))
                except (DataLoss, InvalidArgument, LookupError) as error:
                    await self._park(listed.key, f"a later version wrote it, or it is damaged: {error}")
                    continue
                if await self.blobs.exists(key):
                    self._start(key, listed.key)
                else:
                    await delete_orphan(self.blobs, self.service, listed)
        self.pending = pending
        OUTBOX_PENDING.set(pending)
        if not pending:
            self.incident.resolve()

    async def retry_parked(self) -> None:
        """Turn what earlier processes parked into markers again. Raises Unavailable."""
        async for listed in self.blobs.list(f"outbox-parked/{self.service}/"):
            with suppress(NotFound):  # another replica was faster
                data = await self.blobs.get(listed.key)
                await self.blobs.put(f"outbox/{self.service}/{listed.key.rpartition('/')[2]}", data)
                failpoint("outbox.unparked")
                await self.blobs.delete(listed.key)

    async def flush(self) -> None:
        """Wait until every publish in progress has succeeded or failed."""
        await asyncio.gather(*self._publishing.values(), return_exceptions=True)

    def _start(self, key: str, marker: str, stored: bytes | None = None) -> None:
        """Publish in the background; `stored` is the object's content where it is known."""
        if self.bus and marker not in self._publishing:
            task = asyncio.create_task(self._publish(self.bus, key, marker, stored))
            self._publishing[marker] = task
            task.add_done_callback(lambda _: self._publishing.pop(marker, None))

    async def _publish(self, bus: Bus, key: str, marker: str, stored: bytes | None) -> None:
        try:
            kind = self._kind(key)
            message = self._message(kind, key, await self.blobs.get(key) if stored is None else stored)
            async with self._slots:
                await bus.publish(message)
            failpoint(f"outbox.{kind.name}.published")
            await self.blobs.delete(marker)
            OUTBOX_PUBLISHED.inc()
            self.incident.resolve()
        except InvalidArgument as error:
            await self._park(marker, f"{key}: {error}")
        except Exception as error:
            OUTBOX_FAILURES.inc()
            self.incident.report(str(error))

    def _fact(self, kind: _Kind, key: str, data: bytes) -> Fact | None:
        """None: it cannot be built, which is a bug. Then its marker is parked, and a comparison in full finds the work."""
        try:
            return kind.build(key, data)
        except Exception:
            return None

    def _message(self, kind: _Kind, key: str, data: bytes) -> Message:
        """Raises DataLoss for a damaged fact, or InvalidArgument where no event can be built: a bug, and no retry helps."""
        try:
            fact = kind.build(key, data)
            return to_message(fact.event, fact.key, fact_id_of(key), self.service)
        except DataLoss:
            raise  # its marker stays, so that it is published once it is restored
        except Exception as error:
            raise InvalidArgument(f"no event can be built: {type(error).__name__}: {error}") from error

    async def _park(self, marker: str, reason: str) -> None:
        parked = f"outbox-parked/{self.service}/{marker.rpartition('/')[2]}"
        try:
            await self.blobs.put(parked, await self.blobs.get(marker))
            failpoint("outbox.parked")
            await self.blobs.delete(marker)
        except NotFound:  # another replica was faster
            return
        except MillstreamError as error:
            self.incident.report(str(error))
            return
        OUTBOX_PARKED.inc()
        self.parked += 1
        log.error("fact parked: this version cannot publish it", extra={"marker": parked, "reason": reason})

    def _kind(self, key: str) -> "_Kind":
        for kind in self._kinds:
            if kind.matches(key):
                return kind
        raise LookupError(f"{self.service} has no event for {key}: add its pattern to the service's facts")

    def _marker(self, key: str) -> str:
        return f"outbox/{self.service}/{fact_id_of(key)}"
