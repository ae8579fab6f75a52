"""The attempts at one import, each claimed first, so that a file that kills its dataprep does not do so for ever."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from millstream.errors import MillstreamError
from millstream.operations.v1.stored_pb2 import Claim
from millstream.timestamps import now
from servicekit.blobs.port import Blobs
from servicekit.facts.lease import Leases
from servicekit.processes import this_process

MOST_DEATHS = 3


@dataclass(frozen=True)
class AttemptStatus:
    """The attempts at one import so far."""

    newest: int
    """The number of the newest attempt; 0: none."""
    in_progress: bool
    """Another process may be working on the newest."""
    deaths: int
    """How many processes in a row died, the newest included, while they worked on it; at most MOST_DEATHS are counted."""


class Attempts:
    """`datasets/{dataset}/attempts/{request_id}/{n:010d}/claim`, `…/heartbeat`, and `…/released`, which is there while the
    process lives and does not work on the import: it was stopped, or waits for something.

    A process claims one attempt at an import, however often it tries. Keep the object while the import is pending: only
    repeated reads show that a heartbeat has stopped.
    """

    def __init__(self, blobs: Blobs, dataset: str, request_id: str, lease_seconds: float) -> None:
        self.blobs = blobs
        self.leases = Leases(blobs, f"datasets/{dataset}/attempts/{request_id}", lease_seconds)
        self._own = 0

    async def status(self) -> AttemptStatus:
        """Call it only while this process has no attempt in progress: a claim of its own is then one that is over."""
        newest = await self.leases.newest()
        in_progress, deaths = False, 0
        for number in range(newest, 0, -1):
            if await self.blobs.exists(self._released(number)):
                break
            if (await self.leases.read(number)).process == this_process():
                continue
            if number == newest and await self.leases.is_alive(number):
                in_progress = True
                break
            # It may have been released between the two reads.
            if await self.blobs.exists(self._released(number)):
                break
            deaths += 1
            if deaths == MOST_DEATHS:
                break
        return AttemptStatus(newest, in_progress, deaths)

    async def begin(self, newest: int) -> int:
        """Claim the attempt after the newest, or go on with the newest where it is this process's own; 0: another has it."""
        if self._own and self._own == newest:
            await self.blobs.delete(self._released(newest))
            return newest
        if not await self.leases.claim(newest + 1):
            return 0
        self._own = newest + 1
        return self._own

    @asynccontextmanager
    async def holding(self, number: int) -> AsyncIterator[None]:
        """Hold the attempt. An error releases it: SIGTERM, or a store that is away, says nothing against the file."""
        async with self.leases.holding(number):
            try:
                yield
            except BaseException:
                claim = Claim(number=number, process=this_process(), time=now())
                with suppress(MillstreamError):
                    await self.blobs.put(self._released(number), claim.SerializeToString())
                raise

    def _released(self, number: int) -> str:
        return f"{self.leases.folder(number)}/released"
