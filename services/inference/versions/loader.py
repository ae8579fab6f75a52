"""Brings a version into memory and proves that it answers as it was trained, before anybody asks it."""

import asyncio
import json
import logging
import time
from concurrent.futures import Executor
from pathlib import Path

from millstream.errors import InvalidArgument, MillstreamError, Unavailable
from millstream.registry.v1.model_pb2 import ModelVersion
from recipekit.catalog import Catalog, UnknownRecipe
from recipekit.predictor import GoldenMismatch, load_artifact
from servicekit.blobs.artifact_cache import ArtifactCache
from servicekit.blobs.artifacts import describe
from servicekit.blobs.port import Blobs
from services.inference import metrics
from services.inference.engine.batcher import Batcher
from services.inference.engine.queue import Limits
from services.inference.store import Store
from services.inference.versions.serving import LoadedVersion

log = logging.getLogger(__name__)
DEADLY_LOADS = 3


class Rejected(Exception):
    """This version must not serve: trying again will not help."""


class MissingRecipe(Exception):
    """This replica lacks what the version needs; another, or this one after an upgrade, may have it."""


class Loader:
    def __init__(
        self, blobs: Blobs, store: Store, catalog: Catalog, cache: Path, limits: Limits, prepare_pool: Executor
    ) -> None:
        self.store, self.catalog, self.cache = store, catalog, ArtifactCache(blobs, cache)
        self.limits, self.prepare_pool = limits, prepare_pool
        # One at a time: so a load that kills the process is counted against the right version, and memory is spared.
        self._one_at_a_time = asyncio.Lock()

    async def load(self, version: ModelVersion) -> LoadedVersion:
        """Fetch, load, check the golden rows, warm up. Raises Refused, NotHere, or what a later try may mend."""
        digest = version.artifact.digest
        try:
            folder = await self.cache.fetch(digest)
        except InvalidArgument as error:
            raise Rejected(error.text) from error
        except OSError as error:
            raise Unavailable(f"artifact {digest} cannot be kept in {self.cache.folder}: {error}") from error
        async with self._one_at_a_time, self.store.attempt(version.model, version.version) as dead:
            if dead >= DEADLY_LOADS:
                raise Rejected(f"{dead} processes died while they loaded it: is there enough memory for it?")
            started = time.perf_counter()
            try:
                loaded = await self._load(version, folder)
            except Exception as error:
                raise await self._judge(error, version.artifact.digest, folder) from error
            metrics.LOAD_SECONDS.labels(version.model).observe(time.perf_counter() - started)
        try:
            await self.store.forgive(version.model, version.version)
        except MillstreamError as error:
            log.info("old attempts stay", extra={"error": str(error)})
        return loaded

    async def _load(self, version: ModelVersion, folder: Path) -> LoadedVersion:
        spec, predictor = await asyncio.to_thread(load_artifact, folder, self.catalog)
        rows = json.loads((folder / "golden.json").read_text())["rows"]
        batcher = Batcher(version.model, predictor, self.limits, self.prepare_pool)
        try:
            prediction = await batcher.warm_up(rows)
        except BaseException:
            await batcher.close()
            raise
        labels = (prediction or {}).get("scores", ())
        return LoadedVersion(version, spec, predictor, batcher, tuple(labels))

    async def _judge(self, error: Exception, digest: str, folder: Path) -> Exception:
        """Whether an error of loading is the version's, or of this machine and this moment."""
        told = (
            str(error) if isinstance(error, GoldenMismatch) else f"it cannot be loaded: {type(error).__name__}: {error}"
        )
        if isinstance(error, UnknownRecipe | ImportError):
            return MissingRecipe(f"this inference cannot load it: {error}. Deploy one whose image has that")
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            return Unavailable(f"no memory for artifact {digest} now: {error}")
        try:
            intact = (await asyncio.to_thread(describe, folder)).digest == digest
        except OSError:
            intact = False
        if not intact:
            await asyncio.to_thread(self.cache.remove, digest)
            return Unavailable(f"the cached copy of artifact {digest} is damaged or was removed: it is fetched anew")
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            return Unavailable(f"artifact {digest} cannot be read now: {error}")
        return Rejected(told)
