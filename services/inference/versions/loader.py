"""Loads a version into memory and checks that it predicts what it did after training, before it serves."""

import asyncio
import json
import logging
import time
from concurrent.futures import Executor
from pathlib import Path

from millstream.errors import InvalidArgument, MillstreamError, Unavailable
from millstream.registry.v1.model_pb2 import ModelVersion
from recipekit.catalog import Catalog, UnknownRecipe
from recipekit.cleaning import UnknownCleaning, cleaner
from recipekit.predictor import GoldenMismatch, load_artifact, read_cleaning
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
    """This version must not serve: a retry will not help."""


class MissingRecipe(Exception):
    """This replica lacks a recipe, package or cleaning that the version needs; after an upgrade it may have it."""


class Loader:
    """Loads one version at a time from its artifact in the store, through the cache."""

    def __init__(
        self, blobs: Blobs, store: Store, catalog: Catalog, cache: Path, limits: Limits, prepare_pool: Executor
    ) -> None:
        self.store, self.catalog, self.cache = store, catalog, ArtifactCache(blobs, cache)
        self.limits, self.prepare_pool = limits, prepare_pool
        # One at a time: a load that kills the process counts against the right version, and memory holds one more at most.
        self._one_at_a_time = asyncio.Lock()

    async def load(self, version: ModelVersion) -> LoadedVersion:
        """Fetch, load, check the golden rows, warm up. Raises Rejected, MissingRecipe, or an error that a retry may fix."""
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
                raise await self._classify_error(error, digest, folder) from error
            metrics.LOAD_SECONDS.labels(version.model).observe(time.perf_counter() - started)
        try:
            await self.store.forgive(version.model, version.version)
        except MillstreamError as error:
            log.info("old load attempts not deleted", extra={"error": str(error)})
        return loaded

    async def _load(self, version: ModelVersion, folder: Path) -> LoadedVersion:
        clean = cleaner(read_cleaning(folder))
        spec, predictor = await asyncio.to_thread(load_artifact, folder, self.catalog)
        rows = json.loads((folder / "golden.json").read_text())["rows"]
        batcher = Batcher(version.model, predictor, self.limits, self.prepare_pool)
        try:
            prediction = await batcher.warm_up(rows)
        except BaseException:
            await batcher.close()
            raise
        labels = (prediction or {}).get("scores", ())
        return LoadedVersion(version, spec, predictor, batcher, tuple(labels), clean)

    async def _classify_error(self, error: Exception, digest: str, folder: Path) -> Exception:
        """What to raise for an error of loading: Rejected when it is the version's, else what a retry may fix."""
        if isinstance(error, UnknownRecipe | UnknownCleaning | ImportError):
            return MissingRecipe(f"this inference cannot load it: {error}. Deploy one whose image has it")
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            return Unavailable(f"no memory for artifact {digest} now: {error}")
        try:
            intact = (await asyncio.to_thread(describe, folder)).digest == digest
        except OSError:
            intact = False
        if not intact:
            await asyncio.to_thread(self.cache.remove, digest)
            return Unavailable(f"the cached copy of artifact {digest} is damaged or was removed: it is fetched again")
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            return Unavailable(f"artifact {digest} cannot be read now: {error}")
        if isinstance(error, GoldenMismatch):
            return Rejected(str(error))
        return Rejected(f"it cannot be loaded: {type(error).__name__}: {error}")
