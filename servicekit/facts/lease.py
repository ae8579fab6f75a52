"""Numbered attempts at one piece of work, each claimed before it begins and held by a heartbeat.

The holder of an attempt counts as dead when its heartbeat has not changed for a whole lease on the observer's own monotonic
clock (over successful reads only), or at once when this host proves that its process is gone. Wall clocks are never
compared. Two live holders are possible, so the work must be harmless when it is done twice.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from millstream.errors import MillstreamError, NotFound
from millstream.operations.v1.stored_pb2 import Claim, Heartbeat
from millstream.timestamps import now
from servicekit.blobs.port import Blobs
from servicekit.facts.ledger import Put
from servicekit.processes import is_running, this_process

BEAT_SECONDS = 1.0


@dataclass
class _Seen:
    count: int
    since: float


class Leases:
    """The tries under one prefix: `{prefix}/{n:010d}/claim` and `…/heartbeat`."""

    def __init__(self, blobs: Blobs, prefix: str, lease_seconds: float, put: Put | None = None) -> None:
        self.blobs, self.prefix, self.lease_seconds = blobs, prefix, lease_seconds
        self._put: Put = put or blobs.put_if_absent
        self._seen: dict[int, _Seen] = {}
        self._known = 0
        self._unsure: set[int] = set()
        """Tries whose claim raised, and may have been made all the same."""

    def folder(self, number: int) -> str:
        return f"{self.prefix}/{number:010d}"

    async def newest(self) -> int:
        """The number of the newest try; 0: none."""
        while True:
            next_one = self._known + 1
            if not await self.blobs.exists(f"{self.folder(next_one)}/claim"):
                return self._known
            # Others may have asked meanwhile: a try must not be counted twice.
            self._known = max(self._known, next_one)

    async def claim(self, number: int) -> bool:
        """Claim a try for this process. False: somebody else has it."""
        claim = Claim(number=number, process=this_process(), time=now())
        unsure, self._unsure = number in self._unsure, self._unsure | {number}
        made = await self._put(f"{self.folder(number)}/claim", claim.SerializeToString())
        self._unsure.discard(number)
        return made or (unsure and (await self.read(number)).process == this_process())

    async def read(self, number: int) -> Claim:
        return Claim.FromString(await self.blobs.get(f"{self.folder(number)}/claim"))

    async def is_alive(self, number: int) -> bool:
        """Whether the try's holder may live. Ask about once a second; the answer turns False after a lease of silence."""
        try:
            running = is_running((await self.read(number)).process)
            if running is not None:
                return running
            data = await self._heartbeat(number)
        except MillstreamError:
            # Not having been able to look proves nothing about the time before.
            self._seen.pop(number, None)
            raise
        count, seen_at = Heartbeat.FromString(data).count, time.monotonic()
        seen = self._seen.get(number)
        if seen is None or seen.count != count:
            self._seen[number] = seen = _Seen(count, seen_at)
        return seen_at - seen.since < self.lease_seconds

    async def _heartbeat(self, number: int) -> bytes:
        try:
            return await self.blobs.get(f"{self.folder(number)}/heartbeat")
        except NotFound:
            return b""

    @asynccontextmanager
    async def holding(self, number: int) -> AsyncIterator[None]:
        """Beat once a second while inside."""
        beating = asyncio.create_task(self._beat(number))
        try:
            yield
        finally:
            beating.cancel()
            # Not `suppress(CancelledError)`, which would swallow a cancellation of the holder itself.
            await asyncio.gather(beating, return_exceptions=True)

    async def _beat(self, number: int) -> None:
        count = 0
        while True:
            count += 1
            with suppress(MillstreamError):
                await self.blobs.put(f"{self.folder(number)}/heartbeat", Heartbeat(count=count).SerializeToString())
            await asyncio.sleep(BEAT_SECONDS)
