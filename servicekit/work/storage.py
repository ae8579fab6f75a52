"""How much a service has stored, by kind, and the deletion of what is kept no longer.

One listing of the service's objects does both: a minute after its start, when it has compared all that is stored, and then
as often as it does. So its cost grows with what is stored, as that of a comparison in full does (resync.py).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field

from servicekit import metrics
from servicekit.blobs.artifacts import manifests_first
from servicekit.blobs.patterns import folder_of, matcher
from servicekit.blobs.port import Blobs, Listed
from servicekit.concurrency import in_order
from servicekit.facts.markers import store_time
from servicekit.work.resync import FULL_RESYNC_SECONDS, Resync

log = logging.getLogger(__name__)
FIRST_SECONDS = 60.0
"""After a start, which has more urgent work."""
ATTEMPTS_SECONDS = 86_400.0
"""How long claims and heartbeats are kept whose work has ended, for those who look into how it went."""
LONGEST_KEEP_SECONDS = 36_525 * 86_400.0
"""A hundred years."""
AT_ONCE = 10_000
"""Objects that one question about their owners is for; it may cost a comparison of all of these."""
Over = Callable[[Sequence[Listed]], Awaitable[Iterable[str]]]
"""Of objects that are old enough the keys of those that nobody needs, because what they belong to has ended."""


@dataclass(frozen=True)
class Kind:
    """Objects of one kind, told by the patterns of their keys; the first kind that matches has a key."""

    name: str
    patterns: tuple[str, ...]
    keep_seconds: float | None = None
    """How long an object is kept at least, since it was last written; None: for ever."""
    over: Over | None = None
    """Which older ones are deleted. Given with `keep_seconds`."""

    def has(self, key: str) -> bool:
        """Whether the key is of this kind."""
        return any(matcher(pattern).fullmatch(key) for pattern in self.patterns)


@dataclass
class Total:
    """Objects, and their bytes together."""

    objects: int = 0
    size_bytes: int = 0

    def add(self, listed: Listed) -> None:
        """Count one object."""
        self.objects += 1
        self.size_bytes += listed.size

    def subtract(self, listed: Listed) -> None:
        """Count one object no more."""
        self.objects -= 1
        self.size_bytes -= listed.size


@dataclass
class Stored:
    """What the last listing found of one kind, and what this process has deleted of it."""

    kind: Kind
    total: Total = field(default_factory=Total)
    deleted: Total = field(default_factory=Total)


class Storage:
    """The objects of one service."""

    def __init__(self, blobs: Blobs, service: str, kinds: Sequence[Kind], seconds: float = FULL_RESYNC_SECONDS) -> None:
        """`seconds`: between two listings."""
        self.blobs, self.service, self.seconds = blobs, service, seconds
        self.kinds = [*kinds, *of_every_service(service)]
        self.stored = {kind.name: Stored(kind) for kind in self.kinds}
        self.listed_at = 0.0
        """The end of the last listing, in seconds of the store's clock; 0: there was none yet."""

    async def run(self) -> None:
        """List and delete until cancelled."""
        await asyncio.sleep(min(FIRST_SECONDS, self.seconds))
        await Resync("storage", self.look, lambda _: self.seconds).run()

    async def look(self) -> None:
        """List everything, and delete what is kept no longer. Raises Unavailable."""
        now = await store_time(self.blobs, self.service)
        totals = {kind.name: Total() for kind in self.kinds}
        for folder in sorted({folder_of(pattern) for kind in self.kinds for pattern in kind.patterns}):
            old: dict[str, list[Listed]] = {}
            async for listed in self.blobs.list(folder):
                kind = next((kind for kind in self.kinds if kind.has(listed.key)), None)
                if kind is None:
                    continue
                totals[kind.name].add(listed)
                if kind.keep_seconds is not None and now - listed.modified >= kind.keep_seconds:
                    old.setdefault(kind.name, []).append(listed)
                    if len(old[kind.name]) == AT_ONCE:
                        await self._delete(kind, old.pop(kind.name), totals[kind.name])
            for name, rest in old.items():
                await self._delete(self.stored[name].kind, rest, totals[name])
        for name, total in totals.items():
            self.stored[name].total = total
            metrics.STORED_BYTES.labels(name).set(total.size_bytes)
            metrics.STORED_OBJECTS.labels(name).set(total.objects)
        self.listed_at = now

    async def _delete(self, kind: Kind, old: Sequence[Listed], total: Total) -> None:
        """Delete those of the old objects that nobody needs."""
        over = set(await kind.over(old)) if kind.over else set()
        doomed = [listed for listed in old if listed.key in over]
        async for _ in in_order(self.blobs.delete, manifests_first(listed.key for listed in doomed)):
            pass
        for listed in doomed:
            total.subtract(listed)
            self.stored[kind.name].deleted.add(listed)
            metrics.STORAGE_DELETED.labels(kind.name).inc(listed.size)
        if doomed:
            freed = sum(listed.size for listed in doomed)
            log.info(
                "deleted what is kept no longer", extra={"kind": kind.name, "objects": len(doomed), "bytes": freed}
            )


async def of_ended(
    old: Sequence[Listed], owner: Callable[[str], str], has_ended: Callable[[str], Awaitable[bool]]
) -> list[str]:
    """The keys of those objects whose owner, which their key names, has ended. Each owner is asked about once."""
    owners = sorted({owner(listed.key) for listed in old})
    ended = dict(zip(owners, [each async for each in in_order(has_ended, owners)], strict=True))
    return [listed.key for listed in old if ended[owner(listed.key)]]


def of_every_service(service: str) -> list[Kind]:
    """The kinds that every service has, beside its own."""
    return [
        Kind("markers", (f"open/{service}/*", f"outbox/{service}/*", f"outbox-parked/{service}/*")),
        Kind("dead-letters", (f"dead-letters/{service}/*",)),
        Kind("clock", (f"clock/{service}",)),
    ]
