"""Inference's objects: refusals, and the load attempts that lead to one.

`refusals/{model}/{version:010d}/refusal`: put once, by the replica that refused first.
`refusals/{model}/{version:010d}/attempts/{id}`: exists while a process loads the version; left behind when the process dies.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from millstream.errors import MillstreamError, NotFound
from millstream.inference.v1.refusal_pb2 import Refusal
from millstream.operations.v1.stored_pb2 import Claim
from millstream.timestamps import now
from servicekit.blobs.port import Blobs
from servicekit.failpoints import failpoint
from servicekit.ids import new_id
from servicekit.processes import is_running, this_process


class Store:
    """Reads and writes refusals and load attempts; refusals never change, so each is read once."""

    def __init__(self, blobs: Blobs, load_limit_seconds: float) -> None:
        self.blobs, self.load_limit_seconds = blobs, load_limit_seconds
        self._refusals: dict[tuple[str, int], Refusal] = {}
        self._held: set[str] = set()

    async def refusal(self, model: str, version: int) -> Refusal | None:
        """Why the version must not be served; None when no replica has refused it."""
        if (model, version) not in self._refusals:
            with suppress(NotFound):
                stored = await self.blobs.get(f"{_folder(model, version)}/refusal")
                self._refusals[model, version] = Refusal.FromString(stored)
        return self._refusals.get((model, version))

    async def refuse(self, model: str, version: int, digest: str, reason: str) -> Refusal:
        """Refuse a version for good; returns the refusal that holds, which is the first one."""
        refusal = Refusal(model=model, version=version, artifact_digest=digest, reason=reason, time=now())
        key = f"{_folder(model, version)}/refusal"
        if not await self.blobs.put_if_absent(key, refusal.SerializeToString()):
            refusal = Refusal.FromString(await self.blobs.get(key))
        failpoint("inference.refused")
        self._refusals[model, version] = refusal
        return refusal

    @asynccontextmanager
    async def attempt(self, model: str, version: int) -> AsyncIterator[int]:
        """Record that this process loads the version while inside; yields the number of processes that died loading it.

        Their attempts are kept until a load succeeds: see forgive().
        """
        dead = len(await self._dead(model, version))
        key = f"{_attempts(model, version)}{new_id()}"
        claim = Claim(process=this_process(), time=now())
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
        for key in await self._dead(model, version):
            await self.blobs.delete(key)

    async def _dead(self, model: str, version: int) -> list[str]:
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
                process = Claim.FromString(await self.blobs.get(listed.key)).process
                if process == this_process():
                    await self.blobs.delete(listed.key)
                elif is_running(process) is False or newest - listed.modified > self.load_limit_seconds:
                    dead.append(listed.key)
        return dead


def _folder(model: str, version: int) -> str:
    return f"refusals/{model}/{version:010d}"


def _attempts(model: str, version: int) -> str:
    return f"{_folder(model, version)}/attempts/"
