"""Inference's objects: refusals, their lifts, and the load attempts of processes.

`refusals/{model}/{version:010d}/refusal`: put once, by the replica that refused first; deleted when it is lifted.
`refusals/{model}/{version:010d}/lifts/{id}`: an operator asked for another try.
`refusals/{model}/{version:010d}/attempts/{id}`: exists while a process loads the version; left behind when the process dies.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from millstream.errors import DataLoss, MillstreamError, NotFound
from millstream.inference.v1.refusal_pb2 import Refusal, RefusalLift
from millstream.operations.v1.stored_pb2 import Claim
from millstream.timestamps import now
from servicekit.blobs.port import Blobs
from servicekit.blobs.stored import decode
from servicekit.failpoints import failpoint
from servicekit.ids import new_id
from servicekit.processes import is_running, this_process


class Store:
    """Reads and writes refusals, lifts and load attempts."""

    def __init__(self, blobs: Blobs, load_limit_seconds: float) -> None:
        self.blobs, self.load_limit_seconds = blobs, load_limit_seconds
        self._held: set[str] = set()

    async def refusal(self, model: str, version: int) -> Refusal | None:
        """Why no replica may serve the version; None when it is not refused. Read anew each time: it may be lifted.

        Raises DataLoss.
        """
        key = f"{_folder(model, version)}/refusal"
        try:
            return decode(Refusal, await self.blobs.get(key), key)
        except NotFound:
            return None

    async def refuse(self, model: str, version: int, digest: str, reason: str) -> Refusal:
        """Refuse a version in all replicas; returns the refusal that holds, which is the first one."""
        refusal = Refusal(model=model, version=version, artifact_digest=digest, reason=reason, time=now())
        if not await self.blobs.put_if_absent(f"{_folder(model, version)}/refusal", refusal.SerializeToString()):
            refusal = await self.refusal(model, version) or refusal
        failpoint("inference.refused")
        return refusal

    async def lift(self, model: str, version: int, actor: str, note: str) -> RefusalLift:
        """Record the lift, then delete the refusal and the attempts of dead processes. Repeated, it ends the same."""
        lift = RefusalLift(model=model, version=version, actor=actor, note=note, time=now())
        with suppress(DataLoss):  # a lift needs no reason to be read
            if refusal := await self.refusal(model, version):
                lift.refusal.CopyFrom(refusal)
        await self.blobs.put(f"{_folder(model, version)}/lifts/{new_id()}", lift.SerializeToString())
        # A lift cut off here leaves the refusal, and is asked for again.
        await self.blobs.delete(f"{_folder(model, version)}/refusal")
        async for attempt in self.blobs.list(_attempts(model, version)):
            await self.blobs.delete(attempt.key)
        return lift

    async def lifts(self, model: str, version: int) -> int:
        """How often a version was lifted: a replica that could not load it tries again when the number has grown."""
        return len([listed async for listed in self.blobs.list(f"{_folder(model, version)}/lifts/")])

    @asynccontextmanager
    async def attempt(self, model: str, version: int) -> AsyncIterator[int]:
        """Record that this process loads the version while inside; yields how many of this host died in a row loading it.

        In a row: each began after the one before was dead. So several that die at once, as when the power goes, count as
        one, and deaths on other hosts say nothing about this one. Attempts are kept until a load succeeds: see forgive().
        """
        dead = max(
            (claim.number or 1 for _, claim in await self._dead(model, version) if _is_of_here(claim)), default=0
        )
        key = f"{_attempts(model, version)}{new_id()}"
        claim = Claim(number=dead + 1, process=this_process(), time=now())
        self._held.add(key)
        try:
            await self.blobs.put(key, claim.SerializeToString())
            failpoint("inference.attempted")
            yield dead
        finally:
            self._held.discard(key)
            # An attempt left behind does not count while this process runs, and the next attempt removes it.
            with suppress(MillstreamError):
                await self.blobs.delete(key)

    async def forgive(self, model: str, version: int) -> None:
        """Delete the attempts of dead processes: the version was loaded, so they died for other reasons."""
        for key, _ in await self._dead(model, version):
            await self.blobs.delete(key)

    async def _dead(self, model: str, version: int) -> list[tuple[str, Claim]]:
        """Attempts whose process is proved dead, or that are older than load_limit_seconds by the store's clock.

        In a pod only the age decides: a restarted container cannot see the process that ran in it before.
        """
        found = [listed async for listed in self.blobs.list(_attempts(model, version))]
        newest = max((listed.modified for listed in found), default=0.0)
        dead = []
        for listed in found:
            if listed.key in self._held:
                continue
            with suppress(NotFound):
                claim = await self._claim(listed.key)
                if claim.process == this_process():
                    await self.blobs.delete(listed.key)
                    continue
                running = is_running(claim.process)
                if running is False or (running is None and newest - listed.modified > self.load_limit_seconds):
                    dead.append((listed.key, claim))
        return dead

    async def _claim(self, key: str) -> Claim:
        """Of an attempt. Raises NotFound. A damaged one names no process, so that its age decides."""
        try:
            return decode(Claim, await self.blobs.get(key), key)
        except DataLoss:
            return Claim()


def _is_of_here(claim: Claim) -> bool:
    return claim.process.host == this_process().host


def _folder(model: str, version: int) -> str:
    return f"refusals/{model}/{version:010d}"


def _attempts(model: str, version: int) -> str:
    return f"{_folder(model, version)}/attempts/"
