"""Leases: numbered attempts at one piece of work, each claimed before it begins and held by a heartbeat.

A lease has expired when its heartbeat has not changed for `lease_seconds` on the observer's monotonic clock, counted over
successful reads only, also while the holder's process is there: it may hang. It has expired at once when the process is
gone from this host. Wall clocks are never compared. Two live holders are possible, so the work must be idempotent.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from millstream.errors import DataLoss, MillstreamError, NotFound
from millstream.operations.v1.stored_pb2 import Claim, Heartbeat, Process
from millstream.timestamps import now
from servicekit.blobs.port import Blobs
from servicekit.blobs.stored import decode
from servicekit.facts.ledger import Put
from servicekit.processes import is_running, this_process

HEARTBEAT_SECONDS = 1.0


@dataclass
class _Observed:
    """The heartbeat's count, and since when (monotonic) it has been that."""

    count: int
    since: float


class Leases:
    """The attempts under one prefix: `{prefix}/{n:010d}/claim`, written once, and `…/heartbeat`, written again and again."""

    def __init__(self, blobs: Blobs, prefix: str, lease_seconds: float, put: Put | None = None) -> None:
        self.blobs, self.prefix, self.lease_seconds = blobs, prefix, lease_seconds
        self._put: Put = put or blobs.put_if_absent
        self._observed: dict[int, _Observed] = {}
        self._claims: dict[int, Claim] = {}
        self._known = 0
        self._unconfirmed: set[int] = set()
        """Attempts whose claim raised, so that it may have been written."""

    def folder(self, number: int) -> str:
        """The prefix of an attempt's objects, without a slash at its end."""
        return f"{self.prefix}/{number:010d}"

    async def newest(self) -> int:
        """The number of the newest attempt; 0: none. Raises Unavailable."""
        while True:
            following = self._known + 1
            if not await self.blobs.exists(f"{self.folder(following)}/claim"):
                return self._known
            # A concurrent call may have counted this attempt meanwhile.
            self._known = max(self._known, following)

    async def claim(self, number: int, process: Process | None = None) -> bool:
        """Claim an attempt for a process, by default this one. False: another has it. Raises Unavailable: claim it again."""
        process = process or this_process()
        claim = Claim(number=number, process=process, time=now())
        unconfirmed, self._unconfirmed = number in self._unconfirmed, self._unconfirmed | {number}
        claimed = await self._put(f"{self.folder(number)}/claim", claim.SerializeToString())
        self._unconfirmed.discard(number)
        return claimed or (unconfirmed and (await self.read(number)).process == process)

    async def read(self, number: int) -> Claim:
        """Who claimed the attempt, and when. It never changes, so it is read once. Raises NotFound, DataLoss."""
        if number not in self._claims:
            key = f"{self.folder(number)}/claim"
            self._claims[number] = decode(Claim, await self.blobs.get(key), key)
        return self._claims[number]

    async def is_alive(self, number: int) -> bool:
        """Whether the holder may be alive; False: its lease has expired. Call it about once a second. Raises Unavailable."""
        try:
            if is_running((await self.read(number)).process) is False:
                return False
            count = await self._heartbeat(number)
        except MillstreamError:
            # A failed read proves nothing about the time before it.
            self.restart(number)
            raise
        read_at = time.monotonic()
        observed = self._observed.get(number)
        if observed is None or observed.count != count:
            self._observed[number] = observed = _Observed(count, read_at)
        return read_at - observed.since < self.lease_seconds

    def restart(self, number: int) -> None:
        """Let the lease start anew: what was seen of its heartbeat proves nothing."""
        self._observed.pop(number, None)

    async def _heartbeat(self, number: int) -> int:
        """Its count; 0: there is none. A damaged one counts as none: no backup has it, and a live holder replaces it."""
        key = f"{self.folder(number)}/heartbeat"
        try:
            return int(decode(Heartbeat, await self.blobs.get(key), key).count)
        except (NotFound, DataLoss):
            return 0

    @asynccontextmanager
    async def holding(self, number: int) -> AsyncIterator[None]:
        """Send heartbeats, one a second, while inside."""
        heartbeats = asyncio.create_task(self._send_heartbeats(number))
        try:
            yield
        finally:
            heartbeats.cancel()
            # Not `suppress(CancelledError)`, which would swallow a cancellation of the holder itself.
            await asyncio.gather(heartbeats, return_exceptions=True)

    async def _send_heartbeats(self, number: int) -> None:
        count = 0
        while True:
            count += 1
            with suppress(MillstreamError):
                await self.blobs.put(f"{self.folder(number)}/heartbeat", Heartbeat(count=count).SerializeToString())
            await asyncio.sleep(HEARTBEAT_SECONDS)
