"""Prunes the cache of artifacts that are not served."""

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass

from typing_extensions import override

from millstream.errors import MillstreamError
from servicekit.blobs.artifact_cache import ArtifactCache
from servicekit.work.keys import Key
from servicekit.work.queue import Reconciler
from services.inference.versions.serving import Serving

log = logging.getLogger(__name__)
PRUNE_SECONDS = 30.0


@dataclass(frozen=True)
class CacheKey(Key):
    """The cache of artifacts on this machine."""

    kind = "cache"


class PruneCache(Reconciler[CacheKey]):
    """Artifacts that are not served leave the cache after a while: a rollback within it needs no download."""

    kind = CacheKey.kind

    def __init__(self, cache: ArtifactCache, serving: Serving, keep_seconds: float) -> None:
        self.cache, self.serving, self.keep_seconds = cache, serving, keep_seconds

    @override
    async def pending(self) -> AsyncIterator[CacheKey]:
        yield CacheKey()

    @override
    async def reconcile(self, key: CacheKey) -> float:
        gone = await asyncio.to_thread(self.cache.remove_unused, self.keep_seconds, self.serving.digests())
        if gone:
            log.info("cache pruned", extra={"artifacts": gone})
        return PRUNE_SECONDS

    @override
    async def end(self, key: CacheKey, error: MillstreamError) -> bool:
        log.warning("cache not pruned", extra={"error": error.text})
        return False
