"""Loads a version into memory and checks that it predicts what it did after training, before it serves."""

import asyncio
import json
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from millstream.errors import InvalidArgument, MillstreamError, NotFound
from millstream.registry.v1.model_pb2 import ModelVersion
from recipekit.catalog import Catalog, UnknownRecipe
from recipekit.cleaning import UnknownCleaning, cleaner
from recipekit.predictor import GoldenMismatch, load_artifact, read_cleaning
from servicekit.blobs.artifact_cache import ArtifactCache
from servicekit.blobs.port import Blobs
from services.inference import metrics
from services.inference.engine.batcher import Batcher
from services.inference.engine.queue import Limits
from services.inference.store import Store
from services.inference.versions.serving import LoadedVersion

log = logging.getLogger(__name__)
DEADLY_LOADS = 3


MOST_HUNG = 4
"""Loads that may hang before the process asks for a restart: each holds a thread and the memory that it took."""
_MALFORMED = (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError)
T = TypeVar("T")


class Rejected(Exception):
    """This version must not serve anywhere: the fault is its own."""


class FailedHere(Exception):
    """This replica cannot load the version: its memory, disk, device or packages. Others may, and it may later."""


class _DamagedCopy(Exception):
    """The cached copy of an artifact changed after it was verified, and is gone."""


class Loader:
    """Loads one version at a time from its artifact in the store, through the cache."""

    def __init__(
        self,
        blobs: Blobs,
        store: Store,
        catalog: Catalog,
        cache: Path,
        limits: Limits,
        prepare_pool: Executor,
    ) -> None:
        self.store, self.catalog, self.cache = store, catalog, ArtifactCache(blobs, cache)
        self.limits, self.prepare_pool = limits, prepare_pool
        # One at a time: a load that kills the process counts against the right version, and memory holds one more at most.
        self._one_at_a_time = asyncio.Lock()
        self._hung: dict[tuple[str, int], asyncio.Task[LoadedVersion]] = {}
        """Loads that went on after load_limit_seconds, until they end."""
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def is_stuck(self) -> bool:
        """Whether so many loads hang that only a restart helps; what is served goes on."""
        return len(self._hung) >= MOST_HUNG

    async def load(self, version: ModelVersion) -> LoadedVersion:
        """Fetch, load, check the golden rows, warm up. Raises Rejected, FailedHere, or the store's Unavailable."""
        with suppress(_DamagedCopy):
            return await self._fetch_and_load(version)
        try:
            return await self._fetch_and_load(version)
        except _DamagedCopy as error:
            raise FailedHere(f"{error}, twice: is the disk of {self.cache.folder} sound?") from error

    async def _fetch_and_load(self, version: ModelVersion) -> LoadedVersion:
        digest = version.artifact.digest
        try:
            folder = await self.cache.fetch(digest)
        except InvalidArgument as error:
            raise Rejected(error.text) from error
        except NotFound as error:
            raise FailedHere(error.text) from error
        except OSError as error:
            raise FailedHere(f"artifact {digest} cannot be kept in {self.cache.folder}: {error}") from error
        async with self._one_at_a_time:
            return await self._load_in_time(version, folder)

    async def _load_in_time(self, version: ModelVersion, folder: Path) -> LoadedVersion:
        """Load, and leave a load that does not end: it cannot be killed, but it must not keep others waiting."""
        key, limit = (version.model, version.version), self.store.load_limit_seconds
        if key in self._hung or self.is_stuck:
            raise FailedHere(f"{len(self._hung)} loads hang in this replica: restart it")
        load = asyncio.create_task(self._load(version, folder))
        try:
            await asyncio.wait({load}, timeout=limit)
        except asyncio.CancelledError:
            load.cancel()
            raise
        if load.done():
            return await load
        self._hung[key] = load
        load.add_done_callback(lambda ended: self._drop(key, ended))
        raise FailedHere(
            f"its load has not ended within {limit:g} s, and is left to itself: raise MILLSTREAM_LOAD_LIMIT_SECONDS if the "
            "model needs longer"
        )

    def _drop(self, key: tuple[str, int], late: "asyncio.Task[LoadedVersion]") -> None:
        """Forget a load that has ended too late; its version is loaded anew when its next try is due."""
        del self._hung[key]
        if not late.cancelled() and late.exception() is None:
            closing = asyncio.create_task(late.result().batcher.close())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    async def _load(self, version: ModelVersion, folder: Path) -> LoadedVersion:
        async with self.store.attempt(version.model, version.version) as deaths:
            if deaths >= DEADLY_LOADS:
                raise FailedHere(
                    f"{deaths} processes of this host died in a row while they loaded it: is there enough memory for it? "
                    f"Then `millstream models retry {version.model} {version.version}` lets it be tried again"
                )
            started = time.perf_counter()
            try:
                loaded = await self._read(version, folder)
            except Exception as error:
                raise await self._classify_error(error, version.artifact.digest) from error
            metrics.LOAD_SECONDS.labels(version.model).observe(time.perf_counter() - started)
        try:
            await self.store.forgive(version.model, version.version)
        except MillstreamError as error:
            log.info("old load attempts not deleted", extra={"error": str(error)})
        return loaded

    async def _read(self, version: ModelVersion, folder: Path) -> LoadedVersion:
        clean = cleaner(read_cleaning(folder))
        spec, predictor = await _in_own_thread(lambda: load_artifact(folder, self.catalog))
        rows = json.loads((folder / "golden.json").read_text())["rows"]
        batcher = Batcher(version.model, predictor, self.limits, self.prepare_pool)
        try:
            prediction = await batcher.warm_up(rows)
        except BaseException:
            await batcher.close()
            raise
        labels = (prediction or {}).get("scores", ())
        return LoadedVersion(version, spec, predictor, batcher, tuple(labels), clean)

    async def _classify_error(self, error: Exception, digest: str) -> Exception:
        """What to raise for an error of loading. Only what can be nothing but the version's own fault is Rejected."""
        if isinstance(error, UnknownRecipe | UnknownCleaning | ImportError):
            return FailedHere(f"this inference cannot load it: {error}. Deploy one whose image has it")
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            return FailedHere(f"no memory for artifact {digest} now: {error}")
        try:
            if not await self.cache.verify(digest):
                return _DamagedCopy(f"the cached copy of artifact {digest} was damaged or removed while it was loaded")
        except OSError as failure:
            return FailedHere(f"artifact {digest} cannot be read in {self.cache.folder}: {failure}")
        if isinstance(error, GoldenMismatch):
            return Rejected(str(error))
        text = f"it cannot be loaded: {type(error).__name__}: {error}"
        if isinstance(error, _MALFORMED) or type(error).__name__ == "SafetensorError":
            return Rejected(text)
        # For example a CUDA error, which torch raises as a RuntimeError like any other.
        return FailedHere(text)


async def _in_own_thread(work: Callable[[], T]) -> T:
    """Run `work` in a thread that takes no other's place if it hangs, and does not keep the process from ending."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def end(give: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(lambda: None if done.done() else give())

    def run() -> None:
        try:
            result = work()
        except BaseException as error:  # also SystemExit of a library: it must end the load, not the loop
            known = error if isinstance(error, Exception) else RuntimeError(repr(error))
            end(partial(done.set_exception, known))
        else:
            end(lambda: done.set_result(result))

    threading.Thread(target=run, daemon=True, name="load").start()
    return await done
